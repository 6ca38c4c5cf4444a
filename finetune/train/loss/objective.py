"""The training objective: the loss of a step, for one task or several.

A step calls `begin` with the batch's targets, `loss` for each part of the batch, and `after_step`. All processes have
to make these calls together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.train.loss.losses import build_loss
from finetune.train.loss.multitask import MultitaskObjective, StepContext

Reduce = Callable[[Tensor], Tensor]  # the sum over processes


class Objective(Protocol):
    """The loss of a step, and the state that it keeps between steps.

    Logits are {task: (B, K)}; targets are class numbers (B,), class probabilities (B, K), or for several tasks
    (B, width) as `TargetLayout` places them. A step is computed in parts. `loss`, shape (), is the mean loss of one
    part, which `train_step` weights; `share` is that weight (fraction of the step's clips × this process's weight), for
    objectives that keep sums over the step. `penalty`, shape (), is added once per step. `classified_rows` are the
    logits (N, K) and targets (N, K) or (N,) of all parts, from which training accuracy is computed. `after_step` takes
    the logits after the update, and the targets, of each part.
    """

    wants_losses_after: bool  # whether `after_step` needs the outputs for the same clips after the update

    def begin(self, targets: Tensor, step: StepContext) -> None: ...
    def loss(self, logits: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor: ...
    def penalty(self) -> Tensor | float: ...
    def classified_rows(
        self, logits: Sequence[Mapping[str, Tensor]], targets: Tensor
    ) -> tuple[Tensor, Tensor] | None: ...
    def after_step(self, outputs_after: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> None: ...
    def after_epoch(self) -> dict[str, Any]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


def build_objective(model: VideoClassifier, manifest: Manifest, recipe: Recipe, reduce: Reduce) -> Objective:
    """The objective that a recipe asks for. The manifest has readable rows only; `reduce` sums over processes."""
    train = recipe.train
    if model.multitask_spec is not None:
        return MultitaskObjective(model, manifest, str(train.loss), smoothing=train.label_smoothing, reduce=reduce)
    counts = list(manifest.counts("train").values())
    return SingleTaskObjective(
        build_loss(
            train.loss,
            class_counts=counts,
            label_smoothing=train.label_smoothing,
            multilabel=recipe.data.multilabel,
        )
    )


@dataclass
class SingleTaskObjective:
    """The loss of a single task; it keeps no state. Shapes as in `Objective`."""

    loss_fn: Callable[[Tensor, Tensor], Tensor]
    wants_losses_after: bool = False

    def begin(self, targets: Tensor, step: StepContext) -> None:
        """Nothing to prepare."""

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
