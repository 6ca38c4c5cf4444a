"""Freezing of stages: no gradients, running statistics kept, evaluation mode; and a table of what is trainable."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from finetune.arguments import check_arguments
from finetune.errors import ModelError, suggest_similar
from finetune.model.backbone.network import name_without_tower
from finetune.model.freezing.selectors import Selector, select_parameters
from finetune.model.freezing.stages import Stage, refuse_unknown_parameters

BATCH_NORM_MODES = ("frozen", "partial", "train")


@runtime_checkable
class StagedModel(Protocol):
    """A module with stages, ordered from input to output; `batch_norm` is the mode that `set_trainable` was given."""

    stages: dict[str, Stage]
    batch_norm: str
    training: bool

    def train(self, mode: bool = True) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Any]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


@check_arguments
def set_trainable(model: StagedModel, what: Selector, *, batch_norm: str = "frozen") -> list[str]:
    """Make some parameters trainable and freeze all others. Returns the names of the trainable stages.

    `what` is one of
    `head`: the new parts, temporal pooling and head · a stage: it and all later stages · `last(n)`: the backbone's last
    n stages and the new parts · a number 0…1: this share of the backbone's stages, the last ones, and the new parts ·
    `all` · `match(regex)`: parameters whose name in the backbone matches · a list of these, in which a stage, `head`
    and `last(n)` mean only themselves (surgical fine-tuning, arXiv:2210.11466). `lora(r=8)` is for phases of a recipe:
    see `finetune.model.lora`.

    A stage without trainable parameters keeps every parameter and buffer bit for bit, and stays in evaluation mode
    whatever `.train()` says. `batch_norm` sets what running statistics in trainable stages do: `frozen` keeps them,
    `partial` updates those of the network's first batch norm only (TSN, arXiv:1608.00859), `train` updates all. Scale
    and shift train with their stage; where they are frozen, the layer keeps its statistics too. Raises ModelError for
    an unknown stage or a pattern without match.
    """
    if batch_norm not in BATCH_NORM_MODES:
        known = ", ".join(BATCH_NORM_MODES)
        raise ModelError(f"batch_norm is {batch_norm!r}{suggest_similar(batch_norm, BATCH_NORM_MODES)}; it is {known}")
    refuse_unknown_parameters(model.stages, (name for name, _ in model.named_parameters()))
    trainable = select_parameters(model.stages, what)
    if not trainable:
        raise ModelError(f"{what!r} selects no parameter of this model; its stages are {', '.join(model.stages)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
        if name not in trainable:
            parameter.grad = None
    model.batch_norm = batch_norm
    model.train(model.training)
    return trainable_stages(model)


def trainable_stages(model: StagedModel) -> list[str]:
    """Names of the stages that have a trainable parameter now."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [name for name, stage in model.stages.items() if not trainable.isdisjoint(stage.parameters)]


def set_frozen_to_eval(model: StagedModel) -> None:
    """Put into evaluation mode all modules of frozen stages, and batch norms that keep their running statistics."""
    trainable = set(trainable_stages(model))
    modules = dict(model.named_modules())
    norms = [name for name, module in modules.items() if has_running_stats(module)]
    updated = [] if model.batch_norm == "frozen" else norms
    if model.batch_norm == "partial" and norms:
        first = name_without_tower(norms[0])
        updated = [name for name in norms if name_without_tower(name) == first]
    for stage_name, stage in model.stages.items():
        for name in stage.modules:
            module = modules[name]
            keeps_stats = has_running_stats(module) and (name not in updated or _has_frozen_affine(module))
            if stage_name not in trainable or keeps_stats:
                module.training = False


def has_running_stats(module: nn.Module) -> bool:
    """Whether a layer has running statistics: batch norm of any dimension or library, SyncBatchNorm."""
    return any(module._buffers.get(name) is not None for name in ("running_mean", "running_var"))


@check_arguments
def describe(model: StagedModel, groups: Sequence[Mapping[str, Any]] = ()) -> str:
    """A text table of the stages: parameters, trainable ones, batch norm, and the learning rate by `param_groups`."""
    parameters = dict(model.named_parameters())
    rates = {group["stage"]: group["lr"] for group in groups}
    trainable = set(trainable_stages(model))
    lines = [("stage", "parameters", "trainable", "batch norm", "lr" if rates else "")]
    for name, stage in model.stages.items():
        count, learning = _count([parameters[parameter] for parameter in stage.parameters])
        share = "frozen" if not learning else "all" if learning == count else f"{learning:,}"
        rate = f"{rates[name]:.2g}" if name in rates else ""
        lines.append((name, f"{count:,}", share, _batch_norm_mode(model, stage, trainable=name in trainable), rate))
    count, learning = _count(parameters.values())
    lines.append(("total", f"{count:,}", f"{learning:,}", "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in (1, 2, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _count(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """How many numbers parameters have, and how many of them are trainable."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in parameters]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)


def _batch_norm_mode(model: StagedModel, stage: Stage, *, trainable: bool) -> str:
    """What the stage's running statistics do in training: none, frozen, train (updated), or how many are updated."""
    modules = dict(model.named_modules())
    norms = [modules[name] for name in stage.modules if has_running_stats(modules[name])]
    if not norms:
        return "none"
    before = model.training
    model.train(True)
    updated = sum(norm.training for norm in norms)
    model.train(before)
    if not updated or not trainable:
        return "frozen"
    return "train" if updated == len(norms) else f"{updated} of {len(norms)}"


def _has_frozen_affine(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
