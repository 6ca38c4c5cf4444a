"""Which stages of a model learn: freezing that freezes parameters and buffers, and the groups of an optimizer."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.errors import ModelError, nearest

NEW = ("temporal", "head")
LAST = re.compile(r"last\((\d+)\)")


@dataclass(frozen=True)
class Stage:
    """A freezable part: names of its parameters, buffers and modules in the model."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]


class Staged(Protocol):
    """A module that is cut into stages, ordered from input to output, and knows how its BatchNorm learns."""

    stages: dict[str, Stage]
    batch_norm: str
    training: bool

    def train(self, mode: bool = True) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Any]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


def set_trainable(model: Staged, what: str | Sequence[str], *, batch_norm: str = "frozen") -> list[str]:
    """Let some stages learn and freeze all others; the names of those that learn.

    `what`: `head` (all that is new: temporal pooling and head) · a stage (that and all after it) · `last(n)` (the
    last n stages of the backbone and all that is new) · `all` · a list (those stages alone). A frozen stage keeps
    every parameter and buffer, and stays in evaluation mode whatever `.train()` says. `batch_norm` says what the
    running statistics of the learning stages do: kept (`frozen`), kept but for the network's first (`partial`, TSN
    arXiv:1608.00859), or updated (`train`); scale and shift learn with their stage. Raises ModelError for a stage
    that is not there.
    """
    assert batch_norm in {"frozen", "partial", "train"}, batch_norm
    learning = learning_stages_of(tuple(model.stages), what)
    parameters = dict(model.named_parameters())
    for name, stage in model.stages.items():
        for parameter in stage.parameters:
            parameters[parameter].requires_grad_(name in learning)
            if name not in learning:
                parameters[parameter].grad = None
    model.batch_norm = batch_norm
    model.train(model.training)
    return learning


def learning_stages_of(stages: Sequence[str], what: str | Sequence[str]) -> list[str]:
    """The stages that `what` names, in the order of `stages`; see `set_trainable`."""
    if not isinstance(what, str):
        unknown = [name for name in what if name not in stages]
        if unknown:
            raise ModelError(
                f"unknown stage {unknown[0]!r}{nearest(unknown[0], stages)}; there are {', '.join(stages)}"
            )
        return [name for name in stages if name in what]
    new = [name for name in stages if name in NEW]
    backbone = [name for name in stages if name not in NEW]
    last = LAST.fullmatch(what.replace(" ", ""))
    if what == "all":
        return list(stages)
    if what in NEW:
        return new
    if last and int(last[1]) <= len(backbone):
        return backbone[len(backbone) - int(last[1]) :] + new
    if what in stages:
        return list(stages[list(stages).index(what) :])
    known = ", ".join([*stages, "all", f"last(n) with n up to {len(backbone)}"])
    raise ModelError(f"unknown stage {what!r}{nearest(what, stages)}; there are {known}")


def learning_stages(model: Staged) -> list[str]:
    """The stages that learn now: those with a parameter that takes a gradient."""
    parameters = dict(model.named_parameters())
    return [
        name
        for name, stage in model.stages.items()
        if any(parameters[parameter].requires_grad for parameter in stage.parameters)
    ]


def hold_frozen(model: Staged) -> None:
    """Put what must not move into evaluation mode: all modules of frozen stages, and BatchNorm by the model's rule."""
    learning = set(learning_stages(model))
    modules = dict(model.named_modules())
    norms = [name for name, module in modules.items() if isinstance(module, _BatchNorm)]
    moving = {"frozen": [], "partial": norms[:1], "train": norms}[model.batch_norm]
    for stage_name, stage in model.stages.items():
        for name in stage.modules:
            held = stage_name not in learning or (name in norms and name not in moving)
            if held:
                modules[name].training = False


def param_groups(
    model: Staged, *, lr: float, weight_decay: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer, `<stage>/decay` and `<stage>/no_decay`, of exactly the parameters that learn.

    Biases, norms and other vectors, position embeddings and class tokens have no weight decay. The new parts learn
    at `lr`, the backbone's last stage at `lr` × `layer_decay`, and each before it at one factor more.
    """
    parameters = dict(model.named_parameters())
    backbone = [name for name in model.stages if name not in NEW]
    groups: dict[str, dict[str, Any]] = {}
    for stage_name in learning_stages(model):
        steps = len(backbone) - backbone.index(stage_name) if stage_name in backbone else 0
        for name in model.stages[stage_name].parameters:
            if not parameters[name].requires_grad:
                continue
            decays = parameters[name].ndim > 1 and not re.search(r"pos_embed|position|token", name)
            group_name = f"{stage_name}/{'decay' if decays else 'no_decay'}"
            settings = {
                "stage": stage_name,
                "lr": lr * layer_decay**steps,
                "weight_decay": weight_decay * decays,
            }
            group = groups.setdefault(group_name, {"name": group_name, "params": [], **settings})
            group["params"].append(parameters[name])
    held = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in parameters.values() if parameter.requires_grad}
    return list(groups.values())


def cut_into_stages(model: nn.Module, stage_of: Mapping[str, str]) -> dict[str, Stage]:
    """Stages from the stage of each parameter, ordered as first named; buffers and modules go where they belong.

    A module with parameters of its own belongs to their stage. Any other belongs to the stage of its nearest
    ancestor all of whose parameters are of one stage, else to that of the parameters before it.
    """
    modules = dict(model.named_modules())
    before = next(iter(stage_of.values()))
    stage_of_module: dict[str, str] = {}
    for name, module in modules.items():
        own = [stage_of[_join(name, parameter)] for parameter, _ in module.named_parameters(recurse=False)]
        within = {stage_of[_join(name, parameter)] for parameter, _ in module.named_parameters()}
        parent = stage_of_module.get(name.rpartition(".")[0]) if name else None
        parent_is_one = parent is not None and _is_one_stage(name.rpartition(".")[0], modules, stage_of)
        if own:
            before = own[-1]
        elif len(within) == 1:
            before = next(iter(within))
        stage_of_module[name] = own[0] if own else parent if not within and parent_is_one and parent else before
    stages: dict[str, dict[str, list[str]]] = {}
    for stage in dict.fromkeys(stage_of.values()):
        stages[stage] = {"parameters": [], "buffers": [], "modules": []}
    for name, _ in model.named_parameters():
        stages[stage_of[name]]["parameters"].append(name)
    for name, _ in model.named_buffers():
        stages[stage_of_module[name.rpartition(".")[0]]]["buffers"].append(name)
    for name, module in modules.items():
        # A module around several stages has no mode of its own; any other may read its mode in its forward.
        within = {stage_of[_join(name, parameter)] for parameter, _ in module.named_parameters()}
        if len(within) < 2:
            stages[stage_of_module[name]]["modules"].append(name)
    return {
        name: Stage(tuple(part["parameters"]), tuple(part["buffers"]), tuple(part["modules"]))
        for name, part in stages.items()
    }


def _is_one_stage(name: str, modules: Mapping[str, nn.Module], stage_of: Mapping[str, str]) -> bool:
    return len({stage_of[_join(name, parameter)] for parameter, _ in modules[name].named_parameters()}) == 1


def _join(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
