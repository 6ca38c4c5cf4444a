"""The loss of a single task, whose clips count each for themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.recipe.tasks import DEFAULT_TASK
from finetune.train.loss.multitask import StepContext


@dataclass
class SingleTaskObjective:
    """The loss of a single task; it keeps no state. Shapes as in `Objective`."""

    loss_fn: Callable[[Tensor, Tensor], Tensor]
    wants_losses_after = False
    wants_embeddings = False

    def begin(self, targets: Tensor, step: StepContext) -> None:
        """Nothing to prepare."""

    def set_embeddings(self, embeddings: Tensor, targets: Tensor) -> None:
        """The embeddings (B, D) are not used."""

    def loss(self, logits: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor:
        return self.loss_fn(logits[DEFAULT_TASK].float(), targets)

    def penalty(self) -> Tensor | float:
        return 0.0

    def classified_rows(self, logits: Sequence[Mapping[str, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([part[DEFAULT_TASK].float() for part in logits]), targets

    def after_step(self, outputs_after: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Nothing to learn from the step."""

    def after_epoch(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """No state to restore."""
