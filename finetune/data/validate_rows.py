"""Errors in labelled rows: an empty train split, classes without training rows, conflicting labels, leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.intervals import WHOLE, row_noun
from finetune.data.labels import LABEL_SEPARATOR, Labels
from finetune.data.splits import SPLITS, file_ids
from finetune.data.valid_names import name_notes, name_problems
from finetune.errors import shorten_list
from finetune.recipe.tasks import CATEGORICAL_KINDS, DENSE_KINDS, DETECTION_KINDS

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


def manifest_problems(manifest: Manifest) -> list[str]:
    """Error messages for rows that cannot be trained on, or whose test would be invalid; empty if all is well."""
    files = file_ids([manifest.path(row) for row in range(len(manifest))])
    return [
        *_empty_splits(manifest),
        *_untrained_labels(manifest),
        *_unlabelled(manifest),
        *conflicting_labels(manifest, files),
        *_leaks(manifest, files),
    ]


def check_names(
    paths: Iterable[Path], labels_by_task: Mapping[str, Labels], groups: Iterable[str], *, has_tasks: bool
) -> tuple[list[str], list[str]]:
    """Errors in the names of files, classes and groups, and warnings about names that look alike."""
    named = {
        f"classes of tasks.{task}" if has_tasks else "classes": labels
        for task, labels in labels_by_task.items()
        if labels.kind in (*CATEGORICAL_KINDS, *DENSE_KINDS)
    }
    groups = sorted(set(groups))
    problems, notes = name_problems("files", [str(path.absolute()) for path in paths]), []
    for kind, labels in named.items():
        problems += name_problems(kind, labels.names)
        notes += name_notes(kind, labels.names, separator=LABEL_SEPARATOR if labels.kind == "multilabel" else None)
    return problems + name_problems("groups", groups), notes + name_notes("groups", groups)


def _empty_splits(manifest: Manifest) -> list[str]:
    return [] if len(manifest.rows("train")) else ["no row is in the train split"]


def _untrained_labels(manifest: Manifest) -> list[str]:
    """Classes of each task that are in val or test but not in train."""
    problems = []
    for task, labels in manifest.labels_by_task.items():
        train_counts = labels.counts(manifest.rows("train"))
        for split in ("val", "test"):
            split_counts = labels.counts(manifest.rows(split))
            counted = zip(labels.names, split_counts, train_counts, strict=False)
            untrained = [name for name, in_split, in_train in counted if in_split and not in_train]
            if untrained:
                problems.append(
                    f"{_task_prefix(manifest, task)}{split} has {shorten_list(untrained)}, which is not in train: "
                    "no model can predict it"
                )
    return problems


def _task_prefix(manifest: Manifest, task: str) -> str:
    return f"tasks.{task}: " if manifest.tasks else ""


def _unlabelled(manifest: Manifest) -> list[str]:
    """Tasks without labels in train, and a test split without labels of any task."""
    train, test = manifest.rows("train"), manifest.rows("test")
    known = {name: labels.known for name, labels in manifest.tasks.items()}
    problems = [f"train has no labels of tasks.{name}" for name, known_N in known.items() if not known_N[train].any()]
    if known and len(test) and not any(known_N[test].any() for known_N in known.values()):
        problems.append("test has no labels of any task")
    return problems


def conflicting_labels(manifest: Manifest, files: np.ndarray) -> list[str]:
    """Messages about clips in several rows with different labels; `files` (N,) are the rows' IDs from `file_ids`.

    Parts of one file that only overlap may have different labels.
    """
    clips = clip_ids(manifest, files)
    _, counts = np.unique(clips, return_counts=True)
    rows = np.flatnonzero(counts[clips] > 1)
    problems = []
    for task, labels in manifest.labels_by_task.items():
        first: dict[int, int] = {}
        pairs = []
        has_texts = labels.kind in (*CATEGORICAL_KINDS, *DENSE_KINDS)
        for row in rows[labels.known[rows]].tolist() if has_texts else []:
            other = first.setdefault(int(clips[row]), row)
            if labels.text(row) != labels.text(other):
                pairs.append(f"{_labelled(manifest, labels, other)} and {_labelled(manifest, labels, row)}")
        if pairs:
            advice = "list its classes in one row, a;b" if labels.kind == "multilabel" else "keep the correct one"
            where = f"{_task_prefix(manifest, task)}one {row_noun(manifest.intervals, manifest.boxes)}"
            problems.append(f"{where} has two labels: {shorten_list(pairs)}; {advice}")
    return problems


def clip_ids(manifest: Manifest, files: np.ndarray) -> np.ndarray:
    """An ID (N,) for each row: rows of the same file, by its ID in `files` (N,), interval and boxes share it."""
    if manifest.intervals is None and manifest.boxes is None:
        return files
    boxes = np.zeros(len(files)) if manifest.boxes is None else np.unique(manifest.boxes, return_inverse=True)[1]
    intervals = np.tile(np.array(WHOLE), (len(files), 1)) if manifest.intervals is None else manifest.intervals
    clips = np.column_stack([files, boxes, intervals])
    return np.unique(clips, axis=0, return_inverse=True)[1].reshape(-1)


def _labelled(manifest: Manifest, labels: Labels, row: int) -> str:
    nothing = "no object" if labels.kind in DETECTION_KINDS else "no class"
    return f"{manifest.clip_name(row)} ({labels.text(row)[0] or nothing})"


def _leaks(manifest: Manifest, files: np.ndarray) -> list[str]:
    """Messages about files and groups in several splits: they would make the test score too high."""
    problems = []
    first = np.unique(files, return_index=True)[1]
    columns = {"file": np.array([str(manifest.path(row)) for row in first])[files], "group": manifest.groups}
    for kind, values in columns.items():
        if values is None:
            continue
        values_in = {split: set(values[manifest.rows(split)].tolist()) for split in SPLITS}
        for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
            shared = sorted(values_in[one] & values_in[other])
            if shared:
                problems.append(
                    f"{kind} {shorten_list(shared)} is in {one} and in {other}: a leak; "
                    f"correct the splits, or remove them: whole {kind}s are then assigned to splits"
                )
    return problems
