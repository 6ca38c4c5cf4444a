"""Say in words how good a task is, above all one whose answers are boxes, motions, numbers or levels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.recipe.tasks import CATEGORICAL_KINDS
from finetune.report import words
from finetune.report.headline_text import clamp_to_unit, number, number_interval

REGRESSION_KINDS = ("box", "motion", "regress")  # kinds whose answers are numbers


class MetricInfo(NamedTuple):
    """A figure of results.json; the unit is `%` of a share, `_UNIT_RANGE` of a figure that is 1 at best."""

    key: str
    called: str
    name: str
    explained: str
    unit: str = ""


_UNIT_RANGE, _PX, _PX_A_FRAME = "of one", "\u00a0px", "\u00a0px a frame"
METRICS = {
    "box": (
        MetricInfo(
            "mean_iou",
            "mean IoU",
            "Overlap with the true box",
            "mean IoU: area that both boxes cover by the area that either does",
            "%",
        ),
        MetricInfo("ap50", "AP50", "Overlap of a half or more", "AP50: share of such clips", "%"),
        MetricInfo("ap75", "AP75", "Overlap of three quarters or more", "AP75: share of such clips", "%"),
        MetricInfo(
            "center_error",
            "centre error",
            "From centre to centre",
            "centre error: mean distance, in pixels of the source",
            _PX,
        ),
    ),
    "motion": (
        MetricInfo(
            "correlation",
            "correlation",
            "Goes with the true motion",
            "correlation, the mean of the directions",
            _UNIT_RANGE,
        ),
        MetricInfo("r2", "R²", "Explains how motions vary", "R²: 1 is all, 0 no more than their mean", _UNIT_RANGE),
        MetricInfo(
            "endpoint_error",
            "endpoint error",
            "Off by",
            "endpoint error: mean length of the difference, px a frame",
            _PX,
        ),
        MetricInfo(
            "angle_error", "angle error", "Off in direction by", "angle error: median over what moves at all", "°"
        ),
    ),
    "regress": (
        MetricInfo("r2", "R²", "Explains how values vary", "R²: 1 is all, 0 no more than their mean", _UNIT_RANGE),
        MetricInfo("correlation", "correlation", "Goes with the true value", "correlation", _UNIT_RANGE),
        MetricInfo("mae", "MAE", "Off by", "MAE: mean absolute error"),
        MetricInfo("rmse", "RMSE", "Off by, large errors first", "RMSE: root of the mean squared error"),
    ),
    "ordinal": (
        MetricInfo("within_one", "within one level", "At most one level off", "share of all clips", "%"),
        MetricInfo("mean_distance", "levels off", "Levels off", "mean distance from the true level"),
        MetricInfo(
            "kappa",
            "weighted kappa",
            "Agreement beyond chance",
            "quadratic weighted kappa: 1 is full, 0 that of chance",
            _UNIT_RANGE,
        ),
    ),
}
_BASELINES = {
    "box": ("mean_iou", "the mean box of the training clips", "%"),
    "motion": ("endpoint_error", "the mean motion of the training clips", _PX),
    "regress": ("mae", "the mean of the training clips", ""),
}


def metric_rows(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of a task with their intervals as text, and where they stand on a scale from 0 to 1, if they do."""
    mark = task.get("baseline", {}).get("mean_iou") if task["kind"] == "box" else None
    rows = []
    for measure in METRICS.get(task["kind"], ()):
        if measure.key not in task:
            continue
        ends = task.get(f"{measure.key}_ci")
        scaled = measure.unit in ("%", _UNIT_RANGE)
        rows.append(
            measure._asdict()
            | {"text": _format_value(task[measure.key], measure.unit), "reach": _format_interval(ends, measure.unit)}
            | {"scaled": scaled, "at": clamp_to_unit(task[measure.key]) if scaled else None}
            | {"ends": [clamp_to_unit(end) for end in ends] if ends and scaled else None}
            | {"mark": clamp_to_unit(mark) if measure.key == "mean_iou" else None}
        )
    return rows


def baseline_row(task: dict[str, Any]) -> dict[str, Any] | None:
    """What a guess gets that looks at no clip: always the same answer."""
    key, always, unit = _BASELINES.get(task["kind"], ("", "", ""))
    value = task.get("baseline", {}).get(key)
    if value is None:
        return None
    names = {measure.key: measure.called for measure in METRICS[task["kind"]]}
    at = clamp_to_unit(value) if unit == "%" else None
    return {"name": names[key], "always": always, "text": _format_value(value, unit), "at": at}


