"""What a report shows of a task and of its clips, beside their own numbers."""

import base64
import json
import math
import os.path
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.data.labels import LABEL_SEPARATOR
from finetune.errors import RunError
from finetune.evaluation.choose_clips import PAIRS, choose_clips
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.report import words
from finetune.report.compare.matched_clips import common_folder
from finetune.report.run import calibration_plots as trust
from finetune.report.run import confusion_plot as confusion
from finetune.report.run import regression_plots as task_figures
from finetune.report.run import regression_words as measured
from finetune.run.predictions_csv import PredictionRow
from finetune.storage.safe_read import read_json

MAX_CLIPS_PER_CELL, MAX_CELL_CLIPS = 200, 20_000  # paths
_MAX_PICTURE_BYTES, _MAX_FRAMES = 400_000, 64  # bytes, and frames that a sheet may be said to have
_NAME = re.compile(r"[0-9a-f]{16}(-cam)?\.jpg")


def task_context(
    name: str, task: dict[str, Any], results: dict[str, Any], answers: Sequence[PredictionRow]
) -> dict[str, Any]:
    """A task of results.json, ready for the page."""
    index, first = list(results["tasks"]).index(name), name == primary_task(results["tasks"])
    shown = {"name": name, "index": index, "primary": first, "behind": None, "trust": None, **task}
    if task["kind"] in measured.REGRESSION_KINDS:
        return shown | _regression_context(task, results, index)
    if task["kind"] not in CATEGORICAL_KINDS:
        return shown | {"facts": flatten_json({key: value for key, value in task.items() if key != "kind"})}
    training, never = results["class_counts"].get("train", {}), words.never_predicted(task)
    rows = [
        row
        | {"training": training.get(row["class"]), "never_predicted": row["class"] in never}
        | ({} if row["support"] else {"recall": None, "f1": None})  # 0 % of no clips would mislead
        for row in task["per_class"]
    ]
    shown |= {"trust": _calibration_section(task, index), "has_ap": all("ap" in row for row in rows)}
    shown |= {"answer": measured.answer_html(task, results), "measures": measured.metric_rows(task)}
    if task["kind"] == "multilabel":
        return shown | {"rows": sorted(rows, key=lambda row: (_or_infinity(row["ap"]), row["class"]))}
    figure, blocks = confusion.confusion_figure(task["classes"], task["confusion"], name=f"confusion-{index}")
    return shown | {
        "figure": figure,
        "blocks": blocks,
        "behind": _clips_by_cell(task, answers) if first and not blocks else None,
        "rows": sorted(rows, key=lambda row: (_or_infinity(row["recall"]), row["class"])),
        "pairs": _confused_pairs(task),
    }


def _regression_context(task: dict[str, Any], results: dict[str, Any], index: int) -> dict[str, Any]:
    """Of a task whose answers are boxes, motions or numbers."""
    plots = []
    if task.get("histogram"):
        drawing = task_figures.iou_histogram(task, name=f"overlaps-{index}")
        plots.append({"name": "Overlaps of all clips", "drawing": drawing})
    unit = " (px a frame)" if task["kind"] == "motion" else ""
    outputs = task.get("per_output", [])
    for number, each in enumerate(outputs[: task_figures.MAX_SCATTER_PLOTS]):
        drawn = task_figures.true_vs_predicted(
            each.get("points") or [], called=each["name"], unit=unit, name=f"points-{index}-{number}"
        )
        plots += [{"name": each["name"], "drawing": drawn}] if drawn else []
    return {
        "answer": measured.answer_html(task, results),
        "measures": measured.metric_rows(task),
        "beat": measured.baseline_row(task),
        "plots": plots,
        "outputs": measured.output_table(task),
        "undrawn": max(0, len(outputs) - task_figures.MAX_SCATTER_PLOTS),
    }


