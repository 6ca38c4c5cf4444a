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

from finetune.checkpoint import begin_run, new_run_folder
from finetune.errors import DataError, RunError, some
from finetune.evaluation import write_predictions
from finetune.files import write_json
from finetune.manifest import Manifest, divide
from finetune.model.model import TASK
from finetune.recipe import Recipe
from finetune.recipe_files import load_recipe
from finetune.report.page import write_report
from finetune.scores import score
from finetune.study.runs import finished, scored

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
    rows_of = fold_rows(manifest, folds, seed=recipe.seed)
    _begin(recipe, manifest, out)
    started = time.perf_counter()
    runs = []
    for number, rows in enumerate(rows_of, 1):
        announce(f"fold {number} of {len(rows_of)}: {len(rows)} clips to test")
        fold = _fold(manifest, rows, recipe)
        runs.append(finished(recipe, fold, recipe.phases, out=out / f"fold-{number}", split="test"))
        write_report(runs[-1])
    results = _pooled(manifest, runs, out, how=_in_words(manifest, folds, len(runs)))
    write_json(out / "evaluation" / "results.json", results | {"seconds": round(time.perf_counter() - started, 2)})
    write_report(out)
    return out


def fold_rows(manifest: Manifest, folds: int | None, *, seed: int) -> list[np.ndarray]:
    """The rows that each fold tests. Raises DataError where some fold would leave a class untaught, or test nothing."""
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
    for number, rows in enumerate(found, 1):
        taught = set(np.delete(manifest.labels, rows).tolist())
        untaught = [name for code, name in enumerate(manifest.classes) if code not in taught]
        if untaught or not len(rows):
            what = f"no other clip of {some(untaught)}" if untaught else "no clip"
            raise DataError(f"{manifest.source}: fold {number} has {what}; take fewer folds, or add clips")
    return found


def _fold(manifest: Manifest, rows: np.ndarray, recipe: Recipe) -> Manifest:
    """The manifest with `rows` to test, and of the others a share to validate on, by whole groups."""
    splits = np.full(len(manifest), "train", dtype="U5")
    splits[rows] = "test"
    rest = np.flatnonzero(splits == "train")
    groups = None if manifest.groups is None else manifest.groups[rest]
    splits[rest] = divide(manifest.labels[rest], groups, (recipe.data.val, 0, recipe.seed), source=manifest.source)
    return replace(manifest, splits=splits)


def _begin(recipe: Recipe, manifest: Manifest, out: Path) -> None:
    """A new folder, or one in which the same was begun before."""
    path = out / "recipe.yaml"
    if not path.is_file():
        new_run_folder("", out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            begin_run(out, recipe, manifest)
        except OSError as error:
            raise RunError(f"{out}: cannot be written: {error.strerror}") from None
    elif load_recipe(str(path)) != recipe:
        raise RunError(f"{out}: was begun with another recipe; choose another --out")
    elif [*Manifest.from_csv(out / "manifest.csv").paths] != [*manifest.paths]:
        raise RunError(f"{out}: was begun with other clips; choose another --out")


def _pooled(manifest: Manifest, runs: list[Path], out: Path, *, how: str) -> dict[str, Any]:
    """results.json of all folds together, and predictions.csv with the fold of each row beside it."""
    row_of = {str(manifest.path(row)): row for row in range(len(manifest))}
    probs_NK = np.zeros((len(manifest), len(manifest.classes)), dtype=np.float32)
    tested = np.zeros(len(manifest), dtype=bool)
    folds, skipped = [], []
    for run in runs:
        with (scored(run, "test") / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = [row_of[line["path"]] for line in csv.DictReader(file)]
        probs_NK[rows] = np.load(scored(run, "test") / "probabilities.npy")
        tested[rows] = True
        results = json.loads((scored(run, "test") / "results.json").read_text(encoding="utf-8"))
        task = results["tasks"][TASK]
        folds.append({"run": run.name, "num_rows": len(rows), "top1": task["top1"], "top1_ci": task["top1_ci"]})
        skipped += results["skipped"]
    kept = np.flatnonzero(tested)
    groups = None if manifest.groups is None else manifest.groups[kept]
    (out / "evaluation").mkdir(exist_ok=True)
    write_predictions(out / "evaluation", manifest, kept, probs_NK[kept])
    return {
        "schema": 1,
        "run": out.resolve().name,
        "split": "test",
        "num_rows": len(kept),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "skipped": skipped,
        "tasks": {TASK: score(manifest.labels[kept], probs_NK[kept], classes=manifest.classes, groups=groups)},
        "class_counts": {"test": dict(zip(manifest.classes, np.bincount(manifest.labels).tolist(), strict=True))},
        "training_skipped": [],
        "warnings": [],
        "protocol": {"cross_validation": how, **results["protocol"]},
        "folds": folds,
    }


def _in_words(manifest: Manifest, folds: int | None, count: int) -> str:
    units = "clips" if manifest.groups is None else "whole groups"
    return f"{count} folds, {'one for each group' if folds is None else f'of {units}, classes spread evenly'}"
