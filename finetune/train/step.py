"""One training step. Training, the dry run, the learning rate range test and automatic settings all use it.

Shapes: B clips, V views, T frames, C channels, H × W pixels, K classes.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.data.labels import TargetLayout
from finetune.feature_cache.frozen_part import FrozenPart, cut_activations
from finetune.model.classifier import EMBEDDING, VideoClassifier
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.frozen_prefix import Cut
from finetune.recipe.schema import Phase, Recipe, Train
from finetune.runtime.device import autocast, seed_device
from finetune.runtime.threads import limit_threads
from finetune.train.loss.multitask import StepContext
from finetune.train.loss.objective import Objective
from finetune.train.mixup import mix_clips
from finetune.train.optim.ema import Ema
from finetune.train.optim.l2_sp import L2SPPenalty
from finetune.video.dataset import draw_seed
from finetune.video.loader import Batch

SHARED_RANK = 2**31  # no process has this rank: it seeds draws that are the same in all processes
COSINE_STEPS = 4  # steps of an epoch in which the gradients of several tasks are compared


@dataclass(frozen=True)
class TrainSetup:
    """What all phases of a run share."""

    model: VideoClassifier
    recipe: Recipe
    phases: tuple[Phase, ...]  # of the recipe, with the defaults of its section `train`
    precision: str  # fp32, bf16 or fp16
    accelerator: Accelerator
    share: tuple[int, int]  # rank of this process, number of processes that train together
    objective: Objective
    ema: Ema
    l2_sp: L2SPPenalty


@dataclass(frozen=True)
class TrainState:
    """The current phase. Its fields are fixed, but the model and the optimizer change with each step."""

    setup: TrainSetup
    phase: Phase
    trainable_stages: list[str]
    groups: list[dict[str, Any]]  # parameter groups of the optimizer
    peak_lrs: list[float]  # of each group
    frozen: FrozenPart | None  # computed by itself, without gradients, before the rest
    wrapped: nn.Module  # the model as training calls it; averages gradients over processes
    optimizer: Any  # Accelerate's wrapper around a torch optimizer

    @property
    def cut(self) -> Cut | None:
        """Where the trainable part begins; None where it begins at the input."""
        return None if self.frozen is None else self.frozen.cut

    @property
    def trains_backbone(self) -> bool:
        return not set(self.trainable_stages) <= set(HEAD_STAGES)

    def limit_threads(self) -> AbstractContextManager[None]:
        """One thread for steps with little arithmetic, which is faster on a CPU."""
        batch_size = self.setup.recipe.train.batch_size
        assert isinstance(batch_size, int)
        return limit_threads(small=self.setup.model.is_small_work(batch_size, cut=self.cut))


class StepNumbers(NamedTuple):
    """The position of a step in the run, counted from 1. It and the seed determine all random draws of the step."""

    epoch: int
    batch: int  # of the epoch
    step: int  # of the phase


@dataclass(frozen=True)
class StepResult:
    """The results of a step, from before its update of the weights.

    `loss` is the mean over this process's clips, penalties on weights not included. `judged` are logits and targets,
    both (N, K), of the clips that have classes; None if no clip has any. Where the gradient is not finite the
    weights stay as they were.
    """

    loss: float
    clips: int
    judged: tuple[Tensor, Tensor] | None
    is_finite: bool


def train_step(
    state: TrainState, batch: Batch, numbers: StepNumbers, *, lr_factor: float, keep_gradients: bool = False
) -> StepResult | None:
    """Update the weights once, at `lr_factor` times the peak learning rates; None where no process has a clip.

    `batch` is from a loader: clips (B, 1, T, C, H, W) uint8, or cached features (B, 1, *), the outputs of the frozen
    part. It is computed in parts of train.batch_size clips. All processes have to call this together.
    """
    setup, train = state.setup, state.setup.recipe.train
    accelerator, objective, (rank, processes) = setup.accelerator, setup.objective, setup.share
    assert isinstance(train.batch_size, int)
    for group, peak in zip(state.optimizer.param_groups, state.peak_lrs, strict=True):
        group["lr"] = peak * lr_factor
    weight = _loss_weight(len(batch["label"]), setup)
    if weight is None:
        return None
    dropout_seed = draw_seed(setup.recipe.seed, numbers.epoch, numbers.batch - 1, rank)
    seed_device(dropout_seed, accelerator.device)
    clips, targets = _to_inputs(state, batch if weight else batch | dummy_batch(setup.model), numbers)
    shared_seed = draw_seed(setup.recipe.seed, numbers.epoch, numbers.batch, SHARED_RANK)
    compares = numbers.batch <= COSINE_STEPS
    objective.begin(targets, StepContext(shared_seed, compares, processes, is_dummy_batch=not weight, rank=rank))
    if objective.wants_embeddings and train.accumulate > 1:
        objective.set_embeddings(_embeddings(state, clips), targets)
        seed_device(dropout_seed, accelerator.device)

    loss, outputs = 0.0, []
    for part, labels, is_last in _micro_batches(clips, targets, train.batch_size):
        with nullcontext() if is_last else accelerator.no_sync(state.wrapped):
            # Accelerate's own autocast is lost where a model is wrapped a second time.
            with autocast(setup.precision, accelerator.device):
                outputs.append(state.wrapped(part, state.cut, objective.wants_embeddings))
            part_share = len(part) / len(clips)
            part_loss = part_share * objective.loss(outputs[-1], labels, weight * part_share)
            penalty = _penalty(state) if is_last else 0.0
            accelerator.backward(weight * part_loss + penalty)
        loss += float(part_loss.detach())
    counted_clips = len(clips) if weight else 0
    if not _clip_gradient(state, loss):
        state.optimizer.zero_grad()
        if accelerator.scaler is not None and train.max_nan_steps:  # otherwise the run ends here
            accelerator.scaler.update()
        return StepResult(loss, counted_clips, None, is_finite=False)

    state.optimizer.step()
    if not keep_gradients:
        state.optimizer.zero_grad()
    if train.ema:
        setup.ema.update(setup.model)
    outputs_after = []
    if objective.wants_losses_after:
        seed_device(dropout_seed, accelerator.device)
        with torch.no_grad(), autocast(setup.precision, accelerator.device):
            parts = _micro_batches(clips, targets, train.batch_size)
            outputs_after = [(state.wrapped(part, state.cut), labels) for part, labels, _ in parts]
    objective.after_step(outputs_after)
    judged = objective.classified_rows(outputs, targets) if weight else None
    return StepResult(loss, counted_clips, judged, is_finite=True)


def _loss_weight(clips: int, setup: TrainSetup) -> float | None:
    """Processes average their gradients: the weight that makes it the mean over all clips; None without any clip."""
    accelerator, (_, processes) = setup.accelerator, setup.share
    if processes == 1:
        return 1.0 if clips else None
    total = int(accelerator.reduce(torch.tensor(clips, device=accelerator.device), reduction="sum"))
    return clips * processes / total if total else None


def dummy_batch(model: VideoClassifier, clips: int = 1) -> dict[str, Tensor]:
    """Black clips without labels, (B, 1, T, C, H, W) uint8.

    For a process that has no clip of a step but must take part in it, with weight zero, and to measure a step.
    """
    shape = (clips, 1, model.num_frames, 3, model.size, model.size)
    label = torch.zeros(clips, dtype=torch.long)
    if model.multitask_spec is not None:
        label = torch.zeros((clips, TargetLayout(model.outputs).width))
    elif model.multilabel:
        label = torch.zeros((clips, len(model.classes)), dtype=torch.bool)
    return {"clips": torch.zeros(shape, dtype=torch.uint8), "label": label}


def _to_inputs(state: TrainState, batch: Batch, numbers: StepNumbers) -> tuple[Tensor, Tensor]:
    """The input of the trainable part, mixed, (B, T, C, H, W) or (B, *), and its targets (B, K), on the device."""
    setup = state.setup
    recipe, device, (rank, _) = setup.recipe, setup.accelerator.device, setup.share
    clips = batch["clips"].flatten(0, 1)
    if state.frozen is not None and clips.dtype == torch.uint8:
        clips = cut_activations(setup.model, clips, state.frozen)
    clips, labels = clips.to(device), batch["label"].to(device)
    targets = labels.float() if labels.ndim == 2 else F.one_hot(labels, len(setup.model.classes)).float()
    if not (recipe.augment.mixup or recipe.augment.cutmix):
        return clips, targets
    seed = draw_seed(recipe.seed, numbers.epoch, numbers.step, rank)
    return mix_clips(clips, targets, augment=recipe.augment, seed=seed)


@torch.no_grad()
def _embeddings(state: TrainState, clips: Tensor) -> Tensor:
    """The heads' input (B, D) for all clips of a step, computed in parts, as the forward passes of the step give it.

    Running statistics of batch norm stay as they are.
    """
    setup = state.setup
    before = [buffer.clone() for buffer in setup.model.buffers()]
    assert isinstance(setup.recipe.train.batch_size, int)
    with autocast(setup.precision, setup.accelerator.device):
        outputs = [setup.model(part, state.cut, True) for part in clips.split(setup.recipe.train.batch_size)]
    for buffer, value in zip(setup.model.buffers(), before, strict=True):
        buffer.copy_(value)
    return torch.cat([output[EMBEDDING].float() for output in outputs])


def _penalty(state: TrainState) -> Tensor | float:
    """The penalties on the weights: L2-SP, and soft sharing between tasks."""
    l2_sp = state.setup.l2_sp.penalty() if state.phase.l2_sp else 0.0
    return l2_sp + state.setup.objective.penalty()


def _micro_batches(clips: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """A batch in parts of `size` clips, and whether each is the last."""
    parts = list(zip(clips.split(size), targets.split(size), strict=True))
    for number, (part, labels) in enumerate(parts, 1):
        yield part, labels, number == len(parts)


def _clip_gradient(state: TrainState, loss: float) -> bool:
    """Clip the gradient to train.clip_grad; whether it is finite, or, where its norm is not computed, the loss.

    All processes get the same answer. With fp16 the scaler skips steps whose gradient is infinite, so the loss decides.
    """
    train: Train = state.setup.recipe.train
    accelerator, (_, processes) = state.setup.accelerator, state.setup.share
    if train.clip_grad is not None or train.max_nan_steps:
        norm = accelerator.clip_grad_norm_(state.wrapped.parameters(), train.clip_grad or math.inf)
        if accelerator.scaler is None:
            return math.isfinite(float(norm))
    if processes == 1:
        return math.isfinite(loss)
    finite = torch.tensor(float(math.isfinite(loss)), device=accelerator.device)
    return int(accelerator.reduce(finite, reduction="sum")) == processes
