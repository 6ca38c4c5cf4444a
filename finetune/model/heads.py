"""Heads: from a clip's vector (B, D) to the outputs (B, K) of a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.model.own_modules import own_head
from finetune.recipe.own_parts import is_own

HIDDEN = 256  # width of the hidden layer of the head `mlp`


class HeadShape(NamedTuple):
    """The kind of a head, a key of `HEADS` or an own part, with the widths of its input and output."""

    width: int
    outputs: int
    kind: Any


class Heads(nn.ModuleDict):
    """One head per task, after dropout: a shared vector (B, D), or {task: (B, D)}, to {task: outputs (B, K)}."""

    def __init__(self, shapes: Mapping[str, HeadShape], *, dropout: float) -> None:
        super().__init__({task: nn.Sequential(nn.Dropout(dropout), *_layers(shape)) for task, shape in shapes.items()})
        self.own_tasks = frozenset(task for task, shape in shapes.items() if is_own(shape.kind))

    def forward(self, vectors: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A shared vector (B, D), or {task: (B, D)}, to {task: outputs (B, K)}."""
        if isinstance(vectors, Tensor):
            return {task: head(vectors) for task, head in self.items()}
        return {task: head(vectors[task]) for task, head in self.items()}

    def init_bias_to_zero(self, task: str) -> None:
        """Start at 0, the mean of standardised numbers."""
        self._start_bias(task, torch.zeros(()))

    def init_bias_from_levels(self, task: str, counts: Sequence[int]) -> None:
        """Start the bias of an ordinal task at the log odds that each level but the lowest is reached.

        `counts` are the training rows per level; one is added to each, so that no probability is 0.
        """
        counts_K = torch.tensor(counts, dtype=torch.float64) + 1
        above_K = counts_K.flip(0).cumsum(0).flip(0)[1:] / counts_K.sum()
        self._start_bias(task, above_K.logit())

    def init_bias_from_prior(self, task: str, class_counts: Sequence[int], *, clips: int | None = None) -> None:
        """Start the bias at the class prior, so that the first steps need not learn it (RetinaNet, arXiv:1708.02002).

        The prior is log (n_k + 1) / sum, or with `clips`, the number of rows that were counted, for independent
        classes the log odds of (n_k + 1) / (clips + 2).
        """
        counts_K = torch.tensor(class_counts, dtype=torch.float64) + 1
        self._start_bias(task, (counts_K / counts_K.sum()).log() if clips is None else (counts_K / (clips + 2)).logit())

    def _start_bias(self, task: str, start: Tensor) -> None:
        """Set the bias (K,) of the last layer to `start`, (K,) or (), unless the head is an own part."""
        if task in self.own_tasks:
            return
        *_, last_layer = self[task].children()
        bias_K = last_layer.get_parameter("bias")
        assert start.shape in {(), bias_K.shape}, (start.shape, bias_K.shape)
        with torch.no_grad():
            bias_K.copy_(start)


def _layers(shape: HeadShape) -> list[nn.Module]:
    if is_own(shape.kind):
        return [own_head(shape.kind, shape.width, shape.outputs)]
    return HEADS[shape.kind](shape.width, shape.outputs)


class CosineClassifier(nn.Module):
    """Scaled cosine similarity to a learned vector per class: s cos(x, w_k) + b_k, (B, D) to (B, K).

    The norm of x has no effect. The learned scale s starts at 10, as in the paper. Source: arXiv:1804.09458.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, vector_BD: Tensor) -> Tensor:
        """(B, D) to (B, K)."""
        cosines_BK = F.linear(F.normalize(vector_BD, dim=1), F.normalize(self.weight, dim=1))
        return self.log_scale.exp() * cosines_BK + self.bias


def _mlp(width: int, outputs: int) -> list[nn.Module]:
    hidden = nn.Linear(width, HIDDEN)
    nn.init.zeros_(hidden.bias)  # a zero vector gives the prior
    return [hidden, nn.GELU(), nn.Linear(HIDDEN, outputs)]


# The layers of each kind of head; the last one has the bias that is initialised above.
HEADS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "linear": lambda width, outputs: [nn.Linear(width, outputs)],
    "mlp": _mlp,
    "cosine": lambda width, outputs: [CosineClassifier(width, outputs)],
}
