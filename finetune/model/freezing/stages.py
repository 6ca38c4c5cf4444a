"""Stages: the parts of a model that are frozen or trained as one; each parameter and buffer belongs to one stage."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from finetune.errors import ModelError, shorten_list

HEAD_STAGES = ("pyramid", "temporal", "head")


@dataclass(frozen=True)
class Stage:
    """Names, in the model, of a stage's parameters, buffers and modules."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]


def split_into_stages(model: nn.Module, stage_of: Mapping[str, str]) -> dict[str, Stage]:
    """Stages from the stage of each parameter, in order of first mention; buffers and modules are assigned to them.

    Modules that span several stages are in none: they have no training mode of their own.
    """
    modules = dict(model.named_modules())
    stage_of_module = _assign_modules(modules, stage_of)
    stages: dict[str, dict[str, list[str]]] = {}
    for stage in dict.fromkeys(stage_of.values()):
        stages[stage] = {"parameters": [], "buffers": [], "modules": []}
    for name, _ in model.named_parameters():
        stages[stage_of[name]]["parameters"].append(name)
    for name, _ in model.named_buffers():
        stages[stage_of_module[name.rpartition(".")[0]]]["buffers"].append(name)
    for name, module in modules.items():
        within = {stage_of[_join(name, parameter)] for parameter, _ in module.named_parameters()}
        if len(within) < 2:
            stages[stage_of_module[name]]["modules"].append(name)
    return {
        name: Stage(tuple(part["parameters"]), tuple(part["buffers"]), tuple(part["modules"]))
        for name, part in stages.items()
    }


def refuse_unknown_parameters(stages: Mapping[str, Stage], names: Iterable[str]) -> None:
    """Raise ModelError where a model's parameters are not those of its stages, as it was changed after it was built."""
    known = {name for stage in stages.values() for name in stage.parameters}
    if changed := sorted(known ^ set(names)):
        raise ModelError(
            f"the model was changed after it was built: {shorten_list(changed)} would not be trained or saved; give "
            "your own module to build_model, as backbone=…, temporal=… or head=…"
        )


def _assign_modules(modules: Mapping[str, nn.Module], stage_of: Mapping[str, str]) -> dict[str, str]:
    """A stage for each module.

    A module with parameters of its own belongs to their stage. One without any parameters belongs to its parent's
    stage if all parameters of the parent are of one stage. Otherwise it belongs to the latest stage before it.
    """
    latest = next(iter(stage_of.values()))
    stage_of_module: dict[str, str] = {}
    for name, module in modules.items():
        own = [stage_of[_join(name, parameter)] for parameter, _ in module.named_parameters(recurse=False)]
        within = {stage_of[_join(name, parameter)] for parameter, _ in module.named_parameters()}
        parent = stage_of_module.get(name.rpartition(".")[0]) if name else None
        parent_is_one = parent is not None and _is_one_stage(name.rpartition(".")[0], modules, stage_of)
        if own:
            latest = own[-1]
        elif len(within) == 1:
            latest = next(iter(within))
        stage_of_module[name] = own[0] if own else parent if not within and parent_is_one and parent else latest
    return stage_of_module


def _is_one_stage(name: str, modules: Mapping[str, nn.Module], stage_of: Mapping[str, str]) -> bool:
    return len({stage_of[_join(name, parameter)] for parameter, _ in modules[name].named_parameters()}) == 1


def _join(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
