"""What the answers of a run to a split come to, task by task: figures for results.json, and files of what was said."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.metrics.boxes import box_iou_pairs
from finetune.metrics.calibration import calibration_metrics
from finetune.metrics.curves import accuracy_by_coverage
from finetune.metrics.headline import score_classification
from finetune.metrics.intervals import paired_difference
from finetune.metrics.slices import accuracy_by_slice
from finetune.metrics.tasks import score_task
from finetune.recipe.tasks import CATEGORICAL_KINDS, CLASSIFICATION_KINDS, primary_task
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import save_array, write_class_predictions, write_numeric_predictions
from finetune.video.file_facts import FileFacts


@dataclass(frozen=True, eq=False)
class TaskPredictions:
    """Of one task: `said` are probabilities or numbers (N, K) of the rows.

    Where rows may have several classes, `named` (N, K) are those that are named. `calibrated` are the probabilities at
    the run's temperature, and `frozen` those of the model before its backbone learned, where there are any.
    """

    rows: np.ndarray
    said: np.ndarray
    named: np.ndarray | None = None
    calibrated: np.ndarray | None = None
    frozen: np.ndarray | None = None

    def at(self, keep: np.ndarray) -> "TaskPredictions":
        parts = (self.said, self.named, self.calibrated, self.frozen)
        return TaskPredictions(self.rows[keep], *(None if part is None else part[keep] for part in parts))  # type: ignore[arg-type]


def keep_labelled(tested: Manifest, task: str, answers: TaskPredictions) -> tuple[Manifest, TaskPredictions]:
    """The rows as the task sees them, and what was said of those that have its label."""
    if not tested.tasks:
        return tested, answers
    labels = tested.tasks[task]
    known = answers.at(np.flatnonzero(labels.known[answers.rows]))
    return (tested.for_task(task) if labels.kind in CATEGORICAL_KINDS else tested), known


def task_metrics(
    tested: Manifest, task: str, answers: TaskPredictions, *, facts: FileFacts, trained: Labels | None = None
) -> dict[str, Any]:
    """What results.json says of a task; `trained` are the labels that it was learnt from, for what they alone give."""
    seen, known = keep_labelled(tested, task, answers)
    groups = None if tested.groups is None else tested.groups[known.rows]
    kind = tested.tasks[task].kind if tested.tasks else "classify" if tested.targets is None else "multilabel"
    if kind in CLASSIFICATION_KINDS:
        return _class_metrics(seen, known, groups, facts=facts)
    labels = tested.tasks[task].at(known.rows)
    fitted = None if trained is None or kind == "ordinal" else trained.values[trained.known].mean(0)
    return score_task(kind, labels.values, known.said, names=labels.names, groups=groups, fitted=fitted)


def _class_metrics(
    tested: Manifest, answers: TaskPredictions, groups: np.ndarray | None, *, facts: FileFacts
) -> dict[str, Any]:
    truth, predicted_NK = tested.truth[answers.rows], answers.named
    task = score_classification(truth, answers.said, classes=tested.classes, groups=groups, predicted_NK=predicted_NK)
    correct_N = answers.said.argmax(1) == truth if predicted_NK is None else (predicted_NK == truth).all(1)
    task["slices"] = accuracy_by_slice(slice_facts(facts, answers.rows), correct_N, groups)
    if answers.calibrated is not None:
        task["calibrated"] = calibration_metrics(truth, answers.calibrated, groups)
        if predicted_NK is None:
            task["calibrated"]["abstain_at"] = accuracy_by_coverage(answers.calibrated.max(1), correct_N, groups)["at"]
    if answers.frozen is not None and predicted_NK is None:
        frozen_N = answers.frozen.argmax(1) == truth
        difference, interval = paired_difference(correct_N, frozen_N, groups=groups)
        task["frozen"] = {"top1": float(frozen_N.mean()), "difference": difference, "difference_ci": list(interval)}
    return task


def slice_facts(facts: FileFacts, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What rows differ in that a model might be better or worse at; NaN where it is not known."""
    found = {"short side": np.minimum(facts.heights, facts.widths)[rows], "frames": facts.num_frames[rows]}
    if facts.rates is not None and facts.seconds is not None:
        found = {"duration": facts.seconds[rows], "frame rate": facts.rates[rows], "short side": found["short side"]}
    return {name: np.where(values > 0, values, np.nan) for name, values in found.items()}


def write_predictions(folder: Path, tested: Manifest, every: Mapping[str, TaskPredictions]) -> None:
    """What was said of each row: predictions.csv of the first task with classes, predictions-<task>.csv of others.

    Beside them, in the same order, probabilities.npy and frozen.npy, and said-<task>.npy.
    """
    primary = primary_task({task: tested.tasks[task] for task in every}) if tested.tasks else next(iter(every))
    for task, answers in every.items():
        seen, known = keep_labelled(tested, task, answers)
        is_categorical = not tested.tasks or tested.tasks[task].kind in CATEGORICAL_KINDS
        if is_categorical:
            write_class_predictions(
                folder, seen, known.rows, known.said, known.named, task="" if task == primary else task
            )
        else:
            labels = tested.tasks[task].at(answers.rows)
            beside = {"iou": box_iou_pairs(labels.values, answers.said)} if labels.kind == "box" else {}
            write_numeric_predictions(folder, tested, answers.rows, answers.said, task=task, beside=beside)
        if task == primary:
            _save_frozen(folder, known.frozen)


def _save_frozen(folder: Path, frozen_NK: np.ndarray | None) -> None:
    """Beside predictions.csv the probabilities before the backbone learned, frozen.npy, in the same order."""
    if frozen_NK is None:
        EvaluationFolder(folder).frozen.unlink(missing_ok=True)
        return
    save_array(EvaluationFolder(folder).frozen, frozen_NK)
