"""Text of all kinds of tasks but plain classes: metrics with explanations, headline sentence, warnings."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.recipe.tasks import CATEGORICAL_KINDS, DENSE_KINDS
from finetune.report import words
from finetune.report.headline_text import clamp_to_unit, format_number, number_interval
from finetune.run.results import Results
from finetune.text import count

REGRESSION_KINDS = ("box", "motion", "regress")


class MetricInfo(NamedTuple):
    """A metric of results.json: `name` for running text, `title` for a table.

    `unit` is "%" for a share and `_UNIT_RANGE` for a metric whose best value is 1; both get a bar.
    """

    key: str
    name: str
    title: str
    explanation: str
    unit: str = ""


_UNIT_RANGE, _PX, _PX_PER_FRAME = "of one", "\u00a0px", "\u00a0px/frame"
_R2 = MetricInfo("r2", "R²", "R²", "share of variance explained: 1 is perfect, 0 is a constant prediction", _UNIT_RANGE)
DETECTION_METRICS = (
    MetricInfo(
        "ap", "AP", "AP", "average precision: mean over classes and over IoU 0.50, 0.55 … 0.95, as in COCO", "%"
    ),
    MetricInfo("ap50", "AP50", "AP50", "a box counts as found at an IoU of at least 0.5", "%"),
    MetricInfo("ap75", "AP75", "AP75", "a box counts as found at an IoU of at least 0.75", "%"),
    MetricInfo(
        "precision", "precision", "Precision", "share of the detections above the score threshold that are right", "%"
    ),
    MetricInfo("recall", "recall", "Recall", "share of the objects that are found above the score threshold", "%"),
)
METRICS = {
    "box": (
        MetricInfo("mean_iou", "mean IoU", "Mean IoU", "overlap with the true box: intersection over union", "%"),
        MetricInfo("ap50", "AP50", "AP50", "share of clips with an IoU of at least 0.5", "%"),
        MetricInfo("ap75", "AP75", "AP75", "share of clips with an IoU of at least 0.75", "%"),
        MetricInfo(
            "center_error", "centre error", "Centre error", "mean distance of box centres, in source pixels", _PX
        ),
    ),
    "motion": (
        MetricInfo(
            "correlation",
            "correlation",
            "Correlation",
            "Pearson's r with the true motion, mean of x and y",
            _UNIT_RANGE,
        ),
        _R2,
        MetricInfo(
            "endpoint_error",
            "endpoint error",
            "Endpoint error",
            "mean length of the difference between the motion vectors",
            _PX_PER_FRAME,
        ),
        MetricInfo(
            "angle_error", "angle error", "Angle error", "median angle to the true motion, over clips that move", "°"
        ),
    ),
    "regress": (
        _R2,
        MetricInfo("correlation", "correlation", "Correlation", "Pearson's r with the true values", _UNIT_RANGE),
        MetricInfo("mae", "MAE", "MAE", "mean absolute error"),
        MetricInfo("rmse", "RMSE", "RMSE", "root mean squared error: large errors weigh more"),
    ),
    "ordinal": (
        MetricInfo(
            "within_one", "within one level", "Within one level", "share of clips off by at most one level", "%"
        ),
        MetricInfo("mean_distance", "mean level error", "Mean level error", "mean distance from the true level"),
        MetricInfo(
            "kappa",
            "weighted kappa",
            "Weighted kappa",
            "quadratic weights: 1 is full agreement, 0 is chance",
            _UNIT_RANGE,
        ),
    ),
    "detect": DETECTION_METRICS,
    "track": (
        *DETECTION_METRICS,
        MetricInfo(
            "motion_correlation",
            "motion correlation",
            "Motion correlation",
            "Pearson's r with the true motion of the objects that are found, mean of x and y",
            _UNIT_RANGE,
        ),
        MetricInfo("motion_error", "motion error", "Motion error", "mean length of the motion's error", _PX_PER_FRAME),
    ),
    "segment": (
        MetricInfo("miou", "mean IoU", "Mean IoU", "mean over classes: intersection over union of their pixels", "%"),
        MetricInfo("pixel_accuracy", "pixel accuracy", "Pixel accuracy", "share of pixels with the true class", "%"),
        MetricInfo(
            "steadiness",
            "steadiness",
            "Steadiness",
            "share of pixels that keep their predicted class from one labelled frame to the next, where the true class "
            "stays",
            "%",
        ),
    ),
}
_BASELINES = {  # metric, the constant prediction, unit
    "box": ("mean_iou", "the mean box of the training clips", "%"),
    "motion": ("endpoint_error", "the mean motion of the training clips", _PX_PER_FRAME),
    "regress": ("mae", "the mean of the training clips", ""),
}


def metric_rows(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a task with their intervals as text; `bar` positions are in 0…1, None without a bar."""
    baseline = task.get("baseline", {}).get("mean_iou") if task["kind"] == "box" else None
    rows = []
    own = str(task.get("own_metric", ""))
    own_metrics = [MetricInfo(own, own, own, "your own metric")] if own.isidentifier() else []
    for metric in (*METRICS.get(task["kind"], ()), *own_metrics):
        if metric.key not in task:
            continue
        value, ends = task[metric.key], task.get(f"{metric.key}_ci")
        has_bar = metric.unit in ("%", _UNIT_RANGE)
        rows.append(
            metric._asdict()
            | {"text": _format_value(value, metric.unit), "interval_text": _format_interval(ends, metric.unit)}
            | {"has_bar": has_bar, "bar": clamp_to_unit(value) if has_bar else None}
            | {"bar_interval": [clamp_to_unit(end) for end in ends] if ends and has_bar else None}
            | {"bar_baseline": clamp_to_unit(baseline) if metric.key == "mean_iou" else None}
        )
    return rows


