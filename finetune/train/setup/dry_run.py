"""What a run would take: two steps of each phase, learnt from and thrown away."""

import resource
import sys
import time
from dataclasses import dataclass
from itertools import islice

import torch
from torch.optim import Optimizer

from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.feature_cache.frozen_part import cut_activations
from finetune.inference.forward import probabilities
from finetune.model.begin_phase import begin_phase
from finetune.model.classifier import VideoClassifier
from finetune.model.lora import merge_lora
from finetune.recipe.schema import Phase, Recipe
from finetune.train.cache_decision import MIN_SAVED_SECONDS
from finetune.train.log.console import span_of
from finetune.train.optim.optimizer import build_optimizer
from finetune.train.phase_data import cacheable_part, drawn_views
from finetune.train.setup.trial_step import TrialTrainer
from finetune.video.loader import Batch, worker_count

TRIAL_STEPS = 2  # the first makes room, the second is timed


@dataclass(frozen=True)
class PhaseEstimate:
    """Of one phase: what learns, how long its steps and its epochs' validation take, and the memory until then.

    With `kept`, what its frozen part gives is computed once and then read, which `minutes` includes.
    """

    learns: str
    parameters: int
    steps: int
    seconds_per_step: float
    waits_for_data: bool
    minutes: float
    peak_gb: float
    kept: bool = False


def estimate_phases(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> list[PhaseEstimate]:
    """Try each phase on two batches; the model is worth nothing afterwards, and no run folder is made.

    Reading is timed in this process and divided by the loading processes that training would have, which read while
    the network works. Raises FinetuneError for all that `fit` would refuse.
    """
    alone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 0})})
    trial = TrialTrainer(model, manifest, alone)
    started = time.perf_counter()
    first_batches = islice(trial.loaders.of(trial.phases[0])[0], TRIAL_STEPS)
    batches = [batch for batch in first_batches if batch["clips"] is not None]
    if not batches:
        raise DataError(f"{manifest.source}: none of the first clips can be read")
    workers = worker_count(recipe.data.workers)
    reading = (time.perf_counter() - started) / len(batches) / max(1, workers)
    views = len(manifest.rows("val")) * recipe.evaluate.views
    validating = views * max(_seconds_to_validate(trial, batches[0]), reading / len(batches[0]["clips"]))
    found = []
    for phase in trial.phases:
        learning, groups = begin_phase(model, phase)
        optimizer = build_optimizer(str(phase.optimizer), groups)
        computing = _time_step(trial, batches, optimizer)
        count = len(trial.loaders.of(phase)[1])
        steps, epochs = phase.num_steps(count), phase.num_epochs(count)
        seconds = max(computing, reading) if workers else computing + reading
        whole = steps * seconds + epochs * validating
        kept = _seconds_when_cached(trial, phase, batches[0], optimizer, reading=reading, steps=steps, epochs=epochs)
        is_kept = kept is not None and (kept < whole - MIN_SAVED_SECONDS or recipe.train.cache != "auto")
        found.append(
            PhaseEstimate(
                learns=span_of(learning),
                parameters=sum(each.numel() for each in model.parameters() if each.requires_grad),
                steps=steps,
                seconds_per_step=seconds,
                waits_for_data=reading > computing,
                minutes=(kept if kept is not None and is_kept else whole) / 60,
                peak_gb=_peak_gb(trial.device),
                kept=is_kept,
            )
        )
        merge_lora(model)
    return found


def _time_step(trial: TrialTrainer, batches: list[Batch], optimizer: Optimizer) -> float:
    trial.model.train()
    for batch in [*batches, *batches][:TRIAL_STEPS]:
        started = time.perf_counter()
        trial.step(batch, optimizer)
        _wait_for(trial.device)
    return time.perf_counter() - started


def _seconds_when_cached(
    trial: TrialTrainer, phase: Phase, batch: Batch, optimizer: Optimizer, *, reading: float, steps: int, epochs: int
) -> float | None:
    """Of the whole phase, where what its frozen part gives is computed once; None where nothing may be kept."""
    recipe = trial.recipe
    frozen = (
        cacheable_part(trial.model, recipe, trial.precision, lambda text: None) if recipe.train.cache != "off" else None
    )
    if frozen is None:
        return None
    clips = len(batch["clips"])
    started = time.perf_counter()
    entering_B = cut_activations(trial.model, batch["clips"].flatten(0, 1), frozen).unsqueeze(1)
    once = max(time.perf_counter() - started, reading) / clips
    trial.model.train()
    for _ in range(TRIAL_STEPS):
        started = time.perf_counter()
        trial.step(batch | {"clips": entering_B}, optimizer, cut=frozen.cut)
        _wait_for(trial.device)
    step = time.perf_counter() - started
    views = min(drawn_views(recipe, phase), epochs)
    rows, tested = len(trial.manifest.rows("train")), len(trial.manifest.rows("val")) * recipe.evaluate.views
    return once * (rows * views + tested) + steps * step + epochs * tested * step / clips


def _seconds_to_validate(trial: TrialTrainer, batch: Batch) -> float:
    """Of one view of one row."""
    trial.model.eval()
    for _ in range(TRIAL_STEPS):
        started = time.perf_counter()
        probabilities(trial.model, batch["clips"], precision=trial.precision)
    return (time.perf_counter() - started) / len(batch["clips"])


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _peak_gb(device: torch.device) -> float:
    """The most that torch took on a GPU, or this process of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
