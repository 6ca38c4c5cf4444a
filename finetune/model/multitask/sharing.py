"""What several tasks share of a backbone, where each task reads it, and how much each task's gradient counts there."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.backbone import Backbone
from finetune.model.dense.pyramid import Pyramid, build_pyramid
from finetune.model.multitask.feature_taps import FeatureTap, FeatureTaps, StageEnd, choose_stage, find_stage_ends
from finetune.model.multitask.task_readers import build_readers, to_feature_maps
from finetune.recipe.tasks import DENSE_KINDS, MultitaskSpec, Task


class Sharing(nn.Module):
    """From a backbone's features (B, T', D), or (B, 2, T', D) of two towers, to one vector per task {task: (B, D)}.

    Tasks of kind detect, track and segment get the maps of a pyramid instead, [(B, T, W, h, w)] of each level: of all
    frames if one of them predicts motion, else of the middle frame alone. `taps` holds activations of the latest
    forward pass. `gates` (M,), if set, scales the gradient that each of the M tasks sends into the shared part.
    """

    def __init__(self, backbone: Backbone, spec: MultitaskSpec, shared_pooling: Any) -> None:
        super().__init__()
        self.spec = spec
        self.takes_clips = backbone.takes_clips
        self.num_towers = backbone.num_towers
        self.gates: Tensor | None = None
        self.taps = FeatureTaps()
        dense = spec.dense_tasks
        ends = _stage_ends(backbone) if dense or _reads_taps(spec) else {}
        self.tap_of = _find_taps(backbone, spec, ends)
        self.pyramid: Pyramid | None = None
        pyramid_taps: list[FeatureTap] = []
        if dense:
            self.pyramid, pyramid_taps = build_pyramid(backbone, ends)
        self.pyramid_reads_all_frames = any(spec.tasks[name].kind == "track" for name in dense)
        tapped = {tap.stage: tap for tap in (*self.tap_of.values(), *pyramid_taps)}
        for tap in tapped.values():
            self.taps.attach(backbone.net, tap.stage, tap.module)
        self.tapped_stages = [stage for stage in dict.fromkeys(backbone.stage_of.values()) if stage in tapped]
        features = backbone.steps(backbone.frames.count), backbone.width
        self.readers, self.widths = build_readers(spec, shared_pooling, taps=self.tap_of, features=features)

    def width_of(self, task: str) -> int | None:
        """Width of the vector that a task reads by its own reader; None if it reads the shared pooled vector."""
        return self.widths.get(task)

    @property
    def reads_last_features(self) -> bool:
        """Whether any task reads the backbone's features; else its layers after the last tap get no gradient."""
        return any(name not in {*self.tap_of, *self.spec.dense_tasks} for name in self.spec.tasks)

    def forward(self, features: Tensor, pooling: nn.Module) -> dict[str, Any]:
        """Features (B, T', D), or (B, 2, T', D) of two towers, to {task: (B, D)}; D may differ between tasks.

        Tasks that read the pyramid get a list of maps.
        """
        if self.num_towers > 1:
            features = features.movedim(1, 0)
        towers = list(features) if self.num_towers > 1 else [features]
        maps = {stage: self._maps(stage, towers) for stage in self.tapped_stages}
        levels = self._pyramid_levels(maps)
        pooled: dict[int, Tensor] = {}
        vectors: dict[str, Any] = {}
        for number, name in enumerate(self.spec.tasks):
            tower = self.spec.tower_index(name)
            if name in self.tap_of:
                stage_output = maps[self.tap_of[name].stage][tower]
                vectors[name] = self.readers[name](self._gated(stage_output, number))
            elif name in self.readers:
                vectors[name] = self.readers[name](self._gated(towers[tower], number))
            elif self.spec.tasks[name].kind in DENSE_KINDS:
                vectors[name] = [self._gated(level, number) for level in levels]
            else:
                if tower not in pooled:
                    pooled[tower] = pooling(towers[tower])
                vectors[name] = self._gated(pooled[tower], number)
        self.taps.shared = [[self.taps.taken[stage]] for stage in maps]
        if any(name not in self.tap_of for name in self.readers):
            self.taps.shared.append([features])
        self.taps.shared.append([*levels, *pooled.values()])
        return vectors

    def shared_activations(self) -> list[Tensor]:
        """The earliest shared activations of the latest pass that need a gradient, one per tower in use, (B, ...).

        Empty where none needs one.
        """
        trainable = ([tensor for tensor in place if tensor.requires_grad] for place in self.taps.shared)
        return next(filter(None, trainable), [])

    def _maps(self, stage: str, towers: Sequence[Tensor]) -> list[Tensor]:
        """A stage's output for each tower, (B, T', C, h, w); rows of the towers are interleaved."""
        taken = self.taps.taken[stage]
        return [
            to_feature_maps(taken[tower :: len(towers)], clips=features.shape[0], takes_clips=self.takes_clips)
            for tower, features in enumerate(towers)
        ]

    def _pyramid_levels(self, maps: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        """The pyramid's maps, [(B, T or 1, W, h, w)], finest level first; none without a task that reads them."""
        if self.pyramid is None:
            return []
        read = {stage: maps[stage][0] for stage in self.pyramid.stages}
        if not self.pyramid_reads_all_frames:
            read = {stage: values[:, values.shape[1] // 2, None] for stage, values in read.items()}
        return self.pyramid(read)

    def _gated(self, value: Tensor, number: int) -> Tensor:
        return value if self.gates is None else GradientGate.apply(value, self.gates[number])


class GradientGate(torch.autograd.Function):
    """Identity in the forward pass; in the backward pass the gradient is multiplied by a number.

    The number may be set between the two passes.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor) -> Tensor:
        """A value of any shape, unchanged; `gate` has shape ()."""
        ctx.gate = gate  # not by save_for_backward, which refuses tensors that change before the backward pass
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient, of the shape of the value, times the gate."""
        return gradient * ctx.gate.to(gradient), None


def _reads_taps(spec: MultitaskSpec) -> dict[str, Task]:
    """The tasks that read an earlier stage or positions in the picture."""
    return {name: task for name, task in spec.tasks.items() if task.feature_stage is not None or task.uses_keypoints}


def _stage_ends(backbone: Backbone) -> dict[str, StageEnd]:
    """The module that ends each stage, with the shape of its output for one clip."""
    side = backbone.size
    clips = torch.zeros((1, backbone.frames.count, 3, side, side), dtype=torch.uint8, device=backbone.mean.device)
    training = backbone.training
    backbone.eval()
    ends = find_stage_ends(backbone.net, backbone.stage_of, partial(backbone, clips))
    backbone.train(training)
    return ends


def _find_taps(backbone: Backbone, spec: MultitaskSpec, ends: Mapping[str, StageEnd]) -> dict[str, FeatureTap]:
    """The tap of each task that reads an earlier stage or positions in the picture."""
    tapping = _reads_taps(spec)
    if not tapping:
        return {}
    if backbone.num_streams == 2:
        raise ModelError(
            f"tasks.{next(iter(tapping))}: reads an earlier stage, which model.fusion 'two_stream' does not allow; set "
            "it to late or grey_stack"
        )
    stages = list(dict.fromkeys(backbone.stage_of.values()))
    taps = {}
    for name, task in tapping.items():
        stage = choose_stage(ends, task.feature_stage, stages, task=name)
        rows, *shape = ends[stage].shape
        try:
            maps = to_feature_maps(
                torch.empty((rows // backbone.num_towers, *shape), device="meta"),
                clips=1,
                takes_clips=backbone.takes_clips,
            )
        except ModelError as error:
            raise ModelError(f"tasks.{name}: at {stage!r} {error}") from None
        taps[name] = FeatureTap(stage, ends[stage].module, tuple(maps.shape[1:]))
    return taps
