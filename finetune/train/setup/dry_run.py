"""Estimate time and memory of a run from two training steps of each phase; the trained weights are discarded."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.feature_cache.frozen_part import cut_activations
from finetune.inference.forward import probabilities
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Recipe
from finetune.runtime.device import wait_for_device
from finetune.train.cache_decision import MIN_SAVED_SECONDS
from finetune.train.log.epoch_table import span_of
from finetune.train.phase import end_phase, start_phase
from finetune.train.phase_data import drawn_views
from finetune.train.setup.trial import build_trial
from finetune.train.step import StepNumbers, TrainSetup, TrainState, train_step
from finetune.video.loader import Batch, worker_count

TRIAL_STEPS = 2  # the first allocates memory, the second is timed


@dataclass(frozen=True)
class PhaseEstimate:
    """The trainable part of a phase, the time of its steps and validations, and the peak memory until its end.

    With `kept`, the features of its frozen part are cached, and `seconds` includes computing them.
    """

    learns: str
    parameters: int
    steps: int
    seconds_per_step: float
    waits_for_data: bool
    seconds: float
    peak_gb: float
    kept: bool = False


def estimate_phases(
    model: VideoClassifier,
    manifest: Manifest,
    recipe: Recipe,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PhaseEstimate]:
    """Train each phase on two batches; the model is not usable afterwards, and no run folder is made.

    Reading is timed in this process and divided by the number of loader processes of training, which read while the
    network computes. `progress` is called with the numbers of finished and of all phases. Raises FinetuneError for
    everything that `fit` would refuse.
    """
    workers = worker_count(recipe.data.workers)
    without_workers = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 0})})
    trial = build_trial(model, manifest, without_workers)
    setup, loaders, recipe = trial.setup, trial.loaders, trial.setup.recipe
    progress(0, len(setup.phases))
    started = time.perf_counter()
    first_batches = islice(loaders.of(setup.phases[0])[0], TRIAL_STEPS)
    batches = [batch for batch in first_batches if batch["clips"] is not None]
    if not batches:
        raise DataError(f"{manifest.source}: none of the first clips can be read")
    reading = (time.perf_counter() - started) / len(batches) / max(1, workers)
    rows = len(manifest.rows("train")), len(manifest.rows("val")) * recipe.evaluate.views
    validating = rows[1] * max(_seconds_to_validate(setup, batches[0]), reading / len(batches[0]["clips"]))
    estimates, count = [], loaders.batches_per_epoch
    for index, phase in enumerate(setup.phases):
        state = start_phase(setup, index)
        computing = _time_step(state, batches)
        steps, epochs = phase.num_steps(count), phase.num_epochs(count)
        seconds = max(computing, reading) if workers else computing + reading
        uncached = steps * seconds + epochs * validating
        cached = _seconds_when_cached(state, batches[0], rows, reading=reading, steps=steps, epochs=epochs)
        is_kept = cached is not None and (cached < uncached - MIN_SAVED_SECONDS or recipe.train.cache != "auto")
        estimates.append(
            PhaseEstimate(
                learns=span_of(state.trainable_stages),
                parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
                steps=steps,
                seconds_per_step=seconds,
                waits_for_data=reading > computing,
                seconds=cached if cached is not None and is_kept else uncached,
                peak_gb=_peak_gb(setup.accelerator.device),
                kept=is_kept,
            )
        )
        end_phase(setup)
        progress(index + 1, len(setup.phases))
    return estimates


def _time_step(state: TrainState, batches: Sequence[Batch]) -> float:
    """Seconds of the last of TRIAL_STEPS training steps."""
    state.wrapped.train()
    seconds = 0.0
    with state.limit_threads():
        for number, batch in enumerate([*batches, *batches][:TRIAL_STEPS], 1):
            started = time.perf_counter()
            train_step(state, batch, StepNumbers(1, number, number), lr_factor=1.0)
            wait_for_device(state.setup.accelerator.device)
            seconds = time.perf_counter() - started
    return seconds


def _seconds_when_cached(
    state: TrainState, batch: Batch, rows: tuple[int, int], *, reading: float, steps: int, epochs: int
) -> float | None:
    """Seconds of the phase if the features of its frozen part are cached; None where they cannot be.

    `rows`: the number of training clips and of validation views.
    """
    recipe, frozen = state.setup.recipe, state.frozen
    if frozen is None or recipe.train.cache == "off":
        return None
    clips, (train_rows, val_clips) = len(batch["clips"]), rows
    started = time.perf_counter()
    features_B = cut_activations(state.setup.model, batch["clips"].flatten(0, 1), frozen).unsqueeze(1)
    once = max(time.perf_counter() - started, reading) / clips
    step = _time_step(state, [batch | {"clips": features_B}])
    views = min(drawn_views(recipe, state.phase), epochs)
    return once * (train_rows * views + val_clips) + steps * step + epochs * val_clips * step / clips


def _seconds_to_validate(setup: TrainSetup, batch: Batch) -> float:
    """Seconds to validate one view of one row."""
    setup.model.eval()
    seconds = 0.0
    for _ in range(TRIAL_STEPS):
        started = time.perf_counter()
        probabilities(setup.model, batch["clips"], precision=setup.precision)
        seconds = time.perf_counter() - started
    return seconds / len(batch["clips"])


def _peak_gb(device: torch.device) -> float:
    """The peak memory of PyTorch on a GPU, or else of this process in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
