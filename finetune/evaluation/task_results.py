"""Predictions of each task on the rows of a split: with thresholds and temperature applied, scored, and written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.errors import RecipeError
from finetune.evaluation.object_results import (
    ShownDetections,
    object_metrics,
    shown_detections,
    write_object_predictions,
)
from finetune.metrics.boxes import box_iou_pairs
from finetune.metrics.calibration import apply_temperature, calibration_metrics
from finetune.metrics.curves import accuracy_by_coverage
from finetune.metrics.headline import score_classification
from finetune.metrics.intervals import paired_difference
from finetune.metrics.own_metric import score_own_metric
from finetune.metrics.segmentation import score_segmentation, segmentation_figures
from finetune.metrics.slices import accuracy_by_slice
from finetune.metrics.tasks import score_task
from finetune.recipe.own_parts import how_to_give
from finetune.recipe.tasks import CATEGORICAL_KINDS, CLASSIFICATION_KINDS, DETECTION_KINDS, primary_task
from finetune.run.detections_csv import write_frame_counts
from finetune.run.fitted import Fitted
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import PredictionRow, save_array, write_class_predictions, write_numeric_predictions
from finetune.run.results import TaskResults
from finetune.video.file_facts import FileFacts


@dataclass(frozen=True, eq=False)
class TaskPredictions:
    """Predictions of one task for `rows` (N,): `values` (N, K) are class probabilities, or numbers.

    Of detection they are detections (N, D, 8), and `shown` tells which are shown; of segmentation counts of pixels
    (N, K² + 2), see metrics/segmentation.py. Where a clip may have several classes, `predicted` (N, K) marks those
    above their thresholds. `calibrated` (N, K) are probabilities at the run's temperature, `frozen` (N, K) those of the
    model before its backbone was trained.
    """

    rows: np.ndarray
    values: np.ndarray
    predicted: np.ndarray | None = None
    calibrated: np.ndarray | None = None
    frozen: np.ndarray | None = None
    shown: ShownDetections | None = None

    def at(self, keep: np.ndarray) -> "TaskPredictions":
        """The predictions of some rows: `keep` (M,) are positions in `rows`."""
        parts = (self.values, self.predicted, self.calibrated, self.frozen)
        kept = TaskPredictions(self.rows[keep], *(None if part is None else part[keep] for part in parts))  # type: ignore[arg-type]
        return replace(kept, shown=None if self.shown is None else self.shown.at(keep))


def apply_fitted(kind: str, predictions: TaskPredictions, fitted: Fitted, *, use_temperature: bool) -> TaskPredictions:
    """The predictions with class thresholds applied and, if `use_temperature`, with calibrated probabilities.

    Those of detection are `with_shown_detections`.
    """
    values_NK, thresholds_K = predictions.values, fitted.thresholds_K
    predicted_NK = None if thresholds_K is None else values_NK >= thresholds_K
    calibrated_NK = None
    if use_temperature and fitted.temperature is not None:
        calibrated_NK = apply_temperature(values_NK, fitted.temperature, multilabel=kind == "multilabel")
    return replace(predictions, predicted=predicted_NK, calibrated=calibrated_NK)


def with_shown_detections(
    tested: Manifest, task: str, predictions: TaskPredictions, *, fitted: float | None, facts: FileFacts
) -> TaskPredictions:
    """The predictions, and for detection which of them are shown; `fitted` is the score threshold of the run."""
    if not tested.tasks or tested.tasks[task].kind not in DETECTION_KINDS:
        return predictions
    shown = shown_detections(tested, task, predictions.rows, predictions.values, fitted=fitted, facts=facts)
    return replace(predictions, shown=shown)


def keep_labelled(tested: Manifest, task: str, predictions: TaskPredictions) -> tuple[Manifest, TaskPredictions]:
    """The manifest with the labels of one task, and the predictions of rows that have its label."""
    if not tested.tasks:
        return tested, predictions
    labels = tested.tasks[task]
    known = predictions.at(np.flatnonzero(labels.known[predictions.rows]))
    return (tested.for_task(task) if labels.kind in CATEGORICAL_KINDS else tested), known


def task_metrics(
    tested: Manifest, task: str, predictions: TaskPredictions, *, facts: FileFacts, trained: Labels | None = None
) -> TaskResults:
    """The results of a task. `trained` are the labels of the training rows: their mean is the baseline of numbers."""
    seen, known = keep_labelled(tested, task, predictions)
    groups = None if tested.groups is None else tested.groups[known.rows]
    kind = tested.tasks[task].kind if tested.tasks else "classify" if tested.targets is None else "multilabel"
    if kind in CLASSIFICATION_KINDS:
        return _class_metrics(seen, known, groups, facts=facts)
    if known.shown is not None:
        return object_metrics(tested, task, known.rows, known.values, shown=known.shown, facts=facts)
    labels = tested.tasks[task].at(known.rows)
    if kind == "segment":
        return score_segmentation(known.values, classes=labels.names, groups=groups)
    fitted = None if trained is None or kind == "ordinal" else trained.values[trained.known].mean(0)
    return score_task(kind, labels.values, known.values, names=labels.names, groups=groups, fitted=fitted)


def _class_metrics(
    tested: Manifest, predictions: TaskPredictions, groups: np.ndarray | None, *, facts: FileFacts
) -> TaskResults:
    truth, values_NK, predicted_NK = tested.truth[predictions.rows], predictions.values, predictions.predicted
    task = score_classification(truth, values_NK, classes=tested.classes, groups=groups, predicted_NK=predicted_NK)
    correct_N = values_NK.argmax(1) == truth if predicted_NK is None else (predicted_NK == truth).all(1)
    task["slices"] = accuracy_by_slice(slice_facts(facts, predictions.rows), correct_N, groups)
    if predictions.calibrated is not None:
        task["calibrated"] = calibration_metrics(truth, predictions.calibrated, groups)
        if predicted_NK is None:
            confidence_N = predictions.calibrated.max(1)
            task["calibrated"]["abstain_at"] = accuracy_by_coverage(confidence_N, correct_N, groups)["at"]
    if predictions.frozen is not None and predicted_NK is None:
        frozen_N = predictions.frozen.argmax(1) == truth
        difference, interval = paired_difference(correct_N, frozen_N, groups=groups)
        task["frozen"] = {"top1": float(frozen_N.mean()), "difference": difference, "difference_ci": list(interval)}
    return task


def add_own_metric(
    metric: Any, tested: Manifest, predictions: Mapping[str, TaskPredictions], tasks: dict[str, TaskResults]
) -> list[dict[str, str]]:
    """Add the user's own metric, if there is one, to the results of the only task; gives a warning if it is only named.

    Raises RecipeError where the results have a metric of its name.
    """
    if metric is None:
        return []
    if isinstance(metric, str):
        what = f"The metric {metric} is not computed: code that a run folder names is not imported."
        return [{"what": what, "do": f"{how_to_give({'evaluate.metric': metric})}."}]
    ((name, of_task),) = predictions.items()
    groups = None if tested.groups is None else tested.groups[of_task.rows]
    score = score_own_metric(metric, tested.truth[of_task.rows], of_task.values, groups)
    if taken := sorted(set(score) & set(tasks[name])):
        raise RecipeError(f"evaluate.metric: results have {taken[0]!r} already; give the function another name")
    tasks[name] |= {"own_metric": next(iter(score)), **score}
    return []


def slice_facts(facts: FileFacts, rows: np.ndarray) -> dict[str, np.ndarray]:
    """File properties (N,) by which accuracy is compared; NaN where a property is unknown."""
    values = {"short side": np.minimum(facts.heights, facts.widths)[rows], "frames": facts.num_frames[rows]}
    if facts.rates is not None and facts.seconds is not None:
        values = {"duration": facts.seconds[rows], "frame rate": facts.rates[rows], "short side": values["short side"]}
    return {name: np.where(value > 0, value, np.nan) for name, value in values.items()}


def write_predictions(
    folder: Path, tested: Manifest, predictions: Mapping[str, TaskPredictions]
) -> list[PredictionRow] | None:
    """Write the predictions of each task, and those of the frozen baseline, in the order of the rows.

    Gives the rows of predictions.csv, which are those of the primary task; None where no task has classes.
    """
    primary = (
        primary_task({task: tested.tasks[task] for task in predictions}) if tested.tasks else next(iter(predictions))
    )
    primary_rows = None
    for task, of_task in predictions.items():
        seen, known = keep_labelled(tested, task, of_task)
        if not tested.tasks or tested.tasks[task].kind in CATEGORICAL_KINDS:
            file = "" if task == primary else task
            rows = write_class_predictions(folder, seen, known.rows, known.values, known.predicted, task=file)
            primary_rows = rows if task == primary else primary_rows
        elif of_task.shown is not None:
            write_object_predictions(folder, tested, task, of_task.rows, of_task.values, shown=of_task.shown)
        elif tested.tasks[task].kind == "segment":
            _write_mask_counts(folder, tested, task, known)
        else:
            labels = tested.tasks[task].at(of_task.rows)
            extra = {"iou": box_iou_pairs(labels.values, of_task.values)} if labels.kind == "box" else {}
            write_numeric_predictions(folder, tested, of_task.rows, of_task.values, task=task, extra=extra)
        if task == primary:
            _write_frozen(EvaluationFolder(folder).frozen, known.frozen)
    return primary_rows


def _write_mask_counts(folder: Path, tested: Manifest, task: str, predictions: TaskPredictions) -> None:
    """Write the counts of pixels, and for each labelled frame its metrics."""
    save_array(EvaluationFolder(folder).outputs(task), predictions.values)
    figures = [segmentation_figures(counts_F) for counts_F in predictions.values]
    columns = {name: [of_frame[name] for of_frame in figures] for name in ("miou", "pixel_accuracy")}
    write_frame_counts(folder, tested, predictions.rows, columns, task=task)


def _write_frozen(path: Path, frozen_NK: np.ndarray | None) -> None:
    if frozen_NK is None:
        path.unlink(missing_ok=True)
    else:
        save_array(path, frozen_NK)