def output_table(task: dict[str, Any]) -> dict[str, Any]:
    """The table of the columns of a task, and what is told of each: "names" and "rows", of text."""
    listed = task.get("per_output", [])
    keys = [key for key in _OUTPUT_METRICS if any(key in each for each in listed)]
    rows = [(each["name"], [number(each.get(key)) for key in keys]) for each in listed]
    return {"names": [_OUTPUT_METRICS[key] for key in keys], "rows": rows}


_OUTPUT_METRICS = {"correlation": "Correlation", "r2": "R²", "mae": "MAE", "rmse": "RMSE"}


def answer(task: dict[str, Any], results: dict[str, Any]) -> str:
    """The first sentence of a report, or of a section of a task."""
    if task["kind"] in CATEGORICAL_KINDS:
        return words.answer(task, results)
    baseline = task.get("baseline", {}).get(_BASELINES[task["kind"]][0])
    return f"On {words.test_set_text(task, results)} {_SENTENCES[task['kind']](task, baseline)}."


def answer_html(task: dict[str, Any], results: dict[str, Any]) -> Markup:
    """The same for a page, its figure in strong print."""
    value = task[HEADLINE_METRICS[task["kind"]][0]]
    figure = escape(words.whole_percent(value) if task["kind"] in (*CATEGORICAL_KINDS, "box") else number(value))
    return escape(answer(task, results)).replace(figure, Markup("<strong>{}</strong>").format(figure), 1)


def _box_sentence(task: dict[str, Any], baseline: float | None) -> str:
    reach = f"; 95\u00a0% interval {words.whole_interval(task['mean_iou_ci'])}" if task.get("mean_iou_ci") else ""
    told = f"the model's box overlaps the true one by {words.whole_percent(task['mean_iou'])} in the mean (IoU{reach})"
    return told + (
        "" if baseline is None else f"; always {_BASELINES['box'][1]} would by {words.whole_percent(baseline)}"
    )


def _motion_sentence(task: dict[str, Any], baseline: float | None) -> str:
    told = (
        f"the motion that the model tells goes with the true one at a correlation of {number(task['correlation'])}"
        f"{_in_brackets(task.get('correlation_ci'))} and is off by {number(task['endpoint_error'], _PX_A_FRAME)}"
    )
    always = f"; always {_BASELINES['motion'][1]} would be off by {number(baseline, _PX_A_FRAME)}"
    return told + ("" if baseline is None else always)


def _number_sentence(task: dict[str, Any], baseline: float | None) -> str:
    ends = task.get("r2_ci")
    reach = f"; 95\u00a0% interval {number_interval(ends)}" if ends else ""
    told = (
        f"the model's values reach an R² of {number(task['r2'])} (1 at best, 0 for a constant{reach}) "
        f"and are off by {number(task['mae'])} in the mean"
    )
    always = f"; always {_BASELINES['regress'][1]} would be off by {number(baseline)}"
    return told + ("" if baseline is None else always)


_SENTENCES = {"box": _box_sentence, "motion": _motion_sentence, "regress": _number_sentence}


def warnings_of(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, what to do) of tasks whose answers are numbers."""
    for name, task in results["tasks"].items():
        if task["kind"] not in REGRESSION_KINDS:
            continue
        key, floor = HEADLINE_METRICS[task["kind"]][0], 0.0
        if task["kind"] == "box":
            floor = task.get("baseline", {}).get("mean_iou", 0.0)
        ends = task.get(f"{key}_ci")
        if ends and ends[0] <= floor:
            prefix = f"Task “{name}”: " if len(results["tasks"]) > 1 else ""
            always = f"always {_BASELINES[task['kind']][1]}"
            may_be = f"This may be no better than {always}: the interval includes it."
            yield (
                prefix + (f"This is worse than {always}." if ends[1] < floor else may_be),
                "Train longer, unfreeze more stages, or add training clips with such labels.",
            )


def _format_value(value: float | None, unit: str) -> str:
    return words.percent(value) if unit == "%" else number(value, "" if unit == _UNIT_RANGE else unit)


def _format_interval(ends: list[float] | None, unit: str) -> str | None:
    """None where no interval is known of such a figure."""
    if not ends:
        return None
    return words.interval(ends) if unit == "%" else number_interval(ends)


def _in_brackets(ends: list[float] | None) -> str:
    return f" (95\u00a0% interval {number_interval(ends)})" if ends else ""
