"""What int8 costs: the predictions of the run and of its quantized model on the same clips, compared in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import RunError
from finetune.metrics.intervals import interval_of_errors
from finetune.metrics.paired_tests import paired_test
from finetune.recipe.tasks import OutputSpec
from finetune.run.fitted import Fitted
from finetune.run.model_json import TaskCost

if TYPE_CHECKING:  # cards describe costs without torch
    from finetune.export.parity import SplitComparison

MAX_LOSS, MAX_SHOWN_LOSS = 0.05, 0.02  # of accuracy: the estimate; and where the interval excludes 0
MAX_MOVED = 0.1  # of numbers: the mean distance from the run's, in units of their spread in training


def measure_cost(comparison: SplitComparison, task: str, output: OutputSpec, fitted: Fitted) -> TaskCost | None:
    """The cost of a task with its 95 % interval over groups, or clips; None where no clip has a label of it.

    Of classes and levels it is the accuracy at int8 minus that of the run, where all classes of a clip must be right.
    Of numbers it is the mean distance of predictions at int8 from the run's, as a share of their spread in training.
    """
    manifest, rows = comparison.manifest, comparison.rows
    groups = None if manifest.groups is None else manifest.groups[rows]
    run_NK, int8_NK = comparison.run[task], comparison.exported[task]
    if not output.is_categorical:
        moved_N = (np.abs(int8_NK - run_NK) / np.array(output.scale)).mean(1)
        interval = interval_of_errors(moved_N, groups)
        return {"metric": "moved", "run": None, "int8": None, "difference": float(moved_N.mean()), "interval": interval}
    labels = manifest.labels_by_task[task]
    known_N = labels.known[rows]
    if not known_N.any():
        return None
    truth, units = labels.values[rows][known_N], None if groups is None else groups[known_N]
    right_run_N, right_int8_N = (_is_right(values[known_N], truth, fitted) for values in (run_NK, int8_NK))
    paired = paired_test(right_run_N, right_int8_N, groups=units)
    return {
        "metric": "accuracy",
        "run": float(right_run_N.mean()),
        "int8": float(right_int8_N.mean()),
        "difference": paired.difference,
        "interval": _finite(paired.interval),
    }


def _finite(ends: tuple[float, float]) -> list[float] | None:
    """The interval, or None where there is one group, or one clip, and so none."""
    return list(ends) if np.isfinite(ends).all() else None


def _is_right(values_NK: np.ndarray, truth: np.ndarray, fitted: Fitted) -> np.ndarray:
    if fitted.thresholds_K is not None:
        return ((values_NK >= fitted.thresholds_K) == truth).all(1)
    return values_NK.argmax(1) == truth


def cost_problem(task: str, cost: TaskCost) -> str | None:
    """Why a cost is too high, or None."""
    difference, interval = cost["difference"], cost["interval"]
    if cost["metric"] == "moved":
        return describe_cost(task, cost) if difference > MAX_MOVED else None
    is_shown = interval is not None and interval[1] < 0
    return describe_cost(task, cost) if difference < -MAX_LOSS or (is_shown and difference < -MAX_SHOWN_LOSS) else None


def describe_cost(task: str, cost: TaskCost) -> str:
    """A cost as text without a full stop."""
    scale, unit = (100, " points") if cost["metric"] == "accuracy" else (1, " of their spread in training")
    ends = cost["interval"]
    between = "unknown" if ends is None else f"{scale * ends[0]:+.3g} to {scale * ends[1]:+.3g}"
    what = "the accuracy of" if cost["metric"] == "accuracy" else "predictions of"
    verb = "changes by" if cost["metric"] == "accuracy" else "move by"
    return f"{what} {task} {verb} {scale * cost['difference']:+.3g}{unit} (95 % interval {between})"


def refuse_cost(costs: dict[str, TaskCost]) -> None:
    """Raise RunError where int8 costs too much."""
    if problems := [problem for task, cost in costs.items() if (problem := cost_problem(task, cost))]:
        raise RunError(
            f"at int8 {'; '.join(problems)}. At most {100 * MAX_LOSS:g} points may be lost, {100 * MAX_SHOWN_LOSS:g} "
            f"where the interval excludes 0, and numbers may move by {MAX_MOVED:g}. Export without --int8"
        )
