"""The learning rate range test: raise the rate from step to step until the loss explodes (arXiv:1506.01186)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError
from finetune.recipe.schema import Recipe
from finetune.train.from_recipe import new_model
from finetune.train.head_start import start_head
from finetune.train.phase import start_phase
from finetune.train.phase_data import phase_clips
from finetune.train.setup.trial import Trial, build_trial
from finetune.train.step import StepNumbers, TrainState, train_step
from finetune.video.loader import Batch

SMOOTHING = 0.8  # of the running mean of the losses
DIVERGED_FACTOR = 4.0  # times the lowest running mean
IMPROVED_FACTOR = 0.95  # times the first running mean: the loss counts as lowered below that


@dataclass(frozen=True)
class LrRangeTest:
    """Learning rates in ascending order, the loss at each, and the running mean of the losses.

    `lowest` is the rate at which the mean is lowest. `steepest` is the rate at which it falls fastest, a good choice to
    train with. Both are None where no rate lowered the loss.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    lowest: float | None
    steepest: float | None


def find_lr(
    recipe: Recipe,
    manifest: Manifest,
    *,
    phase: int = 0,
    lr_range: tuple[float, float] = (1e-6, 1.0),
    steps: int = 100,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LrRangeTest:
    """Train phase `phase` of a recipe for `steps` steps at rising learning rates; nothing is saved.

    The phase starts from the initial model; earlier phases are not trained. `lr_range` is the first and the last
    learning rate of new layers; other stages keep their ratio to them. `progress` is called with the numbers of
    finished and of all steps. Raises RecipeError for a phase that does not exist.
    """
    torch.manual_seed(recipe.seed)
    trial = build_trial(new_model(recipe, manifest), manifest, recipe)
    phases = trial.setup.phases
    if not 0 <= phase < len(phases):
        raise RecipeError(f"there is no phases.{phase}; this recipe has {len(phases)}, counted from 0")
    state = start_phase(trial.setup, phase)
    start_head(trial.setup, trial.loaders)
    low, high = lr_range
    rates: list[float] = []
    losses: list[float] = []
    with trial.loaders, state.limit_threads():
        for batch, numbers in _batches(trial, state):
            rate = low * (high / low) ** (len(losses) / max(1, steps - 1))
            result = train_step(state, batch, numbers, lr_factor=rate * trial.lr_factor / state.phase.lr)
            if result is None:
                continue
            rates.append(rate)
            losses.append(result.loss)
            progress(len(losses), steps)
            if len(losses) == steps or not result.is_finite or has_exploded(losses):
                break
    return analyze_losses(rates, losses)


def analyze_losses(rates: Sequence[float], losses: Sequence[float]) -> LrRangeTest:
    """The result of a range test from its learning rates and losses."""
    means = np.array(running_mean(losses))
    finite = np.isfinite(means)
    bottom = int(np.where(finite, means, np.inf).argmin())
    lowest = steepest = None
    if bottom > 1 and rates[bottom] > rates[0] and means[bottom] < IMPROVED_FACTOR * means[0]:
        slopes = np.gradient(means[: bottom + 1], np.log10(rates[: bottom + 1]))
        lowest, steepest = rates[bottom], rates[int(slopes.argmin())]
    return LrRangeTest(tuple(rates), tuple(losses), tuple(means.tolist()), lowest, steepest)


def running_mean(losses: Sequence[float]) -> list[float]:
    """The exponential running mean after each loss, with bias correction as in Adam."""
    mean, means = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**number))
    return means


def has_exploded(losses: Sequence[float]) -> bool:
    means = running_mean(losses)
    return means[-1] > DIVERGED_FACTOR * min(means)


def _batches(trial: Trial, state: TrainState) -> Iterator[tuple[Batch, StepNumbers]]:
    """The batches of a phase in the order of training, epoch after epoch without end."""
    loader, order = phase_clips(state, trial.loaders)
    step = 0
    for epoch in itertools.count(1):
        order.begin(epoch)
        clips = 0
        for number, batch in enumerate(loader, 1):
            step += 1
            clips += len(batch["label"])
            yield batch, StepNumbers(epoch, number, step)
        if not clips:
            raise DataError(f"{trial.loaders.manifest.source}: none of the training clips can be read")
