"""Cross-validation: every clip is tested once, by a model that learnt from no clip of its group."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from finetune.checks.split_warnings import warnings_of_folds
from finetune.data.manifest import Manifest
from finetune.data.splits import assign_splits, repair_folds
from finetune.data.validate_rows import manifest_problems
from finetune.errors import DataError
from finetune.evaluation.evaluate import apply_fitted, describe_interval, write_contact_sheets
from finetune.evaluation.task_results import TaskPredictions, task_metrics, write_predictions
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.intervals import FOLD_ERROR_NOTE, widen_for_pooled_folds
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import CATEGORICAL_KINDS, DEFAULT_TASK, primary_task
from finetune.report.run.page import write_report
from finetune.run.predictions_csv import prediction_file_names, read_prediction_paths
from finetune.run.read import evaluation_folder
from finetune.storage.atomic import write_json
from finetune.storage.safe_read import read_array, read_json
from finetune.study.study_runs import refuse_changed_rows, study_folder, train_and_evaluate
from finetune.video.dataset import ClipDataset
from finetune.video.pack.read import manifest_facts

Announce = Callable[[str], None]


def kfold(
    recipe: Recipe, manifest: Manifest, *, folds: int | None, out: Path, announce: Announce = lambda text: None
) -> Path:
    """Train and test a model for each fold, then report on all rows as they were predicted; the folder of it all.

    `folds` of whole groups with classes spread evenly, or with None a fold for each group. Splits that the rows have
    are set aside. Of a fold's other rows a share of `data.val` is for validation; with 0 its last epoch counts. Each
    fold is a run in a folder of `out`; what is finished there is not done again: it goes on where it was interrupted.
    Raises DataError where rows or groups are too few.
    """
    divided = [_fold(manifest, rows, recipe) for rows in fold_rows(manifest, folds, seed=recipe.seed)]
    _refuse_bad_folds(manifest, divided)
    started, runs = time.perf_counter(), []
    with study_folder(out, recipe, manifest, folds=len(divided)):
        for number, fold in enumerate(divided, 1):
            refuse_changed_rows(out, fold, out / f"fold-{number}" / "manifest.csv")
        for number, fold in enumerate(divided, 1):
            announce(f"fold {number} of {len(divided)}: {len(fold.rows('test'))} clips to test")
            runs.append(train_and_evaluate(recipe, fold, out=out / f"fold-{number}", split="test"))
            write_report(runs[-1])
        results = _pool_results(recipe, divided, runs, out, how=_in_words(manifest, folds, len(runs)))
        write_json(out / "evaluation" / "results.json", results | {"seconds": round(time.perf_counter() - started, 2)})
        write_report(out)
    return out


def fold_rows(manifest: Manifest, folds: int | None, *, seed: int) -> list[np.ndarray]:
    """The rows that each fold tests. Raises DataError where there are too few."""
    units = fold_units(manifest)
    if folds is None and manifest.groups is None:
        raise DataError(f"{manifest.source}: has no groups to leave out; add a column group, or data.group_pattern")
    if folds is not None and len(np.unique(units)) < folds:
        raise DataError(f"{manifest.source}: {len(np.unique(units))} groups cannot make {folds} folds")
    splitter = LeaveOneGroupOut() if folds is None else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds: checked below
            found = [tested for _, tested in splitter.split(manifest.labels, manifest.labels, units)]
    except ValueError as error:
        raise DataError(f"{manifest.source}: cannot be divided into folds: {error}") from None
    return found if folds is None else repair_folds(found, manifest.labels_by_task.values(), manifest.units)


def fold_units(manifest: Manifest) -> np.ndarray:
    """For each row (N,) what must stay in one fold: its group, or without groups the first row of its file."""
    if manifest.groups is not None:
        return manifest.units
    _, first, number = np.unique(manifest.units.astype(str), return_index=True, return_inverse=True)
    return first[number]


def _fold(manifest: Manifest, rows: np.ndarray, recipe: Recipe) -> Manifest:
    """The manifest with `rows` to test, and of the others a share to validate on, by whole groups."""
    splits = np.full(len(manifest), "train", dtype="U5")
    splits[rows] = "test"
    rest = np.flatnonzero(splits == "train")
    every = [labels.at(rest) for labels in manifest.labels_by_task.values()]
    shares = recipe.data.val, 0.0, recipe.seed
    splits[rest] = assign_splits(every, manifest.units[rest], shares, source=manifest.source)
    return replace(manifest, splits=splits)


def _refuse_bad_folds(manifest: Manifest, divided: list[Manifest]) -> None:
    """Raise DataError with all that is wrong with any fold, before the first is trained."""
    problems = [
        f"fold {number}: {problem}"
        for number, fold in enumerate(divided, 1)
        for problem in [*manifest_problems(fold), *([] if len(fold.rows("test")) else ["tests no clip"])]
    ]
    if problems:
        listed = "\n".join(f"{manifest.source}: {problem}" for problem in problems)
        raise DataError(f"{listed}\ntake fewer folds, data.val=0, or more clips of these classes")


def _pool_results(recipe: Recipe, divided: list[Manifest], runs: list[Path], out: Path, *, how: str) -> dict[str, Any]:
    """What results.json says of all folds together; predictions of all rows are written beside it."""
    manifest = divided[0]
    tested = replace(manifest, splits=np.full(len(manifest), "test"))
    row_of = {str(manifest.path(row)): row for row in range(len(manifest))}
    parts = [_FoldResults(evaluation_folder(run, "test"), run, row_of) for run in runs]
    scored = [task for task in tested.tasks or [DEFAULT_TASK] if any(task in part.results["tasks"] for part in parts)]
    answers = {
        task: _concat_answers([part.answers(task) for part in parts if task in part.results["tasks"]])
        for task in scored
    }
    kept = np.unique(np.concatenate([each.rows for each in answers.values()]))
    folder, size = out / "evaluation", parts[0].results["protocol"]["size"]
    folder.mkdir(exist_ok=True)
    write_predictions(folder, tested, answers)
    clip, packed = recipe.clip.model_copy(update={"size": size}), recipe.data.packed
    facts = manifest_facts(tested, packed, side=size)
    dataset = ClipDataset(tested, "test", clip=clip, views=recipe.evaluate.views, facts=facts, packed=packed)
    with widen_for_pooled_folds():
        tasks = {name: task_metrics(tested, name, each, facts=facts) for name, each in answers.items()}
    write_contact_sheets(folder, dataset, multilabel=tasks[primary_task(tasks)]["kind"] == "multilabel")
    groups = None if manifest.groups is None else manifest.groups[kept]
    interval = f"{describe_interval(groups, len(kept))}; {FOLD_ERROR_NOTE}"
    return {
        "schema": 1,
        "run": out.resolve().name,
        "split": "test",
        "num_rows": len(kept),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "skipped": [each for part in parts for each in part.results["skipped"]],
        "tasks": tasks,
        "class_counts": {"test": tested.counts("test")},
        "training_skipped": [],
        "warnings": warnings_of_folds(divided, tested, facts, "test"),
        "protocol": {"cross_validation": how, **parts[0].results["protocol"], "interval": interval},
        "folds": [part.figures for part in parts],
    }


class _FoldResults:
    """A fold's rows, in the numbers of the whole manifest, and what its model said of them."""

    def __init__(self, folder: Path, run: Path, row_of: dict[str, int]) -> None:
        self.folder = folder
        self.run = run
        self.row_of = row_of
        self.results = read_json(folder / "results.json")
        self.primary = primary_task(self.results["tasks"])

    def answers(self, task: str) -> TaskPredictions:
        """What was said of a task, with what the fold's own thresholds and temperature make of it."""
        kind = self.results["tasks"][task]["kind"]
        first = task == self.primary and kind in CATEGORICAL_KINDS
        words, numbers = prediction_file_names("" if first else task)
        rows = np.array([self.row_of[path] for path in read_prediction_paths(self.folder / words)], dtype=int)
        frozen = self.folder / "frozen.npy"
        frozen_NK = read_array(frozen) if first and frozen.is_file() else None
        return apply_fitted(
            self.run,
            task,
            kind,
            TaskPredictions(rows, read_array(self.folder / numbers), frozen=frozen_NK),
            use_temperature=True,
        )

    @property
    def figures(self) -> dict[str, Any]:
        task = self.results["tasks"][self.primary]
        key, _ = HEADLINE_METRICS[task["kind"]]
        return {
            "run": self.run.name,
            "num_rows": self.results["num_rows"],
            key: task[key],
            f"{key}_ci": task[f"{key}_ci"],
        }


def _concat_answers(parts: list[TaskPredictions]) -> TaskPredictions:
    """What is known of the rows of each part as one, in the order of rows; what any part lacks, none has."""
    rows = np.concatenate([part.rows for part in parts])

    def joined(values: list[np.ndarray | None]) -> np.ndarray | None:
        there = [value for value in values if value is not None]
        return np.concatenate(there) if len(there) == len(values) else None

    said = joined([part.said for part in parts])
    assert said is not None
    further = (joined([getattr(part, name) for part in parts]) for name in ("named", "calibrated", "frozen"))
    return TaskPredictions(rows, said, *further).at(np.argsort(rows))


def _in_words(manifest: Manifest, folds: int | None, count: int) -> str:
    units = "clips" if manifest.groups is None else "whole groups"
    return f"{count} folds, {'one for each group' if folds is None else f'of {units}, classes spread evenly'}"
