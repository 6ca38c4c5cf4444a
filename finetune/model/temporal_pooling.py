"""Temporal pooling: features of T time steps (B, T, D) to one vector per clip (B, width).

All kinds but `concat` and `changes` accept any T. A new kind needs a class here, its line in `POOLINGS`, its name in
`Pooling` of recipe/fields.py, and a row in docs/temporal.md; tests/model/test_temporal_pooling.py runs over `POOLINGS`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import ModelError
from finetune.model.own_modules import own_pooling
from finetune.recipe.own_parts import is_own

HIDDEN = 256  # width to which learned poolings project features
CLUSTERS = 8  # of NetVLAD


class MeanPooling(nn.Module):
    """Mean over time: (B, T, D) to (B, D). Ignores the order of frames. Source: TSN, arXiv:1608.00859."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        return features_BTD.mean(1)


class MaxPooling(nn.Module):
    """Maximum over time of each dimension: (B, T, D) to (B, D). Ignores the order of frames."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        return features_BTD.amax(1)


class TopKPooling(nn.Module):
    """Mean of the max(1, T // 4) largest values of each dimension: (B, T, D) to (B, D). Ignores the order of frames."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        largest = max(1, features_BTD.shape[1] // 4)
        return features_BTD.topk(largest, dim=1, sorted=False).values.mean(1)


class DifferencePooling(nn.Module):
    """Mean, mean difference and mean absolute difference of adjacent frames, concatenated: (B, T, D) to (B, 3 D).

    Differences are 0 where T is 1.
    """

    def forward(self, features_BTD: Tensor) -> Tensor:
        steps = features_BTD.diff(dim=1)
        if steps.shape[1] == 0:
            steps = torch.zeros_like(features_BTD)
        return torch.cat([features_BTD.mean(1), steps.mean(1), steps.abs().mean(1)], dim=1)


class SlopePooling(nn.Module):
    """Mean, and slope of the least-squares line over time, concatenated: (B, T, D) to (B, 2 D).

    Time runs from -1 to 1, so the slope is the change over half the clip; it is 0 where T is 1. Unlike the mean
    difference of `diff`, which depends on the first and last frame only, it uses all frames.
    """

    def forward(self, features_BTD: Tensor) -> Tensor:
        steps = features_BTD.shape[1]
        times_T = torch.linspace(-1, 1, steps, device=features_BTD.device) if steps > 1 else features_BTD.new_zeros(1)
        weights_T = (times_T / times_T.square().sum().clamp_min(1e-6)).to(features_BTD.dtype)
        return torch.cat([features_BTD.mean(1), (features_BTD * weights_T[:, None]).sum(1)], dim=1)


class ConcatPooling(nn.Module):
    """Layer-normalised frames, concatenated in order: (B, T, D) to (B, T D).

    Raises ModelError for another T than the one it was built for.
    """

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.num_frames = num_frames

    def forward(self, features_BTD: Tensor) -> Tensor:
        _check_frames("concat", features_BTD, self.num_frames)
        return self.norm(features_BTD).flatten(1)


class ChangesPooling(nn.Module):
    """Layer-normalised frames less their mean over time, concatenated in order: (B, T, D) to (B, T D).

    What stays the same in all frames of a clip, such as a scene before a fixed camera, is left out. A clip of equal
    frames gives 0. Raises ModelError for fewer than two frames, and for another T than the one it was built for.
    """

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__()
        if num_frames < 2:
            raise ModelError("temporal pooling 'changes' needs at least two frames, as one has no changes; take mean")
        self.norm = nn.LayerNorm(width, bias=False)  # the mean takes a bias away again
        self.num_frames = num_frames

    def forward(self, features_BTD: Tensor) -> Tensor:
        _check_frames("changes", features_BTD, self.num_frames)
        normed_BTD = self.norm(features_BTD)
        return (normed_BTD - normed_BTD.mean(1, keepdim=True)).flatten(1)


class ConvPooling(nn.Module):
    """Two residual convolutions over time, x + gelu(conv3(x)), then mean and maximum: (B, T, D) to (B, 2 × 256).

    Frames are layer-normalised and projected to 256 before.
    """

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


class RecurrentPooling(nn.Module):
    """Last states of a bidirectional GRU or LSTM over layer-normalised frames: (B, T, D) to (B, 2 × 256).

    Sources: GRU, arXiv:1406.1078; LSTM for video, arXiv:1411.4389.
    """

    def __init__(self, width: int, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.net = kind(width, HIDDEN, batch_first=True, bidirectional=True)
        if kind is nn.LSTM:  # forget gates start open, so that the first frames are remembered (Gers et al., 2000)
            with torch.no_grad():
                for name in ("bias_ih_l0", "bias_ih_l0_reverse"):
                    self.net.get_parameter(name)[HIDDEN : 2 * HIDDEN] = 1

    def forward(self, features_BTD: Tensor) -> Tensor:
        states_BTH, _ = self.net(self.norm(features_BTD))
        return torch.cat([states_BTH[:, -1, :HIDDEN], states_BTH[:, 0, HIDDEN:]], dim=1)


class AttentionPooling(nn.Module):
    """Attention over time with eight heads: (B, T, D) to (B, 256).

    Head h weights frame t by softmax over t of score_h(x_t) + position_h(t) and sums its 32 of the 256 projected
    values. Without the learned positions, attention ignores the order of frames (STEP, arXiv:2503.24298). For another
    T than the one it was built for, positions are interpolated.
    """

    def __init__(self, width: int, num_frames: int, *, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, heads, bias=False)  # the softmax over time cancels a bias
        self.position = nn.Parameter(torch.randn(num_frames, heads))
        self.value = nn.Linear(width, heads * (HIDDEN // heads))

    def weights(self, features_BTD: Tensor) -> Tensor:
        """The weight of each frame in each head, (B, T, heads), which sums to 1 over T."""
        return self._weights(self.norm(features_BTD))

    def _weights(self, normed_BTD: Tensor) -> Tensor:
        return (self.score(normed_BTD) + interpolate_positions(self.position, normed_BTD.shape[1])).softmax(1)

    def forward(self, features_BTD: Tensor) -> Tensor:
        features_BTD = self.norm(features_BTD)
        weights_BTH = self._weights(features_BTD)
        values_BTHD = self.value(features_BTD).unflatten(2, (weights_BTH.shape[2], -1))
        return torch.einsum("bth,bthd->bhd", weights_BTH, values_BTHD).flatten(1)


class TransformerPooling(nn.Module):
    """Output at a class token of a two-layer pre-norm transformer over the frames: (B, T, D) to (B, 256).

    Frames are layer-normalised, projected to 256, and get learned positions, interpolated for another T than the one
    it was built for. Source: STEP, arXiv:2503.24298.
    """

    def __init__(self, width: int, num_frames: int, *, layers: int = 2, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, HIDDEN)
        # About as large as the projected frames: from a ViT's 0.02, order is not learned within a head's few steps.
        self.position = nn.Parameter(0.5 * torch.randn(num_frames, HIDDEN))
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, HIDDEN))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    HIDDEN, heads, 2 * HIDDEN, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )
        )
        self.last_norm = nn.LayerNorm(HIDDEN)

    def forward(self, features_BTD: Tensor) -> Tensor:
        hidden_BTH = self.project(self.norm(features_BTD))
        hidden_BTH = hidden_BTH + interpolate_positions(self.position, hidden_BTH.shape[1])
        token_B1H = self.token.expand(hidden_BTH.shape[0], -1, -1).to(hidden_BTH.dtype)
        return self.last_norm(self.layers(torch.cat([token_B1H, hidden_BTH], dim=1))[:, 0])


