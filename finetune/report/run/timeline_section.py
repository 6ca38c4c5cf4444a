"""The section about events in recordings: metrics of the timeline, per class, and how windows became events."""

from typing import Any

from finetune.report import words
from finetune.run.folder import EvaluationFolder
from finetune.text import count

# Key in results.json, name, explanation.
METRICS = (
    ("f1_50", "F1@50", "events found: class right, and overlap with the true event (IoU) at least 50 %"),
    ("f1_25", "F1@25", "the same with an overlap of at least 25 %"),
    ("f1_10", "F1@10", "the same with an overlap of at least 10 %"),
    ("edit", "Edit score", "order of events, whatever their times: 100 % if the sequence of classes is right"),
    ("map_30_70", "mAP, IoU 0.3 to 0.7", "events ranked by score; mean over classes and overlaps 0.3, 0.4 … 0.7"),
    ("map_50_95", "mAP, IoU 0.5 to 0.95", "the same with overlaps 0.5, 0.55 … 0.95"),
    ("frame_accuracy", "Frame accuracy", "share of all time in which the predicted classes are the true ones"),
    ("frame_macro_f1", "Frame macro F1", "mean over classes of the F1 of their time; background is no class"),
)
IOU_OF_TABLE = 0.5


def timeline_context(timeline: dict[str, Any] | None, files: EvaluationFolder) -> dict[str, Any] | None:
    """What the template shows of `timeline` in results.json; None where recordings were not evaluated."""
    if timeline is None:
        return None
    return {
        "summary": _summary(timeline),
        "metrics": timeline_metrics(timeline),
        "background_share": timeline["background_share"],
        "classes": [_class_row(row, timeline["ious"]) for row in timeline["per_class"]],
        "protocol": _protocol(timeline),
        "page": files.timeline_page.name if files.timeline_page.is_file() else None,
    }


def timeline_metrics(timeline: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, explanation, value, interval and baseline of each metric that could be computed."""
    return [
        {
            "name": name,
            "explanation": explanation,
            "value": timeline[key],
            "interval": timeline.get(f"{key}_ci"),
            "baseline": timeline["background_share"] if key == "frame_accuracy" else None,
        }
        for key, name, explanation in METRICS
        if timeline.get(key) is not None
    ]


def _summary(timeline: dict[str, Any]) -> str:
    found = f"{timeline['num_predicted']:,} predicted for {count(timeline['num_events'], 'true event')}"
    where = f"{count(timeline['num_recordings'], 'recording')} ({timeline['seconds'] / 60:.1f} minutes)"
    f1 = "" if timeline["f1_50"] is None else f" F1@50 is {words.percent(timeline['f1_50'])}."
    return f"{found} in {where} of the {timeline['split']} split.{f1}"


def _class_row(row: dict[str, Any], ious: list[float]) -> dict[str, Any]:
    average_precision = row["ap_by_iou"][ious.index(IOU_OF_TABLE)]
    shares = [row["frame_f1"], row["f1_10"], row["f1_25"], row["f1_50"], average_precision]
    return {name: row[name] for name in ("class", "support", "predicted")} | {"shares": shares}


def _protocol(timeline: dict[str, Any]) -> str:
    settings = timeline["settings"]
    windows = f"Windows of {timeline['window_seconds']:.3g} s, one every {timeline['step_seconds']:.3g} s"
    what, then = "its class", ""
    if timeline.get("background") is not None:
        what = f"the probability of anything but “{timeline['background']}”"
        then = "Which classes are in it follows from the most probable sequence. "
    return (
        f"{windows}. Probabilities are averaged over {settings['smoothing_seconds']:g} s; an event begins and ends "
        f"where {what} crosses {settings['low']:g} and must reach {settings['high']:g}; gaps up to "
        f"{settings['max_gap_seconds']:g} s are closed and events under {settings['shortest_seconds']:g} s dropped. "
        f"{then}These settings: {timeline['how']}. Intervals: {timeline['interval']}."
    )
