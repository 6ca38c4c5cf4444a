"""The sections of one task: headline, metrics, confusion matrix, per-class table, calibration, regression plots."""

import json
import math
from collections.abc import Sequence
from typing import Any

from finetune.evaluation.choose_clips import PAIRS
from finetune.recipe.tasks import CATEGORICAL_KINDS, DENSE_KINDS, primary_task
from finetune.report import words
from finetune.report.run import calibration_plots, regression_plots, task_words
from finetune.report.run.clips_section import common_root, relative_to_root
from finetune.report.run.confusion_plot import confusion_figure
from finetune.report.run.dense_section import dense_context
from finetune.report.run.open_set_section import open_set_rows
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import PredictionRow
from finetune.run.results import Results

MAX_CLIPS_PER_CELL, MAX_LISTED_CLIPS = 200, 20_000


def task_context(
    name: str,
    results: Results,
    predictions: Sequence[PredictionRow] | None,
    *,
    evaluation: EvaluationFolder | None = None,
) -> dict[str, Any]:
    """A task of results.json with what the templates show of it; `predictions` are of the primary task.

    Pictures are those of the folder `evaluation`.
    """
    task = results["tasks"][name]
    index, is_primary = list(results["tasks"]).index(name), name == primary_task(results["tasks"])
    context = {"name": name, "index": index, "primary": is_primary, "cell_clips": None, "calibration_section": None}
    context |= {"open_set_rows": open_set_rows(task), **task}
    if task["kind"] in task_words.REGRESSION_KINDS:
        return context | _regression_context(task, results, index)
    if task["kind"] in DENSE_KINDS:
        return context | dense_context(name, task, results, evaluation, index=index)
    if task["kind"] not in CATEGORICAL_KINDS:  # of a newer version
        return context | {"facts": flatten_json({key: value for key, value in task.items() if key != "kind"})}
    context |= {
        "summary": task_words.summary_html(task, results),
        "metrics": task_words.metric_rows(task),
        "calibration_section": _calibration_section(task, index),
        "has_ap": all("ap" in row for row in task["per_class"]),
    }
    rows = _per_class_rows(task, results)
    if task["kind"] == "multilabel":
        return context | {"rows": sorted(rows, key=lambda row: (_or_infinity(row["ap"]), row["class"]))}
    figure, block_size = confusion_figure(task["classes"], task["confusion"], name=f"confusion-{index}")
    return context | {
        "figure": figure,
        "block_size": block_size,
        "cell_clips": _clips_by_cell(task, predictions or ()) if is_primary and not block_size else None,
        "rows": sorted(rows, key=lambda row: (_or_infinity(row["recall"]), row["class"])),
        "pairs": _confused_pairs(task),
    }


def _per_class_rows(task: dict[str, Any], results: Results) -> list[dict[str, Any]]:
    training, never = results["class_counts"].get("train", {}), words.never_predicted(task)
    return [
        row
        | {"training": training.get(row["class"]), "never_predicted": row["class"] in never}
        | ({} if row["support"] else {"recall": None, "f1": None})  # 0 % of no clips would mislead
        for row in task["per_class"]
    ]


def _regression_context(task: dict[str, Any], results: Results, index: int) -> dict[str, Any]:
    """For a box, motion or regression task."""
    outputs, plots = task.get("per_output", []), []
    if task.get("histogram"):
        figure = regression_plots.iou_histogram(task, name=f"overlaps-{index}")
        plots.append({"name": "IoU of all clips", "figure": figure})
    unit = " (px/frame)" if task["kind"] == "motion" else ""
    for number, output in enumerate(outputs[: regression_plots.MAX_SCATTER_PLOTS]):
        scatter = regression_plots.true_vs_predicted(
            output.get("points") or [], output=output["name"], unit=unit, name=f"points-{index}-{number}"
        )
        plots += [{"name": output["name"], "figure": scatter}] if scatter else []
    return {
        "summary": task_words.summary_html(task, results),
        "metrics": task_words.metric_rows(task),
        "baseline_row": task_words.baseline_row(task),
        "plots": plots,
        "outputs": task_words.output_table(task),
        "num_outputs_without_plot": max(0, len(outputs) - regression_plots.MAX_SCATTER_PLOTS),
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


def _clips_by_cell(task: dict[str, Any], predictions: Sequence[PredictionRow]) -> dict[str, Any] | None:
    """The clips of each cell of the matrix, shown on a click; mistakes first, as not all clips may fit the limits."""
    if not predictions:
        return None
    code_of = {name: code for code, name in enumerate(task["classes"])}
    root, left = common_root(predictions), MAX_LISTED_CLIPS
    cells: dict[str, list[str]] = {}
    for row in sorted(predictions, key=lambda row: (row.is_correct, -row.probability, row.path)):
        if row.label not in code_of or row.predicted not in code_of:
            continue
        paths = cells.setdefault(f"{code_of[row.label]},{code_of[row.predicted]}", [])
        if left and len(paths) < MAX_CLIPS_PER_CELL:
            paths.append(relative_to_root(root, row.path))
            left -= 1
    return {"classes": task["classes"], "cells": cells}


def _calibration_section(task: dict[str, Any], index: int) -> dict[str, Any] | None:
    """None for results without calibration, as older versions wrote them."""
    before, after, curves = task.get("calibration"), task.get("calibrated"), task.get("curves", {})
    if before is None:
        return None
    plots = calibration_plots
    has_curves = bool(curves.get("precision"))
    return {
        "before": before,
        "after": after,
        "sentence": words.calibration_sentence(task),
        "reliability": plots.reliability_diagram(before, after, name=f"reliability-{index}"),
        "coverage": plots.coverage_curve(task["abstain"], name=f"abstain-{index}") if "abstain" in task else None,
        "precision_recall": plots.ranking_curve(curves, "precision", name=f"pr-{index}") if has_curves else None,
        "roc": plots.ranking_curve(curves, "recall", name=f"roc-{index}") if has_curves else None,
        "has_class_curves": bool(curves.get("classes")),
        "slices": [
            (words.slice_name(slices["fact"], part, slices["parts"]), part)
            for slices in task.get("slices", [])
            for part in slices["parts"]
        ],
    }


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
