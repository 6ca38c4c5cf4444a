"""Predictions by models that were not trained on the clips: of all folds of a study, or of a run on val and test."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.data.intervals import clip_name
from finetune.data.labels import split_labels
from finetune.errors import RunError, suggest_similar
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task, require_classes
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.read import find_evaluation, read_results_file
from finetune.run.results import Results
from finetune.storage.safe_read import damage_as_run_error, read_array
from finetune.text import from_spreadsheet_cell


@dataclass(frozen=True)
class LabelledClip:
    """A clip as it was evaluated: its label, and its group, which may be empty. Times are in seconds."""

    path: str
    start: float
    end: float
    label: str
    group: str
    boxes: str = ""

    @property
    def name(self) -> str:
        return clip_name(self.path, self.start, self.end, self.boxes)


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Probabilities (N, K) of one task's classes for N clips; `origin` says which clips: `of all folds`, `of test`."""

    clips: tuple[LabelledClip, ...]
    classes: tuple[str, ...]
    is_multilabel: bool
    probs_NK: np.ndarray
    origin: str

    @property
    def targets(self) -> np.ndarray:
        """The classes of the labels, bool (N, K)."""
        names = [split_labels(clip.label) if self.is_multilabel else (clip.label,) for clip in self.clips]
        return np.array([[name in of_clip for name in self.classes] for of_clip in names], dtype=bool)


def read_out_of_fold(folder: Path, task: str | None = None) -> OutOfFold:
    """The predictions of a folder written by `kfold`, or of a run for those of its splits test and val that it has.

    `task` is by default the first one with classes. Raises RunError where there are none, or the task has no classes.
    """
    is_study = RunFolder(folder).study.is_file()
    found = {split: find_evaluation(folder, split) for split in (("test",) if is_study else ("test", "val"))}
    results_of = {place.path: read_results_file(place.results) for place in found.values() if place.exists()}
    if is_study and not any("folds" in results for results in results_of.values()):
        raise RunError(f"{folder}: has no results of all folds; give a folder of `finetune kfold`, and finish it first")
    if not results_of:
        raise RunError(f"{folder}: has no results on test or val; evaluate the run, or use `finetune kfold`")
    with damage_as_run_error(folder):
        parts = [_read(EvaluationFolder(path), results, task) for path, results in results_of.items()]
    clips = tuple(clip for part in parts for clip in part.clips)
    if len({part.classes for part in parts}) > 1:
        raise RunError(f"{folder}: its evaluations have different classes; evaluate the run again")
    splits = "of all folds" if is_study else "of " + " and ".join(results["split"] for results in results_of.values())
    return replace(parts[0], clips=clips, probs_NK=np.concatenate([part.probs_NK for part in parts]), origin=splits)


def _read(evaluation: EvaluationFolder, results: Results, task: str | None) -> OutOfFold:
    tasks = results["tasks"]
    require_classes(tasks, evaluation.path, "a label that is compared with predictions")
    primary = primary_task(tasks)
    task = task or primary
    if task not in tasks or tasks[task]["kind"] not in CATEGORICAL_KINDS:
        names = [name for name, of_task in tasks.items() if of_task["kind"] in CATEGORICAL_KINDS]
        raise RunError(
            f"{evaluation.path}: there is no task {task!r} with classes{suggest_similar(task, names)}; "
            f"it has {', '.join(names)}"
        )
    file = "" if task == primary else task
    path, probs_NK = evaluation.predictions(file), read_array(evaluation.outputs(file))
    with path.open(newline="", encoding="utf-8", errors="replace") as lines:
        clips = tuple(_clip(row) for row in csv.DictReader(lines))
    classes = tuple(tasks[task]["classes"])
    if probs_NK.shape != (len(clips), len(classes)) or not np.isfinite(probs_NK).all():
        raise RunError(f"{path}: does not fit {evaluation.outputs(file).name} and results.json; evaluate again")
    return OutOfFold(clips, classes, tasks[task]["kind"] == "multilabel", probs_NK, "")


def _clip(row: Mapping[str, str]) -> LabelledClip:
    path, label, group = (from_spreadsheet_cell(row.get(name) or "") for name in ("path", "label", "group"))
    times = float(row.get("start") or 0), float(row.get("end") or math.inf)
    return LabelledClip(path, *times, label, group, row.get("boxes") or "")
