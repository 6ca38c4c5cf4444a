"""Temporal pooling: features over time (B, T, D) to one vector a clip. All take any T but `concat`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import ModelError

HIDDEN = 256


class Mean(nn.Module):
    """The mean over time; blind to order."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        return features_BTD.mean(1)


class Max(nn.Module):
    """The largest value over time; blind to order."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        return features_BTD.amax(1)


class Diff(nn.Module):
    """The mean, the mean step from a frame to the next, and the mean size of that step: 3 D, no parameters."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        steps = features_BTD.diff(dim=1)
        if steps.shape[1] == 0:
            steps = torch.zeros_like(features_BTD)
        return torch.cat([features_BTD.mean(1), steps.mean(1), steps.abs().mean(1)], dim=1)


class Concat(nn.Module):
    """All frames side by side, in order: T D, each frame normalised; T is the one that it was built for."""

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.num_frames = num_frames

    def forward(self, features_BTD: Tensor) -> Tensor:
        if features_BTD.shape[1] != self.num_frames:
            raise ModelError(
                f"temporal pooling 'concat' was built for {self.num_frames} frames and got {features_BTD.shape[1]}"
            )
        return self.norm(features_BTD).flatten(1)


class Conv1d(nn.Module):
    """Two residual convolutions over time on a narrow projection, then mean and largest value: 2 × 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, HIDDEN)
        self.convs = nn.ModuleList(nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1) for _ in range(2))

    def forward(self, features_BTD: Tensor) -> Tensor:
        hidden_BDT = self.project(self.norm(features_BTD)).transpose(1, 2)
        for conv in self.convs:
            hidden_BDT = hidden_BDT + F.gelu(conv(hidden_BDT))
        return torch.cat([hidden_BDT.mean(2), hidden_BDT.amax(2)], dim=1)


class Gru(nn.Module):
    """A recurrent network read in both directions; its two last states: 2 × 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gru = nn.GRU(width, HIDDEN, batch_first=True, bidirectional=True)

    def forward(self, features_BTD: Tensor) -> Tensor:
        _, last_2BD = self.gru(self.norm(features_BTD))
        return last_2BD.transpose(0, 1).flatten(1)


class Attention(nn.Module):
    """Attentive pooling with frame positions: eight heads, each with its own weights over time.

    A weight comes from what a frame shows and from where in the clip it stands; without the second part attention
    is blind to order (STEP, arXiv:2503.24298). Positions of another T are read off between the learnt ones.
    """

    def __init__(self, width: int, num_frames: int, *, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, heads)
        self.position = nn.Parameter(torch.randn(heads, num_frames))
        self.value = nn.Linear(width, heads * (HIDDEN // heads))

    def forward(self, features_BTD: Tensor) -> Tensor:
        features_BTD = self.norm(features_BTD)
        frames = features_BTD.shape[1]
        position_HT = F.interpolate(self.position[None], frames, mode="linear", align_corners=True)[0]
        weights_BTH = (self.score(features_BTD) + position_HT.T).softmax(1)
        values_BTHD = self.value(features_BTD).unflatten(2, (weights_BTH.shape[2], -1))
        return torch.einsum("bth,bthd->bhd", weights_BTH, values_BTHD).flatten(1)


def build_pooling(kind: str, width: int, *, num_frames: int) -> tuple[nn.Module, int]:
    """The pooling and the width of the vector it gives, for features of `width` over `num_frames` steps."""
    return POOLINGS[kind](width, num_frames)


POOLINGS: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "mean": lambda width, frames: (Mean(), width),
    "max": lambda width, frames: (Max(), width),
    "diff": lambda width, frames: (Diff(), 3 * width),
    "concat": lambda width, frames: (Concat(width, frames), frames * width),
    "conv1d": lambda width, frames: (Conv1d(width), 2 * HIDDEN),
    "gru": lambda width, frames: (Gru(width), 2 * HIDDEN),
    "attention": lambda width, frames: (Attention(width, frames), HIDDEN),
}
