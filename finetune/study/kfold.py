"""Cross-validation: every clip is tested once, by a model that learnt from no clip of its group."""

import csv
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from finetune.errors import DataError
from finetune.evaluation import evaluation_folder, interval_in_words, thresholds_of, write_predictions
from finetune.files import write_json
from finetune.headline import HEADLINE, scores_of
from finetune.manifest import Manifest, divide, problems_of
from finetune.model.model import TASK
from finetune.recipe import Recipe
from finetune.report.page import write_report
from finetune.study.runs import finished, refuse_other_rows, study_folder

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
            refuse_other_rows(out, fold, out / f"fold-{number}" / "manifest.csv")
        for number, fold in enumerate(divided, 1):
            announce(f"fold {number} of {len(divided)}: {len(fold.rows('test'))} clips to test")
            runs.append(finished(recipe, fold, out=out / f"fold-{number}", split="test"))
            write_report(runs[-1])
        results = _pooled(manifest, runs, out, how=_in_words(manifest, folds, len(runs)))
        write_json(out / "evaluation" / "results.json", results | {"seconds": round(time.perf_counter() - started, 2)})
        write_report(out)
    return out


def fold_rows(manifest: Manifest, folds: int | None, *, seed: int) -> list[np.ndarray]:
    """The rows that each fold tests. Raises DataError where there are too few."""
    units = np.arange(len(manifest)) if manifest.groups is None else manifest.groups
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
    return found


def _fold(manifest: Manifest, rows: np.ndarray, recipe: Recipe) -> Manifest:
    """The manifest with `rows` to test, and of the others a share to validate on, by whole groups."""
    splits = np.full(len(manifest), "train", dtype="U5")
    splits[rows] = "test"
    rest = np.flatnonzero(splits == "train")
    groups = None if manifest.groups is None else manifest.groups[rest]
    splits[rest] = divide(manifest.labels[rest], groups, (recipe.data.val, 0, recipe.seed), source=manifest.source)
    return replace(manifest, splits=splits)


def _refuse_bad_folds(manifest: Manifest, divided: list[Manifest]) -> None:
    """Raise DataError with all that is wrong with any fold, before the first is trained."""
    problems = [
        f"fold {number}: {problem}"
        for number, fold in enumerate(divided, 1)
        for problem in [*problems_of(fold), *([] if len(fold.rows("test")) else ["tests no clip"])]
    ]
    if problems:
        listed = "\n".join(f"{manifest.source}: {problem}" for problem in problems)
        raise DataError(f"{listed}\ntake fewer folds, data.val=0, or more clips of these classes")


def _pooled(manifest: Manifest, runs: list[Path], out: Path, *, how: str) -> dict[str, Any]:
    """What results.json says of all folds together; predictions of all rows are written beside it."""
    row_of = {str(manifest.path(row)): row for row in range(len(manifest))}
    probs_NK = np.zeros((len(manifest), len(manifest.classes)), dtype=np.float32)
    named_NK = None if manifest.targets is None else np.zeros_like(manifest.targets)
    tested = np.zeros(len(manifest), dtype=bool)
    folds, skipped = [], []
    for run in runs:
        with (evaluation_folder(run, "test") / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = [row_of[line["path"]] for line in csv.DictReader(file)]
        probs_NK[rows] = np.load(evaluation_folder(run, "test") / "probabilities.npy")
        tested[rows] = True
        if named_NK is not None:
            named_NK[rows] = probs_NK[rows] >= thresholds_of(run)
        results = json.loads((evaluation_folder(run, "test") / "results.json").read_text(encoding="utf-8"))
        task = results["tasks"][TASK]
        key, _ = HEADLINE[task["kind"]]
        folds.append({"run": run.name, "num_rows": len(rows), key: task[key], f"{key}_ci": task[f"{key}_ci"]})
        skipped += results["skipped"]
    kept = np.flatnonzero(tested)
    groups = None if manifest.groups is None else manifest.groups[kept]
    (out / "evaluation").mkdir(exist_ok=True)
    named_NK = None if named_NK is None else named_NK[kept]
    write_predictions(out / "evaluation", manifest, kept, probs_NK[kept], named_NK)
    task = scores_of(manifest.truth[kept], probs_NK[kept], classes=manifest.classes, groups=groups, named_NK=named_NK)
    return {
        "schema": 1,
        "run": out.resolve().name,
        "split": "test",
        "num_rows": len(kept),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "skipped": skipped,
        "tasks": {TASK: task},
        "class_counts": {"test": replace(manifest, splits=np.full(len(manifest), "test")).counts("test")},
        "training_skipped": [],
        "warnings": [],
        "protocol": {"cross_validation": how, **results["protocol"], "interval": interval_in_words(groups)},
        "folds": folds,
    }


def _in_words(manifest: Manifest, folds: int | None, count: int) -> str:
    units = "clips" if manifest.groups is None else "whole groups"
    return f"{count} folds, {'one for each group' if folds is None else f'of {units}, classes spread evenly'}"
