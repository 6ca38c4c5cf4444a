"""The training objective: the loss of a step, for one task or several.

A step calls `begin` with the batch's targets, `loss` for each part of the batch, and `after_step`. Where the loss
compares all clips of the step, `set_embeddings` is called after `begin` if there may be several parts. All processes
have to make these calls together.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.recipe.contrastive import CONTRASTIVE_LOSS
from finetune.recipe.schema import Recipe
from finetune.train.loss.contrastive import ContrastiveObjective, supervised_contrastive
from finetune.train.loss.losses import build_loss
from finetune.train.loss.multitask import MultitaskObjective, StepContext
from finetune.train.loss.single_task import SingleTaskObjective

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
    wants_embeddings: bool  # whether `loss` needs the heads' input, EMBEDDING of the outputs

    def begin(self, targets: Tensor, step: StepContext) -> None: ...
    def set_embeddings(self, embeddings: Tensor, targets: Tensor) -> None: ...
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
    is_contrastive = train.loss == CONTRASTIVE_LOSS
    loss = build_loss(
        "cross_entropy" if is_contrastive else train.loss,
        class_counts=counts,
        label_smoothing=train.label_smoothing,
        multilabel=recipe.data.multilabel,
    )
    if is_contrastive:
        return ContrastiveObjective(loss, partial(supervised_contrastive, temperature=train.temperature), reduce)
    return SingleTaskObjective(loss)
