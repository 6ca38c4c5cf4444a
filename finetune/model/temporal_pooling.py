"""Temporal pooling: features over time (B, T, D) to one vector a clip. All take any T but `concat`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import ModelError

HIDDEN = 256
CLUSTERS = 8


class MeanPooling(nn.Module):
    """The mean over time; blind to order."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        return features_BTD.mean(1)


class MaxPooling(nn.Module):
    """The largest value over time; blind to order."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        return features_BTD.amax(1)


class TopKPooling(nn.Module):
    """Of each dimension the mean of its largest values over time, a quarter of them; blind to order."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        largest = max(1, features_BTD.shape[1] // 4)
        return features_BTD.topk(largest, dim=1, sorted=False).values.mean(1)


class DifferencePooling(nn.Module):
    """The mean, the mean step from a frame to the next, and the mean size of that step: 3 D, no parameters."""

    def forward(self, features_BTD: Tensor) -> Tensor:
        steps = features_BTD.diff(dim=1)
        if steps.shape[1] == 0:
            steps = torch.zeros_like(features_BTD)
        return torch.cat([features_BTD.mean(1), steps.mean(1), steps.abs().mean(1)], dim=1)


class SlopePooling(nn.Module):
    """The mean, and the change over half the clip along the straight line that fits best: 2 D, no parameters.

    The mean step of `diff` is that from the first frame to the last alone; this slope is of all frames.
    """

    def forward(self, features_BTD: Tensor) -> Tensor:
        steps = features_BTD.shape[1]
        times_T = torch.linspace(-1, 1, steps, device=features_BTD.device) if steps > 1 else features_BTD.new_zeros(1)
        weights_T = (times_T / times_T.square().sum().clamp_min(1e-6)).to(features_BTD.dtype)
        return torch.cat([features_BTD.mean(1), (features_BTD * weights_T[:, None]).sum(1)], dim=1)


class ConcatPooling(nn.Module):
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


