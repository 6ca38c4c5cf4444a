"""The headline figures of tasks beside each other, as text: shares in percent, correlations and R² as numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.report import words

_PERCENT_KEYS = {key for kind, (key, _) in HEADLINE_METRICS.items() if metric_range(kind) == (0.0, 1.0)}
KINDS = {
    "classify": "one class",
    "multilabel": "several classes",
    "ordinal": "a level",
    "box": "a box",
    "motion": "a motion",
    "regress": "a number",
}


def figure(key: str, value: float | None) -> str:
    """A headline figure by its key in results.json."""
    known = _finite_or_none(value)
    return words.percent(known) if key in _PERCENT_KEYS else number(None if known is None else round(known, 3))


def reach(key: str, ends: Sequence[float] | None) -> str:
    """Its interval."""
    return words.interval(list(ends) if ends else None) if key in _PERCENT_KEYS else number_interval(ends)


def number(value: float | None, unit: str = "") -> str:
    """With three digits that count, as far as a number below 1 has not more of them than a thousandth."""
    if _finite_or_none(value) is None:
        return "–"
    size = abs(value or 0.0)
    if not size:
        return f"0{unit}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.1e}" if 0 < size < 0.0005 else f"{value:,.{digits}f}"
    return text.replace("-", "\u2212") + unit


def number_interval(ends: Sequence[float] | None, unit: str = "") -> str:
    return "unknown" if not ends else f"{number(ends[0])} to {number(ends[1])}{unit}"


def clamp_to_unit(value: float | None) -> float | None:
    """Where a figure stands on a scale from 0 to 1; what is beyond its ends stands there."""
    return None if _finite_or_none(value) is None else min(1.0, max(0.0, float(value or 0.0)))


def headline_row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """The headline figure of one task of results.json, in words and on a scale from 0 to 1."""
    key, called = HEADLINE_METRICS[task["kind"]]
    ends = task.get(f"{key}_ci")
    return {
        "name": name,
        "kind": KINDS[task["kind"]],
        "figure": called,
        "value": task[key],
        "interval": ends,
        "text": figure(key, task[key]),
        "reach": reach(key, ends),
        "at": clamp_to_unit(task[key]),
        "ends": [clamp_to_unit(end) for end in ends] if ends else None,
    }


def task_rows(results: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task whose kind is known, with what it has to beat and the weight that it ended with."""
    weights: Mapping[str, float] = next((epoch["weights"] for epoch in reversed(epochs) if epoch.get("weights")), {})
    first, rows = primary_task(results["tasks"]), []
    for index, (name, task) in enumerate(results["tasks"].items()):
        if task["kind"] not in HEADLINE_METRICS:
            continue
        beat = _baseline_value(task)
        rows.append(
            headline_row(name, task)
            | {"beat": figure(HEADLINE_METRICS[task["kind"]][0], beat), "beat_at": clamp_to_unit(beat)}
            | {"clips": task.get("num_rows", results["num_rows"]), "primary": name == first}
            | {"weight": number(weights.get(name)), "index": index, "of_classes": task["kind"] in CATEGORICAL_KINDS}
        )
    return rows


def shared_headlines(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the results of several runs, each task that two or more have, with its headline figure, or None, in each.

    An empty list where no run has more than one task.
    """
    if all(len(results["tasks"]) < 2 for results in runs):
        return []
    known = dict.fromkeys(
        (name, task["kind"])
        for results in runs
        for name, task in results["tasks"].items()
        if task["kind"] in HEADLINE_METRICS
    )
    rows = []
    for name, kind in known:
        found = [results["tasks"].get(name) for results in runs]
        cells = [headline_row(name, task) if task and task["kind"] == kind else None for task in found]
        if sum(cell is not None for cell in cells) > 1:
            rows.append({"name": name, "kind": KINDS[kind], "figure": HEADLINE_METRICS[kind][1], "runs": cells})
    return rows


def deviation(value: float, key: str) -> str:
    """A standard deviation of such figures."""
    return words.points(value, sign=False) if key in _PERCENT_KEYS else number(value)


FILTERS: dict[str, Callable[..., Any]] = {
    "headline": lambda value, key: figure(key, value),
    "deviation": deviation,
    "number": number,
}


def _baseline_value(task: Mapping[str, Any]) -> float | None:
    """What a guess gets that looks at no clip; with a constant nothing goes together, and it explains nothing."""
    if task["kind"] == "multilabel":
        return float(task["chance_map"])
    if task["kind"] in CATEGORICAL_KINDS:
        return float(task["majority"]["top1"])
    return task.get("baseline", {}).get("mean_iou") if task["kind"] == "box" else 0.0


def _finite_or_none(value: float | None) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
