"""What a task reads of the shared features: those of an earlier stage, of places in the picture, pooled for itself."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import ModelError
from finetune.model.multitask.feature_taps import FeatureTap
from finetune.model.temporal_pooling import build_pooling
from finetune.recipe.tasks import MultitaskSpec, Task

NUM_KEYPOINTS, HIDDEN = 32, 64
UNIFORM_MEAN, UNIFORM_STD = 0.5, 0.29  # of places spread evenly over the picture: their mean, their deviation
COORDINATE_SCALE = 5


class Keypoints(nn.Module):
    """Where 32 learnt points lie in each picture, and how far they spread: maps (B, T, C, h, w) to (B, T, 128).

    Each is the mean place and the deviation, in x and y, of a softmax over places: the spatial softmax of
    arXiv:1509.06113, after one convolution more. They are in fifths of the picture, from its middle, so that a head
    gets numbers of about the size of other features: in shares of the picture it learns many times more slowly.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.mix = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.project = nn.Conv2d(HIDDEN, NUM_KEYPOINTS, 1, bias=False)  # a softmax over places would cancel one
        self.log_sharpness = nn.Parameter(torch.tensor(2.0).log())

    def forward(self, maps_BTChw: Tensor) -> Tensor:
        batch, steps, _, height, width = maps_BTChw.shape
        scores = self.project(F.gelu(self.mix(self.norm(maps_BTChw.flatten(0, 1)))))
        shares_NPhw = (self.log_sharpness.exp() * scores.float()).flatten(2).softmax(2).unflatten(2, (height, width))
        found = []
        for along, size in ((shares_NPhw.sum(2), width), (shares_NPhw.sum(3), height)):
            places = (torch.arange(size, device=along.device) + 0.5) / size
            mean_NP = (along * places).sum(2)
            spread_NP = (along * (places - mean_NP.unsqueeze(2)).square()).sum(2)
            found += [mean_NP - UNIFORM_MEAN, (spread_NP + 1e-6).sqrt() - UNIFORM_STD]
        return (COORDINATE_SCALE * torch.cat(found, 1)).to(maps_BTChw.dtype).unflatten(0, (batch, steps))


class SpatialMean(nn.Module):
    """The mean over places: maps (B, T, C, h, w) to (B, T, C)."""

    def forward(self, maps_BTChw: Tensor) -> Tensor:
        return maps_BTChw.mean((3, 4))


class MiddleFrame(nn.Module):
    """The frame in the middle of the clip, or the mean of the two next to it."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        steps = features_BTD.shape[1]
        return features_BTD[:, (steps - 1) // 2 : steps // 2 + 1].mean(1)


class TaskReader(nn.Module):
    """A task's own way from the shared features, maps (B, T, C, h, w) or pooled (B, T, D), to its head's vector."""

    def __init__(self, task: Task, shared_pooling: str, *, width: int, num_steps: int, reads_maps: bool) -> None:
        super().__init__()
        self.space: nn.Module = nn.Identity()
        if reads_maps:
            self.space = Keypoints(width) if task.uses_keypoints else SpatialMean()
            width = 4 * NUM_KEYPOINTS if task.uses_keypoints else width
        pooling = task.pooling(shared_pooling)
        self.temporal: nn.Module
        if pooling == "middle":
            self.temporal, self.width = MiddleFrame(), width
        else:
            self.temporal, self.width = build_pooling(pooling, width, num_frames=num_steps)

    def forward(self, features: Tensor) -> Tensor:
        return self.temporal(self.space(features))


def build_readers(
    spec: MultitaskSpec, shared_pooling: str, *, taps: Mapping[str, FeatureTap], features: tuple[int, int]
) -> tuple[nn.ModuleDict, dict[str, int]]:
    """A reader for each task that does not read what all share, and the width of what it gives.

    `features` are the backbone's steps in time and its width.
    """
    readers, widths = nn.ModuleDict(), {}
    for name, task in spec.tasks.items():
        if not task.has_own_pooling:
            continue
        tap = taps.get(name)
        steps, width = features if tap is None else (tap.shape[0], tap.shape[1])
        reader = TaskReader(task, shared_pooling, width=width, num_steps=steps, reads_maps=tap is not None)
        readers[name], widths[name] = reader, reader.width
    return readers, widths


def to_feature_maps(values: Tensor, *, clips: int, takes_clips: bool) -> Tensor:
    """What a stage gives for so many clips, as (B, T', C, h, w), channels first; class tokens are left out.

    Raises ModelError for what is no picture.
    """
    if takes_clips and values.ndim == 5:
        if values.shape[2] == values.shape[3] != values.shape[4]:  # pictures are square
            return values.movedim(4, 2)  # (B, T', h, w, C), as Swin has it
        return values.transpose(1, 2)
    if values.ndim == 4 and not takes_clips:
        pictures = values.movedim(3, 1) if values.shape[1] == values.shape[2] != values.shape[3] else values
        return pictures.unflatten(0, (clips, -1))
    if values.ndim == 3 and not takes_clips:
        side = math.isqrt(values.shape[1])
        tokens = values[:, values.shape[1] - side * side :]
        return tokens.transpose(1, 2).unflatten(2, (side, side)).unflatten(0, (clips, -1))
    raise ModelError(f"the network gives {tuple(values.shape)}, in which there are no places of a picture")
