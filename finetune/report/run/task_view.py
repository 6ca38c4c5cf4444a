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

from finetune.data.labels import SEPARATOR
from finetune.errors import RunError
from finetune.evaluation.choose_clips import PAIRS, choose_clips
from finetune.recipe.tasks import NAMED, primary_of
from finetune.report import words
from finetune.report.compare.matched_clips import common_folder
from finetune.report.run import calibration_plots as trust
from finetune.report.run import confusion_plot as confusion
from finetune.report.run import regression_plots as task_figures
from finetune.report.run import regression_words as measured
from finetune.run.predictions_csv import Answer
from finetune.storage.safe_read import read_json

BEHIND_A_CELL, BEHIND_ALL = 200, 20_000  # paths
_LARGEST_PICTURE, _MOST_FRAMES = 400_000, 64  # bytes, and frames that a sheet may be said to have
_NAME = re.compile(r"[0-9a-f]{16}(-cam)?\.jpg")


def task_shown(name: str, task: dict[str, Any], results: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """A task of results.json, ready for the page."""
    index, first = list(results["tasks"]).index(name), name == primary_of(results["tasks"])
    shown = {"name": name, "index": index, "primary": first, "behind": None, "trust": None, **task}
    if task["kind"] in measured.MEASURED:
        return shown | _of_numbers(task, results, index)
    if task["kind"] not in NAMED:
        return shown | {"facts": flat({key: value for key, value in task.items() if key != "kind"})}
    training, never = results["class_counts"].get("train", {}), words.never_predicted(task)
    rows = [
        row
        | {"training": training.get(row["class"]), "never_predicted": row["class"] in never}
        | ({} if row["support"] else {"recall": None, "f1": None})  # 0 % of no clips would mislead
        for row in task["per_class"]
    ]
    shown |= {"trust": _trust(task, index), "has_ap": all("ap" in row for row in rows)}
    shown |= {"answer": measured.answer_marked(task, results), "measures": measured.measures_of(task)}
    if task["kind"] == "multilabel":
        return shown | {"rows": sorted(rows, key=lambda row: (_or_infinity(row["ap"]), row["class"]))}
    figure, blocks = confusion.confusion_figure(task["classes"], task["confusion"], name=f"confusion-{index}")
    return shown | {
        "figure": figure,
        "blocks": blocks,
        "behind": _behind(task, answers) if first and not blocks else None,
        "rows": sorted(rows, key=lambda row: (_or_infinity(row["recall"]), row["class"])),
        "pairs": _pairs(task),
    }


def _of_numbers(task: dict[str, Any], results: dict[str, Any], index: int) -> dict[str, Any]:
    """Of a task whose answers are boxes, motions or numbers."""
    plots = []
    if task.get("histogram"):
        drawing = task_figures.overlap_histogram(task, name=f"overlaps-{index}")
        plots.append({"name": "Overlaps of all clips", "drawing": drawing})
    unit = " (px a frame)" if task["kind"] == "motion" else ""
    outputs = task.get("per_output", [])
    for number, each in enumerate(outputs[: task_figures.MOST_SCATTERS]):
        drawn = task_figures.true_and_said(
            each.get("points") or [], called=each["name"], unit=unit, name=f"points-{index}-{number}"
        )
        plots += [{"name": each["name"], "drawing": drawn}] if drawn else []
    return {
        "answer": measured.answer_marked(task, results),
        "measures": measured.measures_of(task),
        "beat": measured.baseline_of(task),
        "plots": plots,
        "outputs": measured.outputs_of(task),
        "undrawn": max(0, len(outputs) - task_figures.MOST_SCATTERS),
    }


def _pairs(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs with most clips; of equal counts, first the one with the larger share of its true class."""
    pairs = [
        {"true": true, "predicted": predicted, "number": number, "of": sum(row)}
        for true, row in zip(task["classes"], task["confusion"], strict=True)
        for predicted, number in zip(task["classes"], row, strict=True)
        if number and true != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair["number"], pair["of"]))[:PAIRS]


def _behind(task: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any] | None:
    """The clips of each cell of the matrix, for a click on it: mistakes first where not all can be listed."""
    if not answers:
        return None
    code_of = {name: code for code, name in enumerate(task["classes"])}
    root, left = root_of(answers), BEHIND_ALL
    cells: dict[str, list[str]] = {}
    for each in sorted(answers, key=lambda each: (each.is_right, -each.probability, each.path)):
        if each.label not in code_of or each.predicted not in code_of:
            continue
        listed = cells.setdefault(f"{code_of[each.label]},{code_of[each.predicted]}", [])
        if left and len(listed) < BEHIND_A_CELL:
            listed.append(below(root, each.path))
            left -= 1
    return {"classes": task["classes"], "cells": cells}


def _trust(task: dict[str, Any], index: int) -> dict[str, Any] | None:
    """None for results that say nothing of it, as older ones."""
    before, after, curves = task.get("calibration"), task.get("calibrated"), task.get("curves", {})
    if before is None:
        return None
    ranked = bool(curves.get("precision"))
    return {
        "before": before,
        "after": after,
        "words": words.sureness(task),
        "reliability": trust.reliability_diagram(before, after, name=f"reliability-{index}"),
        "abstain": trust.abstain_curve(task["abstain"], name=f"abstain-{index}") if "abstain" in task else None,
        "precision_recall": trust.ranking_curve(curves, "precision", name=f"pr-{index}") if ranked else None,
        "roc": trust.ranking_curve(curves, "recall", name=f"roc-{index}") if ranked else None,
        "each_class": bool(curves.get("classes")),
        "slices": [
            (words.slice_name(each["fact"], part, each["parts"]), part)
            for each in task.get("slices", [])
            for part in each["parts"]
        ],
    }


def clips_shown(answers: Sequence[Answer], evaluation: Path, *, multilabel: bool) -> dict[str, Any]:
    """The clips of each kind with their pictures, as far as there are any."""
    chosen, root = choose_clips(answers, multilabel=multilabel), root_of(answers)
    pictures = _pictures(evaluation / "pictures")

    def shown(clips: Sequence[Answer]) -> list[dict[str, Any]]:
        listed = [_clip(each, root, pictures.get(each.path, {}), evaluation / "pictures") for each in clips]
        return [_with_several(clip) for clip in listed] if multilabel else listed

    return {
        "root": root,
        "of": len(answers),
        "number_wrong": sum(not each.is_right for each in answers),
        "pictures": bool(pictures),
        "explained": any("cam" in each for each in pictures.values()),
        "attended": any(each.get("weights") for each in pictures.values()),
        "mistakes": shown(chosen.mistakes),
        "uncertain": shown(chosen.uncertain),
        "right": shown(chosen.right),
        "pairs": [pair._asdict() | {"clips": shown(pair.clips)} for pair in chosen.pairs],
    }


def _clip(answer: Answer, root: str, pictures: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "path": below(root, answer.path),
        "label": answer.label,
        "predicted": answer.predicted,
        "right": answer.is_right,
        "true": [answer.label],
        "top_k": answer.top_k,
        "frames": _frames(pictures.get("frames")),
        "sheet": _picture(folder, pictures.get("sheet")),
        "cam": _picture(folder, pictures.get("cam")),
        "weights": _weights(pictures.get("weights")),
    }


def _with_several(clip: dict[str, Any]) -> dict[str, Any]:
    """Of a clip that may have several classes, or none."""
    true = [name for name in clip["label"].split(SEPARATOR) if name]
    return clip | {"true": true, **{key: clip[key].replace(SEPARATOR, ", ") for key in ("label", "predicted")}}


def _pictures(folder: Path) -> dict[str, dict[str, Any]]:
    """What index.json says of each clip, as far as it says what ours says."""
    try:
        found = read_json(folder / "index.json")
    except RunError:
        return {}
    every = found.items() if isinstance(found, dict) else ()
    return {path: pictures for path, pictures in every if isinstance(pictures, dict)}


def _frames(number: object) -> int:
    return number if isinstance(number, int) and 0 < number <= _MOST_FRAMES else 0


def _weights(weights: object) -> list[float]:
    """None at all where one of them is no share, or all are 0."""
    listed = weights if isinstance(weights, list) and len(weights) <= _MOST_FRAMES else []
    shares = [float(each) for each in listed if isinstance(each, (int, float)) and 0 <= each <= 1]
    return shares if len(shares) == len(listed) and any(shares) else []


def _picture(folder: Path, name: object) -> Markup | None:
    """A picture inside the page. A run folder may come from anyone: nothing but such a picture is read from it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    path = folder / name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_PICTURE:
            return None
        jpeg = path.read_bytes()
    except OSError:
        return None
    if not jpeg.startswith(b"\xff\xd8\xff"):
        return None
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def root_of(answers: Sequence[Answer]) -> str:
    """The folder that all clips are below; empty where there is none."""
    root = common_folder([each.path for each in answers])
    return root if any(os.path.dirname(each.path) != root for each in answers) else ""  # noqa: PTH120 (a Path takes long)


def below(root: str, path: str) -> str:
    """A path from a root."""
    return os.path.relpath(path, root) if root else path


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as rows of (dotted key, text)."""
    if isinstance(value, dict):
        return [row for key, part in value.items() for row in flat(part, f"{prefix}.{key}" if prefix else str(key))]
    parts = value if isinstance(value, list) else [value]
    texts = [part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts]
    return [(prefix, ", ".join(texts) or "none")]


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value
