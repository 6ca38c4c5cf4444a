"""A feature pyramid: maps of one width at several strides, from the stages of any image backbone that returns maps."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from finetune.errors import ModelError
from finetune.model.backbone.backbone import Backbone
from finetune.model.multitask.feature_taps import FeatureTap, StageEnd
from finetune.model.multitask.task_readers import to_feature_maps

SMALL_PICTURE = 128  # side in pixels up to which the finest level has stride 4
FINEST_STRIDE, COARSEST_STRIDE = 8, 32
GROUPS = 32  # of group norm: it has no running statistics, and treats each picture alone
# Channels of the pyramid and of the heads on it, and their convolutions before the last layer, by the backbone's
# parameters; the last line is the size of torchvision's own detectors.
HEAD_SIZES = {6e6: (64, 2), 2e7: (128, 3), math.inf: (256, 4)}


class PyramidShape(NamedTuple):
    """Channels of the maps, sides (h = w) and strides in pixels of the levels, finest first, and what reads them.

    `convolutions` is the number of layers that heads have before their last one, `size` the side of the pictures.
    """

    channels: int
    convolutions: int
    sides: tuple[int, ...]
    strides: tuple[int, ...]
    size: int


class _Level(NamedTuple):
    """The tap that a level is made of, and how often its side is doubled; below 0: halved."""

    tap: FeatureTap
    doublings: int

    @property
    def width(self) -> int:
        return self.tap.shape[1] >> max(0, self.doublings)

    @property
    def side(self) -> int:
        return math.ceil(self.tap.shape[-1] * 2.0**self.doublings)


class Pyramid(nn.Module):
    """Stages' outputs {stage: (B, T, C, h, w)} to maps (B, T, `shape.channels`, h, w) of each level, finest first.

    It is torchvision's feature pyramid network (arXiv:1612.03144). Strides that the backbone does not have are made of
    the nearest one: finer ones by transposed convolutions, coarser ones by max pooling, as for plain vision
    transformers (arXiv:2203.16527).
    """

    def __init__(self, levels: Sequence[_Level], *, parameters: int, size: int) -> None:
        super().__init__()
        self.stages = [level.tap.stage for level in levels]
        self.resample = nn.ModuleList(_resampling(level) for level in levels)
        channels, convolutions = next(sizes for limit, sizes in HEAD_SIZES.items() if parameters < limit)
        self.network = FeaturePyramidNetwork(
            [level.width for level in levels], channels, norm_layer=partial(nn.GroupNorm, GROUPS)
        )
        sides = [level.side for level in levels]
        self.shape = PyramidShape(channels, convolutions, tuple(sides), _strides(sides, size), size)

    def forward(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """{stage: (B, T, C, h, w)} to [(B, T, `shape.channels`, h, w)]."""
        clips = next(iter(maps.values())).shape[0]
        pairs = zip(self.resample, self.stages, strict=True)
        levels = {str(number): layer(maps[stage].flatten(0, 1)) for number, (layer, stage) in enumerate(pairs)}
        return [level.unflatten(0, (clips, -1)) for level in self.network(levels).values()]


def build_pyramid(backbone: Backbone, ends: Mapping[str, StageEnd]) -> tuple[Pyramid, list[FeatureTap]]:
    """The pyramid of a backbone whose stages end in `ends`, and where it reads the backbone, from fine to coarse.

    Raises ModelError for a backbone whose stages return no maps of single frames.
    """
    if backbone.takes_clips or backbone.num_towers > 1 or backbone.time_stride != 1:
        raise ModelError(
            "tasks of kind detect, track and segment need maps of single frames: take an image backbone in "
            "model.backbone, with model.fusion late and multitask.sharing hard"
        )
    size, taps = backbone.size, _last_of_each_side(backbone, ends)
    stages = list(dict.fromkeys(backbone.stage_of.values()))
    if not taps or max(stages.index(tap.stage) for tap in taps) < len(stages) // 2:
        where = f"after the stage {taps[-1].stage!r} no" if taps else "no"
        raise ModelError(
            f"{where} stage of this backbone returns maps (more than one position in the picture), which tasks of kind "
            "detect, track and segment need; take another model.backbone"
        )
    strides = _strides([tap.shape[-1] for tap in taps], size)
    finest = FINEST_STRIDE // 2 if size <= SMALL_PICTURE else FINEST_STRIDE
    while len(taps) > 1 and strides[0] < finest and strides[1] <= finest:
        taps, strides = taps[1:], strides[1:]
    ends_at = [*strides[1:], 2 * max(COARSEST_STRIDE, strides[-1])]  # the stride of the tap after each one
    finer = round(math.log2(strides[0] / finest))
    levels = [_Level(taps[0], doublings) for doublings in range(finer, 0, -1)]
    for tap, stride, next_stride in zip(taps, strides, ends_at, strict=True):
        levels += [_Level(tap, -halvings) for halvings in range(round(math.log2(next_stride / stride)))]
    parameters = sum(parameter.numel() for parameter in backbone.net.parameters())
    return Pyramid([level for level in levels if level.side > 1], parameters=parameters, size=size), taps


def _last_of_each_side(backbone: Backbone, ends: Mapping[str, StageEnd]) -> list[FeatureTap]:
    """The last stage with maps of each side from 2 to a quarter of the picture's, largest first."""
    taps: dict[int, FeatureTap] = {}
    for stage in dict.fromkeys(backbone.stage_of.values()):
        if stage not in ends:
            continue
        try:
            maps = to_feature_maps(torch.empty(ends[stage].shape, device="meta"), clips=1, takes_clips=False)
        except ModelError:  # no positions in the picture
            continue
        side = maps.shape[-1]
        if maps.shape[-2] == side and 1 < side <= math.ceil(backbone.size / 4):
            taps[side] = FeatureTap(stage, ends[stage].module, tuple(maps.shape[1:]))
    return [taps[side] for side in sorted(taps, reverse=True)]


def _strides(sides: Sequence[int], size: int) -> tuple[int, ...]:
    """Pixels between positions at each of these sides, of which each is that before divided by a power of 2."""
    strides = [round(size / sides[0])]
    for finer, side in pairwise(sides):
        strides.append(strides[-1] * 2 ** max(1, round(math.log2(finer / side))))
    return tuple(strides)


def _resampling(level: _Level) -> nn.Module:
    if level.doublings < 0:
        return nn.MaxPool2d(2**-level.doublings, ceil_mode=True)
    width, layers = level.tap.shape[1], list[nn.Module]()
    for step in range(level.doublings):
        layers += [nn.GELU()] * bool(step) + [nn.ConvTranspose2d(width >> step, width >> step + 1, 2, stride=2)]
    return nn.Sequential(*layers)
