"""The user's own metric of a classification task: its value, and its 95 % interval over groups."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.errors import RecipeError
from finetune.metrics.intervals import half_width_from_jackknife, jackknife_units, max_units
from finetune.recipe.own_parts import part_name


def metric_name(metric: Callable[..., Any]) -> str:
    """The name of the function or class. Raises RecipeError for one that is no word, such as a lambda's."""
    name = part_name(metric).rpartition(":")[2].rpartition(".")[2]
    if not name.isidentifier():
        raise RecipeError(f"evaluate.metric: {name} is no name for a metric; define it with def")
    return name


def own_metric(metric: Callable[..., Any], truth: np.ndarray, probs_NK: np.ndarray) -> float:
    """The value for class numbers (N,), or bool (N, K) where clips have several classes, and probabilities (N, K)."""
    try:
        return float(metric(truth, probs_NK))
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RecipeError(f"evaluate.metric: {part_name(metric)} gives no number: {reason}") from error


def score_own_metric(
    metric: Callable[..., Any], truth: np.ndarray, probs_NK: np.ndarray, groups: np.ndarray | None
) -> dict[str, Any]:
    """`{name: value, name_ci: interval}`, from the values without each group (N,); None where it is not known.

    `truth` is (N,) or (N, K), `probs_NK` (N, K).
    """
    name, value = metric_name(metric), own_metric(metric, truth, probs_NK)
    units = jackknife_units(groups, len(truth), most=max_units(probs_NK.size))
    interval = None
    if units.count > 1:
        keep = (units.unit_of_row != unit for unit in range(units.count))
        left_out_U = np.array([own_metric(metric, truth[rows], probs_NK[rows]) for rows in keep])
        half = half_width_from_jackknife(value, left_out_U, units)
        interval = [value - half, value + half] if math.isfinite(half) else None
    return {name: value if math.isfinite(value) else None, f"{name}_ci": interval}