class VladPooling(nn.Module):
    """NetVLAD with eight cluster centres c_k: (B, T, D) to (B, 8 × 256). Ignores the order of frames.

    Entry k is the sum over t of a_k(x_t) (x_t - c_k), where x_t are frames projected to 256 and scaled to unit norm,
    and the soft assignments a_k sum to 1 over k. Each entry is scaled to unit norm, so that a long scene counts no
    more than a short one, and then the whole vector, here to a mean square of 1, as after a layer norm: from the
    paper's norm of 1 a head learns too slowly.
    Source: arXiv:1511.07247.
    """

    def __init__(self, width: int, *, sharpness: float = 10.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, HIDDEN)
        self.centres = nn.Parameter(F.normalize(torch.randn(CLUSTERS, HIDDEN), dim=1))
        self.assign = nn.Linear(HIDDEN, CLUSTERS)
        with torch.no_grad():  # assignments start as softmax of -sharpness × squared distance to the centres
            self.assign.weight.copy_(2 * sharpness * self.centres)
            self.assign.bias.fill_(-sharpness)

    def forward(self, features_BTD: Tensor) -> Tensor:
        frames_BTH = F.normalize(self.project(self.norm(features_BTD)), dim=2)
        shares_BTK = self.assign(frames_BTH).softmax(2)
        sums_BKH = shares_BTK.transpose(1, 2) @ frames_BTH - shares_BTK.sum(1)[..., None] * self.centres
        vector = F.normalize(F.normalize(sums_BKH, dim=2).flatten(1), dim=1)
        return vector * math.sqrt(vector.shape[1])


def _check_frames(kind: str, features_BTD: Tensor, num_frames: int) -> None:
    if features_BTD.shape[1] != num_frames:
        raise ModelError(f"temporal pooling '{kind}' was built for {num_frames} frames and got {features_BTD.shape[1]}")


def interpolate_positions(learnt_TH: Tensor, num_frames: int) -> Tensor:
    """Learned positions (T, H) interpolated linearly to (num_frames, H), end points on end points."""
    return F.interpolate(learnt_TH.T[None], num_frames, mode="linear", align_corners=True)[0].T


def build_pooling(kind: Any, width: int, *, num_frames: int) -> tuple[nn.Module, int]:
    """A pooling for features (B, `num_frames`, `width`), a key of `POOLINGS` or an own part; and its output's width."""
    if is_own(kind):
        return own_pooling(kind, width, num_frames)
    return POOLINGS[kind](width, num_frames)


POOLINGS: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "mean": lambda width, frames: (MeanPooling(), width),
    "max": lambda width, frames: (MaxPooling(), width),
    "topk": lambda width, frames: (TopKPooling(), width),
    "diff": lambda width, frames: (DifferencePooling(), 3 * width),
    "slope": lambda width, frames: (SlopePooling(), 2 * width),
    "concat": lambda width, frames: (ConcatPooling(width, frames), frames * width),
    "changes": lambda width, frames: (ChangesPooling(width, frames), frames * width),
    "conv1d": lambda width, frames: (ConvPooling(width), 2 * HIDDEN),
    "gru": lambda width, frames: (RecurrentPooling(width, nn.GRU), 2 * HIDDEN),
    "lstm": lambda width, frames: (RecurrentPooling(width, nn.LSTM), 2 * HIDDEN),
    "attention": lambda width, frames: (AttentionPooling(width, frames), HIDDEN),
    "transformer": lambda width, frames: (TransformerPooling(width, frames), HIDDEN),
    "vlad": lambda width, frames: (VladPooling(width), CLUSTERS * HIDDEN),
}
# Their output does not depend on random weights.
FIXED_POOLINGS = (MeanPooling, MaxPooling, TopKPooling, DifferencePooling, SlopePooling, ConcatPooling, ChangesPooling)
