"""Headline metrics as text (shares in percent, correlations and R² as numbers), and as rows of a table of tasks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
from finetune.recipe.tasks import CATEGORICAL_KINDS, DENSE_KINDS, primary_task
from finetune.report import words

_PERCENT_KEYS = {key for kind, (key, _) in HEADLINE_METRICS.items() if metric_range(kind) == (0.0, 1.0)}
KIND_NAMES = {
    "classify": "classification",
    "multilabel": "multi-label",
    "ordinal": "ordinal",
    "box": "box",
    "motion": "motion",
    "regress": "regression",
    "detect": "detection",
    "track": "detection and motion",
    "segment": "segmentation",
}


def format_headline_value(key: str, value: float | None) -> str:
    """The value of a headline metric, by its key in results.json."""
    known = _finite_or_none(value)
    return words.percent(known) if key in _PERCENT_KEYS else format_number(None if known is None else round(known, 3))


def format_headline_interval(key: str, ends: Sequence[float] | None) -> str:
    return words.interval(list(ends) if ends else None) if key in _PERCENT_KEYS else number_interval(ends)


def format_number(value: float | None, unit: str = "") -> str:
    """Three significant digits, but at most three decimals; below 0.0005 with an exponent."""
    if _finite_or_none(value) is None:
        return "–"
    size = abs(value or 0.0)
    if not size:
        return f"0{unit}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.1e}" if 0 < size < 0.0005 else f"{value:,.{digits}f}"
    return text.replace("-", "\u2212") + unit


def number_interval(ends: Sequence[float] | None, unit: str = "") -> str:
    return "unknown" if not ends else f"{format_number(ends[0])} to {format_number(ends[1])}{unit}"


def clamp_to_unit(value: float | None) -> float | None:
    """The value clipped to 0…1, for a bar; None where it is missing or not finite."""
    return None if _finite_or_none(value) is None else min(1.0, max(0.0, float(value or 0.0)))


def headline_row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """The headline metric of one task of results.json: values, texts, and `bar` positions in 0…1."""
    key, metric = HEADLINE_METRICS[task["kind"]]
    ends = task.get(f"{key}_ci")
    return {
        "name": name,
        "kind": KIND_NAMES[task["kind"]],
        "metric": metric,
        "value": task[key],
        "interval": ends,
        "text": format_headline_value(key, task[key]),
        "interval_text": format_headline_interval(key, ends),
        "bar": clamp_to_unit(task[key]),
        "bar_interval": [clamp_to_unit(end) for end in ends] if ends else None,
    }


def task_rows(results: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task of a known kind, with its baseline and the loss weight of the last epoch."""
    weights: Mapping[str, float] = next((epoch["weights"] for epoch in reversed(epochs) if epoch.get("weights")), {})
    first, rows = primary_task(results["tasks"]), []
    for index, (name, task) in enumerate(results["tasks"].items()):
        if task["kind"] not in HEADLINE_METRICS:
            continue
        baseline = _baseline_value(task)
        rows.append(
            headline_row(name, task)
            | {"baseline": format_headline_value(HEADLINE_METRICS[task["kind"]][0], baseline)}
            | {"bar_baseline": clamp_to_unit(baseline), "categorical": task["kind"] in CATEGORICAL_KINDS}
            | {"clips": task.get("num_rows", results["num_rows"]), "primary": name == first}
            | {"weight": format_number(weights.get(name)), "index": index}
        )
    return rows


def shared_headlines(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tasks that two or more runs share, each with a headline row per run, None for a run without the task.

    Empty where no run has more than one task.
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
        tasks = [results["tasks"].get(name) for results in runs]
        cells = [headline_row(name, task) if task and task["kind"] == kind else None for task in tasks]
        if sum(cell is not None for cell in cells) > 1:
            rows.append({"name": name, "kind": KIND_NAMES[kind], "metric": HEADLINE_METRICS[kind][1], "runs": cells})
    return rows


def format_deviation(value: float, key: str) -> str:
    """The standard deviation of a headline metric."""
    return words.format_points(value, sign=False) if key in _PERCENT_KEYS else format_number(value)


FILTERS: dict[str, Callable[..., Any]] = {
    "headline": lambda value, key: format_headline_value(key, value),
    "headline_interval": lambda ends, key: format_headline_interval(key, ends),
    "deviation": format_deviation,
    "number": format_number,
}


def _baseline_value(task: Mapping[str, Any]) -> float | None:
    """The headline metric of a constant prediction, or of a random ranking for multi-label; None for objects."""
    if task["kind"] in DENSE_KINDS:
        return None
    if task["kind"] == "multilabel":
        return float(task["chance_map"])
    if task["kind"] in CATEGORICAL_KINDS:
        return float(task["majority"]["top1"])
    return task.get("baseline", {}).get("mean_iou") if task["kind"] == "box" else 0.0


def _finite_or_none(value: float | None) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
