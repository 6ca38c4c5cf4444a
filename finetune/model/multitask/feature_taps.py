"""Which module ends each stage of a network, and hooks that keep its output while the network runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, suggest_similar


class StageEnd(NamedTuple):
    """The module that ends a stage, and the shape of its output."""

    module: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FeatureTap:
    """Where a task reads a stage's output: the module that ends it, and the shape (T', C, h, w) of one clip there."""

    stage: str
    module: str
    shape: tuple[int, ...]


def find_stage_ends(net: nn.Module, stage_of: Mapping[str, str], run: Callable[[], object]) -> dict[str, StageEnd]:
    """The end of each stage whose last module returns a tensor; `run` has to run the network once.

    The end is the module called last among the outermost modules whose parameters all belong to the stage.
    """
    stages_in = {
        name: {stage_of[f"{name}.{parameter}"] for parameter, _ in module.named_parameters()}
        for name, module in _modules_with_parameters(net)
    }
    single = {name: next(iter(stages)) for name, stages in stages_in.items() if len(stages) == 1}
    outermost = {name: stage for name, stage in single.items() if _parent(name) not in single}
    ends: dict[str, StageEnd] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str, stage: str) -> None:
        if isinstance(output, Tensor):
            ends[stage] = StageEnd(name, tuple(output.shape))
        else:
            ends.pop(stage, None)

    handles = [
        net.get_submodule(name).register_forward_hook(partial(note, name=name, stage=stage))
        for name, stage in outermost.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return ends


def _modules_with_parameters(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in net.named_modules() if name and any(True for _ in module.parameters())]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def choose_stage(ends: Mapping[str, StageEnd], at: str | None, stages: Sequence[str], *, task: str) -> str:
    """The stage that a task reads: `at`, or without it the last stage that returns a feature map. Raises ModelError."""
    readable = [name for name in stages if name in ends and _is_feature_map(ends[name].shape)]
    if at is None:
        if not readable:
            raise ModelError(
                f"tasks.{task}: no stage of this backbone returns a feature map (more than one position in the "
                "picture), which this task needs; take another model.backbone"
            )
        return readable[-1]
    if at not in stages:
        raise ModelError(
            f"tasks.{task}.feature_stage: unknown stage {at!r}{suggest_similar(at, stages)}; "
            f"the stages are {', '.join(stages)}"
        )
    if at not in readable:
        raise ModelError(
            f"tasks.{task}.feature_stage: stage {at!r} returns no feature map; take one of {', '.join(readable)}"
        )
    return at


def _is_feature_map(shape: tuple[int, ...]) -> bool:
    """Whether `to_feature_maps` finds more than one position in an output of this shape.

    Pictures are square, with channels first or last.
    """
    if len(shape) == 3:
        return shape[1] > 3
    if len(shape) not in {4, 5}:
        return False
    places = shape[-3:-1] if shape[-3] == shape[-2] != shape[-1] else shape[-2:]
    return prod(places) > 1


class FeatureTaps:
    """Activations of the latest forward pass; a copy of a model has taps of its own, which are empty.

    `taken` has the output rows (N, ...) of the module that ends a stage, by stage. `shared` lists the places where
    tasks leave the shared part, from input to output: each is the list of tensors, one per tower in use, that
    everything which tasks read there or later is computed from.
    """

    def __init__(self) -> None:
        self.taken: dict[str, Tensor] = {}
        self.shared: list[list[Tensor]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureTaps":
        memo[id(self)] = copied = FeatureTaps()
        return copied

    def attach(self, net: nn.Module, stage: str, module: str) -> None:
        """Keep the output of a module of `net` as that of the stage."""
        net.get_submodule(module).register_forward_hook(_TapHook(self, stage))


class _TapHook:
    """A forward hook that is copied with its module; a closure would keep pointing at the old taps."""

    def __init__(self, taps: FeatureTaps, stage: str) -> None:
        self.taps, self.stage = taps, stage

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.taps.taken[self.stage] = output
