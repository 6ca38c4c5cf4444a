"""Optimizers by name, and the rate of each step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


def build_optimizer(name: str, groups: Sequence[dict[str, Any]]) -> Optimizer:
    """`adamw`, or `sgd` with Nesterov momentum 0.9; fused, which is faster on every device that torch runs on."""
    return OPTIMIZERS[name](groups)


def rate_factor(step: int, steps: int, *, schedule: str, warmup: float) -> float:
    """The share of the peak rate at `step` of 0…steps-1 of a phase.

    It rises in a line over the first `warmup` share of the steps, then stays (`constant`) or falls along half a
    cosine to near zero (`cosine`; SGDR, arXiv:1608.03983).
    """
    rising = math.ceil(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return SCHEDULES[schedule]((step - rising) / max(1, steps - rising))


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True),
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}