def baseline_row(task: dict[str, Any]) -> dict[str, Any] | None:
    """The metric of a constant prediction; None where results.json has none."""
    key, constant, unit = _BASELINES.get(task["kind"], ("", "", ""))
    value = task.get("baseline", {}).get(key)
    if value is None:
        return None
    names = {metric.key: metric.name for metric in METRICS[task["kind"]]}
    bar = clamp_to_unit(value) if unit == "%" else None
    return {"name": names[key], "constant": constant, "text": _format_value(value, unit), "bar": bar}


def output_table(task: dict[str, Any]) -> dict[str, Any]:
    """The table of metrics per output column: "names" of the metrics, and "rows" of (column, texts)."""
    outputs = task.get("per_output", [])
    keys = [key for key in _OUTPUT_METRICS if any(key in output for output in outputs)]
    rows = [(output["name"], [format_number(output.get(key)) for key in keys]) for output in outputs]
    return {"names": [_OUTPUT_METRICS[key] for key in keys], "rows": rows}


_OUTPUT_METRICS = {"correlation": "Correlation", "r2": "R²", "mae": "MAE", "rmse": "RMSE"}


def task_summary(task: dict[str, Any], results: Results) -> str:
    """The headline sentence of a report, or of the section of a task."""
    if task["kind"] in CATEGORICAL_KINDS:
        return words.class_task_summary(task, results)
    if task["kind"] in DENSE_KINDS:
        return _dense_summary(task, words.test_set_text(task, results))
    baseline = task.get("baseline", {}).get(_BASELINES[task["kind"]][0])
    return _SUMMARIES[task["kind"]](task, words.test_set_text(task, results), baseline)


def summary_html(task: dict[str, Any], results: Results) -> Markup:
    """`task_summary` with the headline value emphasized."""
    value = task[HEADLINE_METRICS[task["kind"]][0]]
    if value is None:
        return escape(task_summary(task, results))
    is_share = task["kind"] in (*CATEGORICAL_KINDS, *DENSE_KINDS, "box")
    text = escape(words.whole_percent(value) if is_share else format_number(value))
    return escape(task_summary(task, results)).replace(text, Markup("<strong>{}</strong>").format(text), 1)


