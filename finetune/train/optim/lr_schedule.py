"""Learning rate schedules: the factor on the peak rate at each step of a phase, or of the run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Phase, Train

ONE_CYCLE_START, ONE_CYCLE_FLOOR = 1 / 25, 1e-4  # first and last factor of the one-cycle policy
TRIANGULAR_RATIO = 1 / 32  # lowest to highest rate of the slanted triangle
MILESTONES = (0.4, 0.8)


def lr_factor(step: int, steps: int, *, schedule: str, warmup: float) -> float:
    """The factor on the peak learning rate, in 0…1, at `step` of 0…steps-1.

    It rises linearly over the first `warmup` share of the steps, then stays (`constant`), falls linearly
    (`linear`) or along half a cosine (`cosine`; SGDR, arXiv:1608.03983) to near zero, or falls to a tenth after 40 %
    and after 80 % of all steps (`step`, as TSN is trained). `slanted_triangular` rises from and falls to 1/32
    linearly (arXiv:1801.06146), `one_cycle` from 1/25 and to near zero along cosines (arXiv:1708.07120).
    """
    rising = math.ceil(steps * warmup)
    if step < rising:
        return WARMUP_SHAPES.get(schedule, _line)((step + 1) / (rising + 1))
    if schedule == "step":
        return 0.1 ** sum(step >= share * steps for share in MILESTONES)
    return DECAY_SHAPES[schedule]((step - rising) / max(1, steps - rising))


def _line(done: float) -> float:
    return done


def _half_cosine(done: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))


WARMUP_SHAPES: dict[str, Callable[[float], float]] = {
    "slanted_triangular": lambda done: TRIANGULAR_RATIO + (1 - TRIANGULAR_RATIO) * done,
    "one_cycle": lambda done: 1 - (1 - ONE_CYCLE_START) * _half_cosine(done),
}
DECAY_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": _half_cosine,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
    "slanted_triangular": lambda done: 1 - (1 - TRIANGULAR_RATIO) * done,
    "one_cycle": lambda done: ONE_CYCLE_FLOOR + (1 - ONE_CYCLE_FLOOR) * _half_cosine(done),
}


def phase_lr_factor(phase: Phase, train: Train, *, in_phase: tuple[int, int], in_run: tuple[int, int]) -> float:
    """The factor at step `in_phase` (step, steps) of the phase's schedule, or at `in_run` of one over the whole run."""
    if train.schedule_over == "run":
        return lr_factor(*in_run, schedule=train.schedule, warmup=train.warmup)
    return lr_factor(*in_phase, schedule=phase.schedule or train.schedule, warmup=phase.warmup or 0.0)


def mean_stage_lrs(
    model: VideoClassifier, groups: Sequence[dict[str, Any]], peaks: Sequence[float], factor: float
) -> dict[str, float]:
    """The mean learning rate of each stage in an epoch, with mean factor `factor`; 0 for frozen stages."""
    rates = {group["stage"]: peak * factor for group, peak in zip(groups, peaks, strict=True)}
    return {stage: rates.get(stage, 0.0) for stage in model.stages}
