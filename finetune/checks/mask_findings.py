"""Findings about masks: missing and wrong files, classes without a pixel in a split, pixels by class."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.checks.finding import Finding
from finetune.checks.object_findings import unlabelled_files
from finetune.checks.rows import Rows
from finetune.data.labels import Labels
from finetune.data.splits import SPLITS
from finetune.errors import shorten_list
from finetune.recipe.object_fields import UNLABELLED
from finetune.text import count
from finetune.video.masks import mask_problem, read_mask
from finetune.video.probe_files import FileInspection

LISTED = 3  # problems in a message


def mask_findings(rows: Rows, good: Mapping[int, FileInspection]) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Findings about the masks of each segmentation task, and a table with a line per class.

    `good` are the inspections of readable rows. Every mask is read.
    """
    findings: list[Finding] = []
    table: list[dict[str, Any]] = []
    for name, labels in rows.labels_by_task.items():
        if labels.kind == "segment":
            problems, pixels_NK = _read_masks(labels, good)
            per_class = _class_rows(labels.names, pixels_NK, rows.splits)
            table += [{"task": name, **row} for row in per_class]
            of_task = [*_file_findings(problems), *_class_findings(per_class, rows), *unlabelled_files(rows, labels)]
            findings += [replace(finding, what=f"tasks.{name}: {finding.what}") for finding in of_task]
    return findings, table


def _read_masks(labels: Labels, good: Mapping[int, FileInspection]) -> tuple[dict[int, str], np.ndarray]:
    """What is wrong with masks, by row, and the pixels of each row and class (N, K); 0 where there is no right mask."""
    problems: dict[int, str] = {}
    pixels_NK = np.zeros((len(labels.known), len(labels.names)), dtype=np.int64)
    for row, inspection in good.items():
        if labels.known[row]:
            path, size = Path(os.fsdecode(labels.values[row])), (inspection.info.height, inspection.info.width)
            if problem := mask_problem(path, labels.names, size):
                problems[row] = problem
            else:
                pixels_NK[row] = np.bincount(read_mask(path).ravel(), minlength=UNLABELLED)[: len(labels.names)]
    return problems, pixels_NK


def _class_rows(names: Sequence[str], pixels_NK: np.ndarray, splits: Sequence[str]) -> list[dict[str, Any]]:
    """For each class the frames with it in each split, and its share of all labelled pixels."""
    of_split, total = np.array(splits), max(1, int(pixels_NK.sum()))
    return [
        {
            "class": name,
            "number": number,
            "frames": int((pixels_N > 0).sum()),
            **{split: int((pixels_N[of_split == split] > 0).sum()) for split in SPLITS},
            "share": round(float(pixels_N.sum() / total), 6),
        }
        for number, (name, pixels_N) in enumerate(zip(names, pixels_NK.T, strict=True))
    ]


def _file_findings(problems: Mapping[int, str]) -> Iterator[Finding]:
    if problems:
        listed = shorten_list(list(problems.values()), limit=LISTED)
        what = f"{count(len(problems), 'mask')} cannot be used: {listed}."
        yield Finding("mend", "mask", what, "Correct them, or leave the column empty in these rows.", tuple(problems))


def _class_findings(per_class: Sequence[Mapping[str, Any]], rows: Rows) -> Iterator[Finding]:
    if not any(rows.splits):
        return
    untaught = [row["class"] for row in per_class if not row["train"]]
    if untaught:
        what = f"No mask of train has a pixel of {_quoted(untaught)}: a model cannot learn to predict it."
        yield Finding("mend", "untaught", what, "Move some of its frames to train, or remove the class.")
    for split in SPLITS[1:]:
        absent = [row["class"] for row in per_class if row["train"] and not row[split]]
        if absent and split in rows.splits:
            what = f"No mask of {split} has a pixel of {_quoted(absent)}: its IoU cannot be measured there."
            yield Finding("warning", "absent", what, f"Add frames with each class to {split}.")


def _quoted(names: Sequence[str]) -> str:
    return shorten_list([f"“{name}”" for name in names])
