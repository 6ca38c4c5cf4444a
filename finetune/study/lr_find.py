"""The learning rate range test: raise the rate from step to step until the loss explodes (arXiv:1506.01186)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError
from finetune.recipe.schema import Recipe
from finetune.train.from_recipe import new_model
from finetune.train.phase import start_phase
from finetune.train.phase_data import phase_clips
from finetune.train.setup.trial import Trial, build_trial
from finetune.train.step import StepNumbers, TrainState, train_step
from finetune.video.loader import Batch

SMOOTHING = 0.8  # of the running mean of the losses
DIVERGED_FACTOR = 4.0  # times the lowest running mean
IMPROVED_FACTOR = 0.95  # times the first running mean: below that, a rate did something


@dataclass(frozen=True)
class LrRangeTest:
    """Rates that were tried, upwards, the loss at each and its running mean; where the mean is lowest, where it falls
    fastest: the rate to take. Both None where no rate lowered the loss."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    lowest: float | None
    steepest: float | None


def find_lr(
    recipe: Recipe, manifest: Manifest, *, phase: int = 0, low: float = 1e-6, high: float = 1.0, steps: int = 100
) -> LrRangeTest:
    """Train a phase of a recipe for some steps at rates from `low` to `high`; nothing is kept.

    The model is the one that the run begins with, whatever phases come before. The rate is that of what is new; stages
    with less of it have less of it here. Raises RecipeError for a phase that is not there.
    """
    torch.manual_seed(recipe.seed)
    trial = build_trial(new_model(recipe, manifest), manifest, recipe)
    phases = trial.setup.phases
    if not 0 <= phase < len(phases):
        raise RecipeError(f"there is no phases.{phase}; this recipe has {len(phases)}, counted from 0")
    state = start_phase(trial.setup, phase)
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
            if len(losses) == steps or not result.is_finite or has_exploded(losses):
                break
    return analyze_losses(rates, losses)


def analyze_losses(rates: Sequence[float], losses: Sequence[float]) -> LrRangeTest:
    """What a range test says."""
    means = np.array(running_mean(losses))
    finite = np.isfinite(means)
    bottom = int(np.where(finite, means, np.inf).argmin())
    lowest = steepest = None
    if bottom > 1 and means[bottom] < IMPROVED_FACTOR * means[0]:
        slopes = np.gradient(means[: bottom + 1], np.log10(rates[: bottom + 1]))
        lowest, steepest = rates[bottom], rates[int(slopes.argmin())]
    return LrRangeTest(tuple(rates), tuple(losses), tuple(means.tolist()), lowest, steepest)


def running_mean(losses: Sequence[float]) -> list[float]:
    """An exponential one, its start corrected."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def has_exploded(losses: Sequence[float]) -> bool:
    means = running_mean(losses)
    return means[-1] > DIVERGED_FACTOR * min(means)


def _batches(trial: Trial, state: TrainState) -> Iterator[tuple[Batch, StepNumbers]]:
    """Batches of a phase without end, in the order of training."""
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
