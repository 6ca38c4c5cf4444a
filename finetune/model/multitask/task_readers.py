"""How a task reads shared features: of an earlier stage, as keypoints or a mean, with a temporal pooling of its own."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import ModelError
from finetune.model.multitask.feature_taps import FeatureTap
from finetune.model.temporal_pooling import build_pooling
from finetune.recipe.tasks import DENSE_KINDS, MultitaskSpec, Task

NUM_KEYPOINTS, HIDDEN = 32, 64
UNIFORM_MEAN, UNIFORM_STD = 0.5, 0.29  # mean and standard deviation of positions spread evenly over 0…1
COORDINATE_SCALE = 5


class Keypoints(nn.Module):
    """Positions and spreads of 32 learned keypoints in each picture: maps (B, T', C, h, w) to (B, T', 128).

    Each keypoint is a softmax over the h × w positions of a learned score map; it gives the mean and the standard
    deviation of x and of y under that softmax (spatial softmax, arXiv:1509.06113, after one more convolution).
    Values are centred at those of an even spread and given in fifths of the picture, so that they have about the size
    of other features: in fractions of the picture a head learns many times more slowly.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.mix = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.project = nn.Conv2d(HIDDEN, NUM_KEYPOINTS, 1, bias=False)  # the softmax over positions cancels a bias
        self.log_sharpness = nn.Parameter(torch.tensor(2.0).log())

    def forward(self, maps_BTChw: Tensor) -> Tensor:
        """Maps (B, T', C, h, w) to (B, T', 128)."""
        batch, steps, _, height, width = maps_BTChw.shape
        scores = self.project(F.gelu(self.mix(self.norm(maps_BTChw.flatten(0, 1)))))
        shares_NPhw = (self.log_sharpness.exp() * scores.float()).flatten(2).softmax(2).unflatten(2, (height, width))
        coordinates = []
        for marginal_NPs, size in ((shares_NPhw.sum(2), width), (shares_NPhw.sum(3), height)):
            positions_s = (torch.arange(size, device=marginal_NPs.device) + 0.5) / size
            mean_NP = (marginal_NPs * positions_s).sum(2)
            variance_NP = (marginal_NPs * (positions_s - mean_NP.unsqueeze(2)).square()).sum(2)
            coordinates += [mean_NP - UNIFORM_MEAN, (variance_NP + 1e-6).sqrt() - UNIFORM_STD]
        return (COORDINATE_SCALE * torch.cat(coordinates, 1)).to(maps_BTChw.dtype).unflatten(0, (batch, steps))


class SpatialMean(nn.Module):
    """The mean over positions: maps (B, T', C, h, w) to (B, T', C)."""

    def forward(self, maps_BTChw: Tensor) -> Tensor:
        """Maps (B, T', C, h, w) to (B, T', C)."""
        return maps_BTChw.mean((3, 4))


class MiddleFrame(nn.Module):
    """The clip's middle frame, or the mean of the two middle frames if T is even: (B, T, D) to (B, D)."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        steps = features_BTD.shape[1]
        return features_BTD[:, (steps - 1) // 2 : steps // 2 + 1].mean(1)


class TaskReader(nn.Module):
    """A task's own pooling: maps (B, T', C, h, w) or features (B, T', D) to the vector (B, `width`) for its head."""

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
        """Maps (B, T', C, h, w) or features (B, T', D) to (B, `width`)."""
        return self.temporal(self.space(features))


def build_readers(
    spec: MultitaskSpec, shared_pooling: str, *, taps: Mapping[str, FeatureTap], features: tuple[int, int]
) -> tuple[nn.ModuleDict, dict[str, int]]:
    """Readers, and the widths of their vectors, of the tasks that do not read the shared pooled vector.

    `features` are T' and D of the backbone's features.
    """
    readers, widths = nn.ModuleDict(), {}
    for name, task in spec.tasks.items():
        if not task.has_own_pooling or task.kind in DENSE_KINDS:
            continue
        tap = taps.get(name)
        steps, width = features if tap is None else (tap.shape[0], tap.shape[1])
        reader = TaskReader(task, shared_pooling, width=width, num_steps=steps, reads_maps=tap is not None)
        readers[name], widths[name] = reader, reader.width
    return readers, widths


def to_feature_maps(values: Tensor, *, clips: int, takes_clips: bool) -> Tensor:
    """A stage's output for `clips` clips as feature maps (B, T', C, h, w); class tokens are dropped.

    `values` are (B T', C, h, w), (B T', h, w, C) or tokens (B T', N, C), or of a video network (`takes_clips`)
    (B, C, T', h, w) or (B, T', h, w, C), with h = w. Raises ModelError for any other shape.
    """
    if takes_clips and values.ndim == 5:
        if values.shape[2] == values.shape[3] != values.shape[4]:  # channels last, as in Swin
            return values.movedim(4, 2)
        return values.transpose(1, 2)
    if values.ndim == 4 and not takes_clips:
        pictures = values.movedim(3, 1) if values.shape[1] == values.shape[2] != values.shape[3] else values
        return pictures.unflatten(0, (clips, -1))
    if values.ndim == 3 and not takes_clips:
        side = math.isqrt(values.shape[1])
        tokens = values[:, values.shape[1] - side * side :]
        return tokens.transpose(1, 2).unflatten(2, (side, side)).unflatten(0, (clips, -1))
    raise ModelError(f"the network returns a tensor {tuple(values.shape)}, which has no positions in the picture")
