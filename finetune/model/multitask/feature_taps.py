"""Features taken from the middle of a network, where a stage ends, while it runs as it always does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, suggest_similar


@dataclass(frozen=True)
class FeatureTap:
    """The end of a stage: the module that it ends with, and what one clip gives there, (T', C, h, w)."""

    stage: str
    module: str
    shape: tuple[int, ...]


def find_stage_ends(
    net: nn.Module, stage_of: dict[str, str], run: Callable[[], object]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of each stage the module that ends it, and the shape of what that gives.

    It is the one called last among the outermost modules all of whose parameters are the stage's. `run` lets the
    network run once.
    """
    inside = {
        name: {stage_of[f"{name}.{part}"] for part, _ in module.named_parameters()}
        for name, module in _modules_with_parameters(net)
    }
    whole = {name: next(iter(stages)) for name, stages in inside.items() if len(stages) == 1}
    outermost = {name: stage for name, stage in whole.items() if _parent(name) not in whole}
    found: dict[str, tuple[str, tuple[int, ...]]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str, stage: str) -> None:
        if isinstance(output, Tensor):
            found[stage] = (name, tuple(output.shape))
        else:
            found.pop(stage, None)

    modules = dict(net.named_modules())
    handles = [
        modules[name].register_forward_hook(partial(note, name=name, stage=stage)) for name, stage in outermost.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _modules_with_parameters(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in net.named_modules() if name and any(True for _ in module.parameters())]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def choose_end(
    ends: dict[str, tuple[str, tuple[int, ...]]], stage: str | None, stages: Sequence[str], *, task: str
) -> tuple[str, str]:
    """(stage, module) that a task reads: the one that is named, or the last that gives pictures. Raises ModelError."""
    if stage is None:
        pictures = [name for name in stages if name in ends and _is_feature_map(ends[name][1])]
        if not pictures:
            raise ModelError(f"tasks.{task}: no stage of this backbone gives pictures, in which a place could be found")
        return pictures[-1], ends[pictures[-1]][0]
    if stage not in stages:
        raise ModelError(
            f"tasks.{task}.at: there is no stage {stage!r}{suggest_similar(stage, stages)}; {', '.join(stages)}"
        )
    if stage not in ends or not _is_feature_map(ends[stage][1]):
        known = [name for name in stages if name in ends and _is_feature_map(ends[name][1])]
        raise ModelError(f"tasks.{task}.at: the stage {stage!r} gives no picture; take one of {', '.join(known)}")
    return stage, ends[stage][0]


def _is_feature_map(shape: tuple[int, ...]) -> bool:
    """Whether there is more than one place, of what `to_feature_maps` takes: pictures are square, with channels on one
    side.
    """
    if len(shape) == 3:
        return shape[1] > 3
    if len(shape) not in {4, 5}:
        return False
    places = shape[-3:-1] if shape[-3] == shape[-2] != shape[-1] else shape[-2:]
    return prod(places) > 1


class FeatureTaps:
    """What the modules of some stages gave when the network last ran; a copy of a model has nothing of it.

    `shared` has the places where tasks leave what they share, from the earliest on: each the tensors, of towers perhaps
    two, through which all goes that is read there or later.
    """

    def __init__(self) -> None:
        self.taken: dict[str, Tensor] = {}
        self.shared: list[list[Tensor]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureTaps":
        memo[id(self)] = copied = FeatureTaps()
        return copied

    def attach(self, net: nn.Module, stage: str, module: str) -> None:
        net.get_submodule(module).register_forward_hook(_TapHook(self, stage))


class _TapHook:
    """A hook that goes along when its module is copied."""

    def __init__(self, taps: FeatureTaps, stage: str) -> None:
        self.taps, self.stage = taps, stage

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.taps.taken[self.stage] = output
