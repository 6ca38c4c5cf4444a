"""Divide the rows of a manifest into folds of whole groups, for cross-validation."""

import warnings
from dataclasses import replace

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from finetune.data.manifest import Manifest
from finetune.data.splits import assign_splits, repair_folds
from finetune.data.validate_rows import manifest_problems
from finetune.errors import DataError


def fold_manifests(manifest: Manifest, folds: int | None, *, val: float, seed: int) -> list[Manifest]:
    """For each fold the manifest with its rows as the test split, and a share `val` of the others as the val split.

    See `fold_rows`. Raises DataError with all problems of all folds.
    """
    divided = [_with_test_rows(manifest, rows, val=val, seed=seed) for rows in fold_rows(manifest, folds, seed=seed)]
    problems = [
        f"{manifest.source}: fold {number}: {problem}"
        for number, fold in enumerate(divided, 1)
        for problem in [*manifest_problems(fold), *([] if len(fold.rows("test")) else ["has no clip to test"])]
    ]
    if problems:
        raise DataError("\n".join([*problems, "use fewer folds, data.val=0, or more clips of these classes"]))
    return divided


def fold_rows(manifest: Manifest, folds: int | None, *, seed: int) -> list[np.ndarray]:
    """The row numbers that each fold tests: `folds` of whole groups with classes spread evenly, or with None a fold
    for each group. Raises DataError where there are too few groups."""
    units = fold_units(manifest)
    if folds is None and manifest.groups is None:
        raise DataError(f"{manifest.source}: has no groups to leave out; add a column group, or data.group_pattern")
    if folds is not None and len(np.unique(units)) < folds:
        raise DataError(f"{manifest.source}: {len(np.unique(units))} groups cannot make {folds} folds")
    if folds is not None and np.unique(manifest.labels, return_counts=True)[1].max() < folds:
        raise DataError(
            f"{manifest.source}: no class has {folds} clips, one for each fold; add clips, or use fewer folds"
        )
    splitter = LeaveOneGroupOut() if folds is None else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds: checked later
            test_rows = [test for _, test in splitter.split(manifest.labels, manifest.labels, units)]
    except ValueError as error:
        raise DataError(f"{manifest.source}: cannot be divided into folds: {error}") from None
    return test_rows if folds is None else repair_folds(test_rows, manifest.labels_by_task.values(), manifest.units)


def fold_units(manifest: Manifest) -> np.ndarray:
    """For each row (N,) what must stay in one fold: its group, or without groups the first row of its file."""
    if manifest.groups is not None:
        return manifest.units
    _, first, number = np.unique(manifest.units.astype(str), return_index=True, return_inverse=True)
    return first[number]


def _with_test_rows(manifest: Manifest, test: np.ndarray, *, val: float, seed: int) -> Manifest:
    splits = np.full(len(manifest), "train", dtype="U5")
    splits[test] = "test"
    rest = np.flatnonzero(splits == "train")
    labels = [labels.at(rest) for labels in manifest.labels_by_task.values()]
    splits[rest] = assign_splits(labels, manifest.units[rest], (val, 0.0, seed), source=manifest.source)
    return replace(manifest, splits=splits)