def _confused_pairs(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs with most clips; of equal counts, first the one with the larger share of its true class."""
    pairs = [
        {"true": true, "predicted": predicted, "number": number, "of": sum(row)}
        for true, row in zip(task["classes"], task["confusion"], strict=True)
        for predicted, number in zip(task["classes"], row, strict=True)
        if number and true != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair["number"], pair["of"]))[:PAIRS]


def _clips_by_cell(task: dict[str, Any], answers: Sequence[PredictionRow]) -> dict[str, Any] | None:
    """The clips of each cell of the matrix, for a click on it: mistakes first where not all can be listed."""
    if not answers:
        return None
    code_of = {name: code for code, name in enumerate(task["classes"])}
    root, left = common_root(answers), MAX_CELL_CLIPS
    cells: dict[str, list[str]] = {}
    for each in sorted(answers, key=lambda each: (each.is_correct, -each.probability, each.path)):
        if each.label not in code_of or each.predicted not in code_of:
            continue
        listed = cells.setdefault(f"{code_of[each.label]},{code_of[each.predicted]}", [])
        if left and len(listed) < MAX_CLIPS_PER_CELL:
            listed.append(relative_to_root(root, each.path))
            left -= 1
    return {"classes": task["classes"], "cells": cells}


def _calibration_section(task: dict[str, Any], index: int) -> dict[str, Any] | None:
    """None for results that say nothing of it, as older ones."""
    before, after, curves = task.get("calibration"), task.get("calibrated"), task.get("curves", {})
    if before is None:
        return None
    ranked = bool(curves.get("precision"))
    return {
        "before": before,
        "after": after,
        "words": words.calibration_sentence(task),
        "reliability": trust.reliability_diagram(before, after, name=f"reliability-{index}"),
        "abstain": trust.coverage_curve(task["abstain"], name=f"abstain-{index}") if "abstain" in task else None,
        "precision_recall": trust.ranking_curve(curves, "precision", name=f"pr-{index}") if ranked else None,
        "roc": trust.ranking_curve(curves, "recall", name=f"roc-{index}") if ranked else None,
        "each_class": bool(curves.get("classes")),
        "slices": [
            (words.slice_name(each["fact"], part, each["parts"]), part)
            for each in task.get("slices", [])
            for part in each["parts"]
        ],
    }


def clips_context(answers: Sequence[PredictionRow], evaluation: Path, *, multilabel: bool) -> dict[str, Any]:
    """The clips of each kind with their pictures, as far as there are any."""
    chosen, root = choose_clips(answers, multilabel=multilabel), common_root(answers)
    pictures = _pictures(evaluation / "pictures")

    def shown(clips: Sequence[PredictionRow]) -> list[dict[str, Any]]:
        listed = [_clip(each, root, pictures.get(each.path, {}), evaluation / "pictures") for each in clips]
        return [_split_multilabel(clip) for clip in listed] if multilabel else listed

    return {
        "root": root,
        "of": len(answers),
        "number_wrong": sum(not each.is_correct for each in answers),
        "pictures": bool(pictures),
        "explained": any("cam" in each for each in pictures.values()),
        "attended": any(each.get("weights") for each in pictures.values()),
        "mistakes": shown(chosen.mistakes),
        "uncertain": shown(chosen.uncertain),
        "right": shown(chosen.right),
        "pairs": [pair._asdict() | {"clips": shown(pair.clips)} for pair in chosen.pairs],
    }


def _clip(answer: PredictionRow, root: str, pictures: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "path": relative_to_root(root, answer.path),
        "label": answer.label,
        "predicted": answer.predicted,
        "right": answer.is_correct,
        "true": [answer.label],
        "top_k": answer.top_k,
        "frames": _frames(pictures.get("frames")),
        "sheet": _picture(folder, pictures.get("sheet")),
        "cam": _picture(folder, pictures.get("cam")),
        "weights": _weights(pictures.get("weights")),
    }


def _split_multilabel(clip: dict[str, Any]) -> dict[str, Any]:
    """Of a clip that may have several classes, or none."""
    true = [name for name in clip["label"].split(LABEL_SEPARATOR) if name]
    return clip | {"true": true, **{key: clip[key].replace(LABEL_SEPARATOR, ", ") for key in ("label", "predicted")}}


def _pictures(folder: Path) -> dict[str, dict[str, Any]]:
    """What index.json says of each clip, as far as it says what ours says."""
    try:
        found = read_json(folder / "index.json")
    except RunError:
        return {}
    every = found.items() if isinstance(found, dict) else ()
    return {path: pictures for path, pictures in every if isinstance(pictures, dict)}


def _frames(number: object) -> int:
    return number if isinstance(number, int) and 0 < number <= _MAX_FRAMES else 0


def _weights(weights: object) -> list[float]:
    """None at all where one of them is no share, or all are 0."""
    listed = weights if isinstance(weights, list) and len(weights) <= _MAX_FRAMES else []
    shares = [float(each) for each in listed if isinstance(each, (int, float)) and 0 <= each <= 1]
    return shares if len(shares) == len(listed) and any(shares) else []


def _picture(folder: Path, name: object) -> Markup | None:
    """A picture inside the page. A run folder may come from anyone: nothing but such a picture is read from it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    path = folder / name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_PICTURE_BYTES:
            return None
        jpeg = path.read_bytes()
    except OSError:
        return None
    if not jpeg.startswith(b"\xff\xd8\xff"):
        return None
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def common_root(answers: Sequence[PredictionRow]) -> str:
    """The folder that all clips are below; empty where there is none."""
    root = common_folder([each.path for each in answers])
    return root if any(os.path.dirname(each.path) != root for each in answers) else ""  # noqa: PTH120 (a Path takes long)


def relative_to_root(root: str, path: str) -> str:
    """A path from a root."""
    return os.path.relpath(path, root) if root else path


def flatten_json(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as rows of (dotted key, text)."""
    if isinstance(value, dict):
        return [
            row for key, part in value.items() for row in flatten_json(part, f"{prefix}.{key}" if prefix else str(key))
        ]
    parts = value if isinstance(value, list) else [value]
    texts = [part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts]
    return [(prefix, ", ".join(texts) or "none")]


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
