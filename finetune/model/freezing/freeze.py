"""Which parts of a model learn: freezing that freezes parameters and buffers, and a table that says so."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from finetune.errors import ModelError
from finetune.model.backbone.network import name_without_tower
from finetune.model.freezing.selectors import Selector, select_parameters
from finetune.model.freezing.stages import Stage


class StagedModel(Protocol):
    """A module that is cut into stages, ordered from input to output, and knows how its batch norm learns."""

    stages: dict[str, Stage]
    batch_norm: str
    training: bool

    def train(self, mode: bool = True) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Any]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


def set_trainable(model: StagedModel, what: Selector, *, batch_norm: str = "frozen") -> list[str]:
    """Let some parts learn and freeze all others; the names of the stages in which something learns.

    `what` is one of
    `head`: all that is new, temporal pooling and head · a stage: that and all after it · `last(n)`: the last n stages
    of the backbone and all that is new · a share of the depth, 0…1: so many of the last stages, and all that is new ·
    `all` · `match(regex)`: the parameters in whose name, as the backbone gives it, the expression is found ·
    a list of these, in which a stage, `head` and `last(n)` are meant alone (surgical: arXiv:2210.11466).
    `lora(r=8)` is a phase's: see `finetune.model.lora`.

    A stage in which nothing learns keeps every parameter and buffer, and stays in evaluation mode whatever `.train()`
    says. `batch_norm` says what the running statistics of the others do: kept (`frozen`), kept but for the network's
    first (`partial`, TSN arXiv:1608.00859), or updated (`train`); scale and shift learn with their stage. A layer
    whose own scale and shift are frozen keeps its statistics too. Raises ModelError for what is not there.
    """
    assert batch_norm in {"frozen", "partial", "train"}, batch_norm
    learning = select_parameters(model.stages, what)
    if not learning:
        raise ModelError(f"{what!r} names nothing that this model could learn; it has {', '.join(model.stages)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
        if name not in learning:
            parameter.grad = None
    model.batch_norm = batch_norm
    model.train(model.training)
    return trainable_stages(model)


def trainable_stages(model: StagedModel) -> list[str]:
    """The stages that learn now: those with a parameter that takes a gradient."""
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [name for name, stage in model.stages.items() if not learning.isdisjoint(stage.parameters)]


def set_frozen_to_eval(model: StagedModel) -> None:
    """Put what must not move into evaluation mode: all modules of frozen stages, and batch norm by the model's rule."""
    learning = set(trainable_stages(model))
    modules = dict(model.named_modules())
    norms = [name for name, module in modules.items() if has_running_stats(module)]
    first = [name for name in norms if name_without_tower(name) == name_without_tower(norms[0])]
    moving = {"frozen": [], "partial": first, "train": norms}[model.batch_norm]
    for stage_name, stage in model.stages.items():
        for name in stage.modules:
            module = modules[name]
            if stage_name not in learning or (
                has_running_stats(module) and (name not in moving or _has_frozen_affine(module))
            ):
                module.training = False


def has_running_stats(module: nn.Module) -> bool:
    """Whether a layer normalises by running statistics: batch norm of any dimension or library, SyncBatchNorm."""
    return any(module._buffers.get(name) is not None for name in ("running_mean", "running_var"))


def describe(model: StagedModel, groups: Sequence[Mapping[str, Any]] = ()) -> str:
    """A table of the stages: parameters, how many of them learn, what batch norm does, the rate by `param_groups`."""
    parameters = dict(model.named_parameters())
    rates = {group["stage"]: group["lr"] for group in groups}
    learns = set(trainable_stages(model))
    lines = [("stage", "parameters", "learning", "batch norm", "rate" if rates else "")]
    for name, stage in model.stages.items():
        count = sum(parameters[each].numel() for each in stage.parameters)
        learning = sum(parameters[each].numel() for each in stage.parameters if parameters[each].requires_grad)
        share = "frozen" if not learning else "all" if learning == count else f"{learning:,}"
        rate = f"{rates[name]:.2g}" if name in rates else ""
        lines.append((name, f"{count:,}", share, _batch_norm_mode(model, stage, learns=name in learns), rate))
    total = sum(parameter.numel() for parameter in parameters.values())
    learning = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    lines.append(("in all", f"{total:,}", f"{learning:,}", "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in (1, 2, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _batch_norm_mode(model: StagedModel, stage: Stage, *, learns: bool) -> str:
    """What the stage's batch norms do in training; `set_frozen_to_eval` decides it."""
    modules = dict(model.named_modules())
    norms = [modules[name] for name in stage.modules if has_running_stats(modules[name])]
    if not norms:
        return "none"
    before = model.training
    model.train(True)
    moving = sum(norm.training for norm in norms)
    model.train(before)
    return "frozen" if not moving or not learns else "train" if moving == len(norms) else f"{moving} of {len(norms)}"


def _has_frozen_affine(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
