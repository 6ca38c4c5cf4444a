"""What several tasks share of a backbone, where each leaves it, and how much each one's gradient counts there."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.backbone import Backbone
from finetune.model.multitask.feature_taps import FeatureTap, FeatureTaps, choose_end, find_stage_ends
from finetune.model.multitask.task_readers import build_readers, to_feature_maps
from finetune.recipe.tasks import MultitaskSpec


class Sharing(nn.Module):
    """From a backbone's features (B, T', D), of two towers (2, B, T', D), to each task's vector {task: (B, D)}.

    `taps` has what stages gave that tasks read before the backbone's end, and, after a pass, where tasks leave what
    they share, the earliest first. `gates` (M,), where set, is how much each task's gradient counts in what it shares.
    """

    def __init__(self, backbone: Backbone, spec: MultitaskSpec, shared_pooling: str) -> None:
        super().__init__()
        self.spec = spec
        self.takes_clips = backbone.takes_clips
        self.has_towers = spec.multitask.sharing != "hard"
        self.gates: Tensor | None = None
        self.taps = FeatureTaps()
        self.tap_of = _find_taps(backbone, spec)
        self.stages = list(dict.fromkeys(backbone.stage_of.values()))
        for tap in {tap.stage: tap for tap in self.tap_of.values()}.values():
            self.taps.attach(backbone.net, tap.stage, tap.module)
        features = backbone.steps(backbone.frames.count), backbone.width
        self.readers, self.widths = build_readers(spec, shared_pooling, taps=self.tap_of, features=features)

    def width_of(self, task: str) -> int | None:
        """Of the vector that a task reads for itself; None where it is the one that is shared."""
        return self.widths.get(task)

    def forward(self, features: Tensor, pooling: nn.Module) -> dict[str, Tensor]:
        towers = list(features) if self.has_towers else [features]
        maps = {stage: self._maps(stage, towers) for stage in self._stages_read()}
        pooled: dict[int, Tensor] = {}
        vectors = {}
        for number, name in enumerate(self.spec.tasks):
            tower = self.spec.tower_index(name) if self.has_towers else 0
            if name in self.tap_of:
                read = maps[self.tap_of[name].stage][tower]
                vectors[name] = self.readers[name](self._gated(read, number))
            elif name in self.readers:
                vectors[name] = self.readers[name](self._gated(towers[tower], number))
            else:
                if tower not in pooled:
                    pooled[tower] = pooling(towers[tower])
                vectors[name] = self._gated(pooled[tower], number)
        self.taps.shared = [[self.taps.taken[stage]] for stage in maps]
        if any(name not in self.tap_of for name in self.readers):
            self.taps.shared.append([features])
        self.taps.shared.append(list(pooled.values()))
        return vectors

    def _stages_read(self) -> list[str]:
        read = {tap.stage for tap in self.tap_of.values()}
        return [stage for stage in self.stages if stage in read]

    def _maps(self, stage: str, towers: Sequence[Tensor]) -> list[Tensor]:
        """Of each tower (B, T', C, h, w); what towers gave of a picture, or clip, stands next to each other."""
        taken = self.taps.taken[stage]
        return [
            to_feature_maps(taken[tower :: len(towers)], clips=len(features), takes_clips=self.takes_clips)
            for tower, features in enumerate(towers)
        ]

    def _gated(self, value: Tensor, number: int) -> Tensor:
        return value if self.gates is None else GradientGate.apply(value, self.gates[number])


class GradientGate(torch.autograd.Function):
    """Nothing on the way forward; on the way back the gradient times a number, which may be set in between."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor) -> Tensor:
        ctx.gate = gate  # not saved for backward, which would refuse what changes on the way
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.gate.to(gradient), None


def _find_taps(backbone: Backbone, spec: MultitaskSpec) -> dict[str, FeatureTap]:
    """Where each task that reads places, or an earlier stage, leaves the backbone."""
    reading = {name: task for name, task in spec.tasks.items() if task.at is not None or task.uses_keypoints}
    if not reading:
        return {}
    side = backbone.size
    clips = torch.zeros((1, backbone.frames.count, 3, side, side), dtype=torch.uint8, device=backbone.mean.device)
    training = backbone.training
    backbone.eval()
    ends = find_stage_ends(backbone.net, backbone.stage_of, partial(backbone, clips))
    backbone.train(training)
    stages = list(dict.fromkeys(backbone.stage_of.values()))
    found = {}
    for name, task in reading.items():
        stage, module = choose_end(ends, task.at, stages, task=name)
        shape = ends[stage][1]
        half = (shape[0] // 2, *shape[1:]) if spec.multitask.sharing != "hard" else shape
        try:
            maps = to_feature_maps(torch.empty(half, device="meta"), clips=1, takes_clips=backbone.takes_clips)
        except ModelError as error:
            raise ModelError(f"tasks.{name}: at {stage!r} {error}") from None
        found[name] = FeatureTap(stage, module, tuple(maps.shape[1:]))
    return found
