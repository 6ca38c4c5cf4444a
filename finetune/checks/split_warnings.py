"""Warnings about an evaluated split that need no look into a video.

Duplicates across splits, classes without training clips, shortcuts, missing groups.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.checks.class_balance import ADD_GROUPS, NO_GROUPS
from finetune.checks.shortcuts import find_shortcuts, shortcut_findings
from finetune.data.manifest import Manifest
from finetune.data.splits import file_ids
from finetune.errors import shorten_list
from finetune.text import count
from finetune.video.file_facts import FileFacts
from finetune.video.fingerprints import exact_duplicates

MAX_ROWS = 20_000  # in which shortcuts are searched for


def warnings_of_test(manifest: Manifest, tested: Manifest, facts: FileFacts, split: str) -> list[dict[str, str]]:
    """Warnings as {"what", "do"}. `tested` are the rows of the split alone, and `facts` those of their files."""
    return warnings_of_folds([manifest], tested, facts, split)


def warnings_of_folds(
    folds: Sequence[Manifest], tested: Manifest, facts: FileFacts, split: str
) -> list[dict[str, str]]:
    """The same for cross-validation: each fold has its own splits of the same rows, together tested on `tested`."""
    return [*_duplicate_leaks(folds, split), *_untrained_classes(folds, split), *warnings_of_set(tested, facts, split)]


def _duplicate_leaks(folds: Sequence[Manifest], split: str) -> list[dict[str, str]]:
    """Evaluated files that are exact duplicates of files that the model was trained or selected on."""
    manifest = folds[0]
    used = {"test": {"train", "val"}, "val": {"train"}}.get(split, set())  # for training or selection
    leaked = {
        row
        for same in _duplicate_positions([manifest.path(row) for row in range(len(manifest))])
        for fold in folds
        if used & set(fold.splits[same].tolist())
        for row in same
        if fold.splits[row] == split
    }
    if not leaked:
        return []
    use = "trained or selected on" if split == "test" else "trained on"
    return [{"what": _leak(len(leaked), use), "do": "Run finetune check on the data with --fix, then train again."}]


def _leak(number: int, use: str) -> str:
    files = count(number, "evaluated file is an exact duplicate", "evaluated files are exact duplicates")
    return f"Leak: {files} of files that the model was {use}."


def _duplicate_positions(paths: Sequence[Path]) -> list[list[int]]:
    """Sets of positions of different files with equal contents; missing files, as with a pack, are ignored."""
    rows_of: dict[Path, list[int]] = {}
    for position, path in enumerate(paths):
        rows_of.setdefault(path, []).append(position)
    existing = [path for path in rows_of if path.exists()]
    return [[row for place in same for row in rows_of[existing[place]]] for same in exact_duplicates(existing)]


def overlap_warnings(trained: Manifest, other: Manifest) -> list[dict[str, str]]:
    """Warnings about files and groups of another data set that the model was trained or selected on."""
    rows = np.flatnonzero(trained.splits != "test")
    paths = [trained.path(row) for row in rows.tolist()] + [other.path(row) for row in range(len(other))]
    sets = [*_duplicate_positions(paths), *_positions_by_number(file_ids(paths))]
    leaked = {position for same in sets if min(same) < len(rows) for position in same if position >= len(rows)}
    todo = "Remove them from the set: the model has seen them."
    warnings = [{"what": _leak(len(leaked), "trained or selected on"), "do": todo}] if leaked else []
    if trained.groups is not None and other.groups is not None:
        shared = np.isin(other.groups, trained.groups[rows])
        if shared.any():
            clips, names = count(int(shared.sum()), "clip"), shorten_list(sorted(set(other.groups[shared].tolist())))
            what = f"Possible leak: {clips} in groups whose names are also in the training data: {names}."
            warnings.append({"what": what, "do": "If they are the same people or recordings, remove these clips."})
    return warnings


def _positions_by_number(numbers: np.ndarray) -> list[list[int]]:
    sets: dict[int, list[int]] = {}
    for position, number in enumerate(numbers.tolist()):
        sets.setdefault(number, []).append(position)
    return [same for same in sets.values() if len(same) > 1]


def warnings_of_set(tested: Manifest, facts: FileFacts, split: str) -> list[dict[str, str]]:
    """Warnings about the evaluated rows that hold for any model."""
    return [*_shortcuts(tested, facts), *_no_groups(tested, split)]


def _untrained_classes(folds: Sequence[Manifest], split: str) -> list[dict[str, str]]:
    """Of several tasks, classes of evaluated rows without a training row; in the first task training refuses them."""
    warnings = []
    for task, labels in folds[0].tasks.items():
        untrained: dict[str, int] = {}
        for fold in folds:
            train_counts, counts = (fold.tasks[task].counts(fold.rows(side)) for side in ("train", split))
            for name, num_train, number in zip(labels.names, train_counts, counts, strict=False):
                if number and not num_train:
                    untrained[name] = untrained.get(name, 0) + number
        if untrained:
            clips = count(sum(untrained.values()), "evaluated clip")
            names = shorten_list([*untrained])
            what = f"tasks.{task}: no training clip has {names}, so {clips} cannot be predicted right."
            warnings.append({"what": what, "do": "Label training clips with it, or leave these labels empty."})
    return warnings


def _shortcuts(manifest: Manifest, facts: FileFacts) -> list[dict[str, str]]:
    """Shortcuts in each task with one class for each clip."""
    warnings = []
    for task, labels in manifest.labels_by_task.items():
        if labels.kind not in ("classify", "ordinal"):
            continue
        rows = np.setdiff1d(np.flatnonzero(labels.known), list(facts.bad))[:MAX_ROWS]
        if len(rows):
            named = np.array(labels.names)[labels.values[rows]]
            units = rows.astype(str) if manifest.groups is None else manifest.groups[rows]
            findings = shortcut_findings(find_shortcuts(_facts_at(facts, rows), named, units))
            where = f"tasks.{task}: " if manifest.tasks else ""
            warnings += [{"what": f"{where}{finding.what}", "do": finding.todo} for finding in findings]
    return warnings


def _facts_at(facts: FileFacts, rows: np.ndarray) -> dict[str, np.ndarray]:
    heights, widths = facts.heights[rows].astype(float), facts.widths[rows].astype(float)
    properties = {"shape": np.round(widths / np.maximum(heights, 1), 3), "size": widths * heights}
    if facts.rates is not None and facts.seconds is not None:
        properties |= {"frame rate": np.round(facts.rates[rows], 2), "duration": facts.seconds[rows]}
    return properties


def _no_groups(manifest: Manifest, split: str) -> list[dict[str, str]]:
    if manifest.groups is not None or split == "train":
        return []
    return [{"what": NO_GROUPS.format(where="here"), "do": ADD_GROUPS}]