def _dense_summary(task: dict[str, Any], test_set: str) -> str:
    key = HEADLINE_METRICS[task["kind"]][0]
    metric, value, ends = _HEADLINE_NAMES[key], task[key], task.get(f"{key}_ci")
    if value is None:
        return f"{metric} is unknown: nothing is labelled in {test_set}."
    interval_text = f" (95\u00a0% interval {words.whole_interval(ends)})" if ends else ""
    text = f"{metric} is {words.whole_percent(value)}{interval_text} on {test_set}"
    if task["kind"] == "segment":
        return f"{text}."
    text += f"; at a score of at least {task['score_threshold']:.2f}, "
    if task["precision"] is None:
        return f"{text}nothing is detected."
    recall = f"{words.whole_percent(task['recall'])} of {count(task['num_objects'], 'object')} are found"
    return f"{text}{recall}, and {words.whole_percent(task['precision'])} of the detections are right."


_HEADLINE_NAMES = {"ap": "Average precision (AP)", "miou": "Mean IoU"}


def _box_summary(task: dict[str, Any], test_set: str, baseline: float | None) -> str:
    ends = task.get("mean_iou_ci")
    interval_text = f" (95\u00a0% interval {words.whole_interval(ends)})" if ends else ""
    text = f"Mean IoU with the true boxes is {words.whole_percent(task['mean_iou'])}{interval_text} on {test_set}"
    if baseline is None:
        return f"{text}."
    return f"{text}; always predicting {_BASELINES['box'][1]} reaches {words.whole_percent(baseline)}."


def _motion_summary(task: dict[str, Any], test_set: str, baseline: float | None) -> str:
    ends = task.get("correlation_ci")
    interval_text = f" (95\u00a0% interval {number_interval(ends)})" if ends else ""
    text = (
        f"Correlation with the true motion is {format_number(task['correlation'])}{interval_text}, and the mean "
        f"endpoint error {format_number(task['endpoint_error'], _PX_PER_FRAME)}, on {test_set}"
    )
    if baseline is None:
        return f"{text}."
    error = format_number(baseline, _PX_PER_FRAME)
    return f"{text}; always predicting {_BASELINES['motion'][1]} has an endpoint error of {error}."


def _number_summary(task: dict[str, Any], test_set: str, baseline: float | None) -> str:
    ends = task.get("r2_ci")
    interval_text = f" (95\u00a0% interval {number_interval(ends)})" if ends else ""
    text = (
        f"R² is {format_number(task['r2'])}{interval_text}, and the mean absolute error {format_number(task['mae'])}, "
        f"on {test_set}"
    )
    if baseline is None:
        return f"{text}."
    return f"{text}; always predicting {_BASELINES['regress'][1]} has an error of {format_number(baseline)}."


_SUMMARIES = {"box": _box_summary, "motion": _motion_summary, "regress": _number_summary}


def regression_warnings(results: Results) -> Iterator[tuple[str, str]]:
    """(problem, what to do) pairs of box, motion and regression tasks that do not clearly beat a constant."""
    for name, task in results["tasks"].items():
        if task["kind"] not in REGRESSION_KINDS:
            continue
        key, baseline = HEADLINE_METRICS[task["kind"]][0], 0.0
        if task["kind"] == "box":
            baseline = task.get("baseline", {}).get("mean_iou", 0.0)
        ends = task.get(f"{key}_ci")
        if ends and ends[0] <= baseline:
            prefix = f"Task “{name}”: " if len(results["tasks"]) > 1 else ""
            constant = f"always predicting {_BASELINES['box'][1]}" if task["kind"] == "box" else "a constant prediction"
            no_evidence = f"no evidence that the model beats {constant}: the interval includes it."
            problem = f"the model is worse than {constant}." if ends[1] < baseline else no_evidence
            yield (
                prefix + (problem if prefix else problem[0].upper() + problem[1:]),
                "Train longer, unfreeze more stages, or add training clips with such labels.",
            )


def _format_value(value: float | None, unit: str) -> str:
    return words.percent(value) if unit == "%" else format_number(value, "" if unit == _UNIT_RANGE else unit)


def _format_interval(ends: list[float] | None, unit: str) -> str | None:
    if not ends:
        return None
    return words.interval(ends) if unit == "%" else number_interval(ends)
