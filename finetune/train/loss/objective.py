"""The one number that training lowers: the loss of what heads say, and of several tasks each one's, weighed.

A step is: `begin` with the batch's targets, the loss of each of its parts, `after_step`. Processes have to go through
it together.
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
    """Losses, and what of them is kept from step to step."""

    wants_losses_after: bool

    def begin(self, targets: Tensor, step: StepContext) -> None: ...
    def loss(self, said: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor: ...
    def penalty(self) -> Tensor | float: ...
    def judged(self, said: Sequence[Mapping[str, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor] | None: ...
    def after_step(self, again: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> None: ...
    def after_epoch(self) -> dict[str, Any]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


def build_objective(model: VideoClassifier, manifest: Manifest, recipe: Recipe, reduce: Reduce) -> Objective:
    """By a recipe, for the rows of a manifest that can be read; `reduce` sums over processes."""
    train = recipe.train
    if model.multitask_spec is not None:
        return MultitaskObjective(model, manifest, train.loss, smoothing=train.label_smoothing, reduce=reduce)
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
    """The loss of a single task, which remembers nothing."""

    loss_fn: Callable[[Tensor, Tensor], Tensor]
    wants_losses_after: bool = False

    def begin(self, targets: Tensor, step: StepContext) -> None:
        """Nothing is to be settled before the step."""

    def loss(self, said: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor:
        return self.loss_fn(said[DEFAULT_TASK].float(), targets)

    def penalty(self) -> Tensor | float:
        return 0.0

    def judged(self, said: Sequence[Mapping[str, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([each[DEFAULT_TASK].float() for each in said]), targets

    def after_step(self, again: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Nothing follows from the step."""

    def after_epoch(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing was kept."""
