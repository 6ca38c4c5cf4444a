"""Heads: from a clip's vector to the logits of a task."""

from collections.abc import Mapping

from torch import Tensor, nn


class Heads(nn.ModuleDict):
    """One linear head a task, after dropout: a vector (B, D) to {task: logits (B, K)}."""

    def __init__(self, width: int, tasks: Mapping[str, int], *, dropout: float) -> None:
        super().__init__(
            {task: nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs)) for task, outputs in tasks.items()}
        )

    def forward(self, vector_BD: Tensor) -> dict[str, Tensor]:
        return {task: head(vector_BD) for task, head in self.items()}