class RecurrentPooling(nn.Module):
    """A recurrent network (GRU or LSTM) in both directions, and the state it ends with in each: 2 × 256."""

    def __init__(self, width: int, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.net = kind(width, HIDDEN, batch_first=True, bidirectional=True)
        if kind is nn.LSTM:  # a forget gate that starts open keeps the first frames (Gers et al., 2000)
            with torch.no_grad():
                for name in ("bias_ih_l0", "bias_ih_l0_reverse"):
                    self.net.get_parameter(name)[HIDDEN : 2 * HIDDEN] = 1

    def forward(self, features_BTD: Tensor) -> Tensor:
        states_BTH, _ = self.net(self.norm(features_BTD))
        return torch.cat([states_BTH[:, -1, :HIDDEN], states_BTH[:, 0, HIDDEN:]], dim=1)


class AttentionPooling(nn.Module):
    """Attentive pooling with frame positions: eight heads, each with its own weights over time.

    A weight comes from what a frame shows and from where in the clip it stands; without the second part attention
    is blind to order (STEP, arXiv:2503.24298). Positions of another T are read off between the learnt ones.
    """

    def __init__(self, width: int, num_frames: int, *, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, heads, bias=False)  # the softmax over time would cancel one
        self.position = nn.Parameter(torch.randn(num_frames, heads))
        self.value = nn.Linear(width, heads * (HIDDEN // heads))

    def weights(self, features_BTD: Tensor) -> Tensor:
        """How much each head takes of each frame (B, T, heads), together 1 over time."""
        return self._weights(self.norm(features_BTD))

    def _weights(self, normed_BTD: Tensor) -> Tensor:
        return (self.score(normed_BTD) + interpolate_positions(self.position, normed_BTD.shape[1])).softmax(1)

    def forward(self, features_BTD: Tensor) -> Tensor:
        features_BTD = self.norm(features_BTD)
        weights_BTH = self._weights(features_BTD)
        values_BTHD = self.value(features_BTD).unflatten(2, (weights_BTH.shape[2], -1))
        return torch.einsum("bth,bthd->bhd", weights_BTH, values_BTHD).flatten(1)


class TransformerPooling(nn.Module):
    """Two pre-norm layers over the frames and a class token, on a narrow projection; the token at the end: 256.

    Frames have learnt positions; those of another T are read off between them. Source: STEP, arXiv:2503.24298.
    """

    def __init__(self, width: int, num_frames: int, *, layers: int = 2, heads: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, HIDDEN)
        # As large as what the frames show: at a ViT's 0.02 order is not learnt in the steps that a head gets.
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
        token_B1H = self.token.expand(len(hidden_BTH), -1, -1).to(hidden_BTH.dtype)
        return self.last_norm(self.layers(torch.cat([token_B1H, hidden_BTH], dim=1))[:, 0])


class VladPooling(nn.Module):
    """NetVLAD: what the frames near each of eight centres have in common beyond it: 8 × 256, blind to order.

    Each frame is given to the centres in shares, and its differences from them are summed over time. The sum of
    each centre is scaled to one length, so that a long scene counts no more than a short one, and then the whole.
    The mean square of its entries is 1, as after a layer norm: at NetVLAD's own length, 1, a head learns too slowly.
    Source: arXiv:1511.07247.
    """

    def __init__(self, width: int, *, sharpness: float = 10.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, HIDDEN)
        self.centres = nn.Parameter(F.normalize(torch.randn(CLUSTERS, HIDDEN), dim=1))
        self.assign = nn.Linear(HIDDEN, CLUSTERS)
        with torch.no_grad():  # the nearer a centre, the greater its share: -sharpness × squared distance
            self.assign.weight.copy_(2 * sharpness * self.centres)
            self.assign.bias.fill_(-sharpness)

    def forward(self, features_BTD: Tensor) -> Tensor:
        frames_BTH = F.normalize(self.project(self.norm(features_BTD)), dim=2)
        shares_BTK = self.assign(frames_BTH).softmax(2)
        sums_BKH = shares_BTK.transpose(1, 2) @ frames_BTH - shares_BTK.sum(1)[..., None] * self.centres
        vector = F.normalize(F.normalize(sums_BKH, dim=2).flatten(1), dim=1)
        return vector * math.sqrt(vector.shape[1])


def interpolate_positions(learnt_TH: Tensor, num_frames: int) -> Tensor:
    """Positions (num_frames, H) read off along the line through those learnt, first on first and last on last."""
    return F.interpolate(learnt_TH.T[None], num_frames, mode="linear", align_corners=True)[0].T


def build_pooling(kind: str, width: int, *, num_frames: int) -> tuple[nn.Module, int]:
    """The pooling and the width of the vector it gives, for features of `width` over `num_frames` steps."""
    return POOLINGS[kind](width, num_frames)


POOLINGS: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "mean": lambda width, frames: (MeanPooling(), width),
    "max": lambda width, frames: (MaxPooling(), width),
    "topk": lambda width, frames: (TopKPooling(), width),
    "diff": lambda width, frames: (DifferencePooling(), 3 * width),
    "slope": lambda width, frames: (SlopePooling(), 2 * width),
    "concat": lambda width, frames: (ConcatPooling(width, frames), frames * width),
    "conv1d": lambda width, frames: (Conv1d(width), 2 * HIDDEN),
    "gru": lambda width, frames: (RecurrentPooling(width, nn.GRU), 2 * HIDDEN),
    "lstm": lambda width, frames: (RecurrentPooling(width, nn.LSTM), 2 * HIDDEN),
    "attention": lambda width, frames: (AttentionPooling(width, frames), HIDDEN),
    "transformer": lambda width, frames: (TransformerPooling(width, frames), HIDDEN),
    "vlad": lambda width, frames: (VladPooling(width), CLUSTERS * HIDDEN),
}
