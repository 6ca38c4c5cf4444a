"""Heads: from a clip's vector to the logits of a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 256


class HeadShape(NamedTuple):
    """From a vector of `width` to so many `outputs`, by a `kind` of head."""

    width: int
    outputs: int
    kind: str


class Heads(nn.ModuleDict):
    """A head for each task, after dropout: a vector (B, D) that all share, or one for each, to {task: (B, K)}."""

    def __init__(self, shapes: Mapping[str, HeadShape], *, dropout: float) -> None:
        super().__init__(
            {
                task: nn.Sequential(nn.Dropout(dropout), *HEADS[shape.kind](shape.width, shape.outputs))
                for task, shape in shapes.items()
            }
        )

    def forward(self, vectors: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(vectors, Tensor):
            return {task: head(vectors) for task, head in self.items()}
        return {task: head(vectors[task]) for task, head in self.items()}

    def init_bias_to_zero(self, task: str) -> None:
        """Let a head's bias be 0: of numbers, which are brought to a mean of 0."""
        *_, last_layer = self[task].children()
        nn.init.zeros_(last_layer.get_parameter("bias"))

    def init_bias_from_levels(self, task: str, counts: Sequence[int]) -> None:
        """Let the bias of an ordinal task's head say how often each level is exceeded."""
        *_, last_layer = self[task].children()
        counts_K = torch.tensor(counts, dtype=torch.float64) + 1
        above_K = counts_K.flip(0).cumsum(0).flip(0)[1:] / counts_K.sum()
        with torch.no_grad():
            last_layer.get_parameter("bias").copy_(above_K.logit())

    def init_bias_from_prior(self, task: str, class_counts: Sequence[int], *, clips: int | None = None) -> None:
        """Let a head's bias say how often each class occurs, one more counted of each, so that nothing is impossible.

        With `clips`, of how many the counts are, each class is by itself, there or not. The first steps are then not
        spent on learning it (RetinaNet, arXiv:1708.02002).
        """
        counts_K = torch.tensor(class_counts, dtype=torch.float64) + 1
        *_, last_layer = self[task].children()
        bias_K = last_layer.get_parameter("bias")
        assert len(counts_K) == len(bias_K), (class_counts, bias_K.shape)
        prior_K = (counts_K / counts_K.sum()).log() if clips is None else (counts_K / (clips + 2)).logit()
        with torch.no_grad():
            bias_K.copy_(prior_K)


class CosineClassifier(nn.Module):
    """Cosines of the angles to a learnt direction of each class, times a learnt scale, plus a bias.

    A vector's length says nothing. Source: arXiv:1804.09458, which starts the scale at 10 too.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, vector_BD: Tensor) -> Tensor:
        cosines_BK = F.linear(F.normalize(vector_BD, dim=1), F.normalize(self.weight, dim=1))
        return self.log_scale.exp() * cosines_BK + self.bias


def _mlp(width: int, outputs: int) -> list[nn.Module]:
    hidden = nn.Linear(width, HIDDEN)
    nn.init.zeros_(hidden.bias)  # so that what shows nothing gets the prior
    return [hidden, nn.GELU(), nn.Linear(HIDDEN, outputs)]


# Layers of a head; the last has its bias.
HEADS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "linear": lambda width, outputs: [nn.Linear(width, outputs)],
    "mlp": _mlp,
    "cosine": lambda width, outputs: [CosineClassifier(width, outputs)],
}
