"""The section of a detection, tracking or segmentation task: tables, curves, confusion matrix and pictures."""

from pathlib import Path
from typing import Any

from finetune.recipe.tasks import DETECTION_KINDS
from finetune.report import words
from finetune.report.headline_text import format_number
from finetune.report.run import regression_plots, task_words
from finetune.report.run.clips_section import common_folder, read_picture, read_picture_index, relative_to_root
from finetune.report.run.confusion_plot import MAX_MATRIX_CLASSES, confusion_matrix
from finetune.report.run.dense_plots import precision_recall_figure
from finetune.run.folder import EvaluationFolder
from finetune.run.results import Results
from finetune.video.class_colours import hex_colour

_TRACKING_METRICS = (  # key, title, explanation
    ("hota", "HOTA", "higher order tracking accuracy: detection and association, arXiv:2009.07736"),
    ("deta", "Detection accuracy (DetA)", "how well objects are found, whatever their identity"),
    ("assa", "Association accuracy (AssA)", "how well found objects keep their identity"),
    ("idf1", "IDF1", "F1 of identities: each true track is matched with one predicted track"),
    ("mota", "MOTA", "1 − (missed + invented + identity switches) ÷ objects; may be below 0"),
)
_SIZES = (("small", "less than 32² pixels"), ("medium", "32² to 96² pixels"), ("large", "more than 96² pixels"))


def dense_context(
    name: str, task: dict[str, Any], results: Results, evaluation: EvaluationFolder | None, *, index: int
) -> dict[str, Any]:
    """What the template shows of a task whose outputs are boxes or pixels; `index` is its place among the tasks."""
    is_detection = task["kind"] in DETECTION_KINDS
    plots = [] if not is_detection else _motion_plots(task, index)
    colours = {name: hex_colour(place) for place, name in enumerate(task["classes"])}
    rows = [row | {"colour": colours[row["class"]]} for row in task["per_class"]]
    key = "ap" if is_detection else "iou"
    has_matrix = len(task["classes"]) < MAX_MATRIX_CLASSES
    return {
        "dense": True,
        "summary": task_words.summary_html(task, results),
        "metrics": task_words.metric_rows(task),
        "rows": sorted(rows, key=lambda row: (row[key] is None, row[key] or 0.0, row["class"])),
        "sizes": _sizes(task) if is_detection else [],
        "tracking": _tracking(task),
        "plots_of_motion": plots,
        "precision_recall_figure": _precision_recall(task, index),
        "figure": _confusion(task, index) if has_matrix else None,
        "frames": [] if evaluation is None else _worst_frames(name, evaluation),
        "file": EvaluationFolder(Path()).detections(name).name if is_detection else "",
    }


def _sizes(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Average precision by size of the true objects; sizes that do not occur are left out."""
    return [
        {"name": size.capitalize(), "explanation": area, "ap": task[f"ap_{size}"], "ap_ci": task.get(f"ap_{size}_ci")}
        for size, area in _SIZES
        if task.get(f"ap_{size}") is not None
    ]


def _tracking(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Metrics of tracks, where the labels have identities."""
    rows = []
    for key, title, explanation in _TRACKING_METRICS:
        if (value := task.get(key)) is not None:
            ends = task.get(f"{key}_ci")
            texts = {"text": words.percent(value), "interval_text": words.interval(ends) if ends else ""}
            minus = {name: text.replace("-", "\u2212") for name, text in texts.items()}
            rows.append({"title": title, "explanation": explanation, **minus})
    return rows


def _motion_plots(task: dict[str, Any], index: int) -> list[dict[str, Any]]:
    """Predicted against true motion of found objects; empty for kind detect."""
    plots = []
    for number, output in enumerate(task.get("per_output", [])):
        figure = regression_plots.true_vs_predicted(
            output.get("points") or [], output=output["name"], unit=" (px/frame)", name=f"motion-{index}-{number}"
        )
        text = f"correlation {format_number(output.get('correlation'))}"
        plots += [{"name": output["name"], "figure": figure, "text": text}] if figure else []
    return plots


def _precision_recall(task: dict[str, Any], index: int) -> Any:
    curves = task.get("precision_recall") or {}
    return precision_recall_figure(curves, name=f"precision-recall-{index}") if curves.get("precision") else None


def _confusion(task: dict[str, Any], index: int) -> Any:
    """Objects by true and detected class, or the share of the pixels of each true class."""
    name = f"confusion-{index}"
    if task["kind"] in DETECTION_KINDS:
        rows, columns = [*task["classes"], "(nothing)"], [*task["classes"], "(missed)"]
        return confusion_matrix(rows, task["confusion"], columns=columns, noun="object", name=name)
    return confusion_matrix(task["classes"], task["confusion"], noun="pixel", name=name)


def _worst_frames(name: str, evaluation: EvaluationFolder) -> list[dict[str, Any]]:
    """The frames that the evaluation drew for this task, worst first."""
    ranked: list[tuple[int, str, dict[str, Any]]] = []
    for path, entry in read_picture_index(evaluation).items():
        drawn = entry.get("tasks", {}).get(name) if isinstance(entry.get("tasks"), dict) else None
        if isinstance(drawn, dict) and (picture := read_picture(evaluation.pictures, drawn.get("picture"))):
            text, rank = drawn.get("text"), drawn.get("rank")
            frame = {"path": path, "picture": picture, "text": text if isinstance(text, str) else ""}
            ranked.append((rank if isinstance(rank, int) else 0, path, frame))
    shown = [frame for _, _, frame in sorted(ranked, key=lambda item: item[:2])]
    root = common_folder([frame["path"] for frame in shown]) if len(shown) > 1 else ""
    return [frame | {"path": relative_to_root(root, frame["path"])} for frame in shown]
