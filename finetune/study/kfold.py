"""Cross-validation: each clip is tested once, by a model that was trained on no clip of its group."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.checks.split_warnings import warnings_of_folds
from finetune.data.manifest import Manifest
from finetune.evaluation.task_results import (
    TaskPredictions,
    add_own_metric,
    apply_fitted,
    task_metrics,
    with_shown_detections,
)
from finetune.evaluation.write_evaluation import build_results, describe_interval, write_evaluation
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.intervals import FOLD_ERROR_NOTE, widen_for_pooled_folds
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import CATEGORICAL_KINDS, DEFAULT_TASK, primary_task
from finetune.report.run.page import write_report
from finetune.run.fitted import read_fitted
from finetune.run.folder import RunFolder
from finetune.run.predictions_csv import read_task_predictions
from finetune.run.read import open_run
from finetune.run.results import Results
from finetune.storage.safe_read import read_array
from finetune.study.folds import fold_manifests
from finetune.study.several_runs import FinishedRun, StudyRun, finish_runs, refuse_changed_rows, study_folder
from finetune.video.dataset import ClipDataset
from finetune.video.pack.read import manifest_facts


def kfold(recipe: Recipe, manifest: Manifest, *, folds: int | None, out: Path) -> Results:
    """Train and test a model for each fold, then evaluate the predictions of all folds together.

    `folds` is the number of folds, of whole groups with classes spread evenly; None leaves out one group at a time.
    Splits that the rows have are ignored. A share `data.val` of the rows that a fold does not test is its split val;
    with 0 its last epoch is tested. Each fold is a run in `out/fold-<n>`; an interrupted study resumes.
    Gives the pooled results, as written to `out/evaluation/results.json`. Raises DataError where there are too few rows
    or groups.
    """
    divided = fold_manifests(manifest, folds, val=recipe.data.val, seed=recipe.seed)
    runs = [StudyRun(f"fold-{number}", recipe, fold) for number, fold in enumerate(divided, 1)]
    started = time.perf_counter()
    with study_folder(out, recipe, manifest, {"folds": len(divided)}):
        for run in runs:
            refuse_changed_rows(out, run.manifest, RunFolder(out / run.name).manifest)
        finished = []
        for fold in finish_runs(runs, out=out, split="test", what="fold"):
            write_report(fold.folder)
            finished.append(fold)
        method = _describe_folds(manifest, folds, len(runs))
        results = _pool_results(recipe, divided, finished, out, method=method, started=started)
        write_report(out)
    return results


def _pool_results(
    recipe: Recipe,
    divided: Sequence[Manifest],
    folds: Sequence[FinishedRun],
    out: Path,
    *,
    method: str,
    started: float,
) -> Results:
    """The results of all folds together, written with their predictions and pictures into `out/evaluation`."""
    manifest, protocol = divided[0], folds[0].results["protocol"]
    tested = replace(manifest, splits=np.full(len(manifest), "test"))
    predictions = _pool_predictions(tested, folds)
    rows = np.unique(np.concatenate([task.rows for task in predictions.values()]))
    clip, packed = recipe.clip.model_copy(update={"size": protocol["size"]}), recipe.data.packed
    facts = manifest_facts(tested, packed, side=protocol["size"])
    predictions = {
        name: with_shown_detections(tested, name, task, fitted=None, facts=facts) for name, task in predictions.items()
    }
    dataset = ClipDataset(tested, "test", clip=clip, views=recipe.evaluate.views, facts=facts, packed=packed)
    with widen_for_pooled_folds():
        tasks = {name: task_metrics(tested, name, task, facts=facts) for name, task in predictions.items()}
        add_own_metric(recipe.evaluate.metric, tested, predictions, tasks)
    groups = None if manifest.groups is None else manifest.groups[rows]
    interval = f"{describe_interval(groups, len(rows))}; {FOLD_ERROR_NOTE}"
    results = build_results(
        out,
        tested,
        rows,
        split="test",
        skipped=[file for fold in folds for file in fold.results["skipped"]],
        tasks=tasks,
        class_counts={"test": tested.counts("test")},
        training_skipped=[],
        warnings=warnings_of_folds(divided, tested, facts, "test"),
        protocol={"cross_validation": method, **protocol, "interval": interval},
        seconds=time.perf_counter() - started,
    )
    results["folds"] = [_fold_metrics(fold) for fold in folds]
    write_evaluation(RunFolder(out).evaluation().path, results, tested, predictions, pictures_of=dataset)
    return results


def _pool_predictions(tested: Manifest, folds: Sequence[FinishedRun]) -> dict[str, TaskPredictions]:
    """The predictions of all folds for each task, in the order of rows; tasks without any label are omitted."""
    row_of = {tested.clip_name(row): row for row in range(len(tested))}
    return {
        task: _concatenate([_fold_predictions(fold, task, row_of) for fold in folds if task in fold.results["tasks"]])
        for task in tested.tasks or [DEFAULT_TASK]
        if any(task in fold.results["tasks"] for fold in folds)
    }


def _fold_predictions(fold: FinishedRun, task: str, row_of: dict[str, int]) -> TaskPredictions:
    """Predictions of a fold's model, with the class thresholds and the temperature fitted on the fold's split val."""
    tasks = fold.results["tasks"]
    kind = tasks[task]["kind"]
    clips, predictions_NK = read_task_predictions(fold.evaluation, task, tasks)
    frozen = fold.evaluation.frozen
    has_frozen = task == primary_task(tasks) and kind in CATEGORICAL_KINDS and frozen.is_file()
    rows = np.array([row_of[clip] for clip in clips], dtype=int)
    predictions = TaskPredictions(rows, predictions_NK, frozen=read_array(frozen) if has_frozen else None)
    return apply_fitted(kind, predictions, read_fitted(open_run(fold.folder))[task], use_temperature=True)


def _concatenate(folds: Sequence[TaskPredictions]) -> TaskPredictions:
    """One value, in the order of rows; what is None in one fold is None in all."""

    def joined(name: str) -> np.ndarray | None:
        parts = [part for fold in folds if (part := getattr(fold, name)) is not None]
        return np.concatenate(parts) if len(parts) == len(folds) else None

    rows, values = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("rows", "values"))
    predicted, calibrated, frozen = (joined(name) for name in ("predicted", "calibrated", "frozen"))
    return TaskPredictions(rows, values, predicted, calibrated, frozen).at(np.argsort(rows))


def _fold_metrics(fold: FinishedRun) -> dict[str, Any]:
    task = fold.primary_metrics
    key, _ = HEADLINE_METRICS[task["kind"]]
    figures = {name: task[name] for name in (key, f"{key}_ci")}
    return {"run": fold.folder.name, "num_rows": fold.results["num_rows"], **figures}


def _describe_folds(manifest: Manifest, folds: int | None, count: int) -> str:
    units = "clips" if manifest.groups is None else "whole groups"
    return f"{count} folds, {'one for each group' if folds is None else f'of {units}, classes spread evenly'}"
