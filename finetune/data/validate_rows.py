"""What training refuses in labelled rows: nothing to learn from, names that are only tested, two labels, leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.labels import LABEL_SEPARATOR, Labels
from finetune.data.splits import SPLITS, file_ids
from finetune.data.valid_names import name_notes, name_problems
from finetune.errors import shorten_list
from finetune.recipe.tasks import CATEGORICAL_KINDS

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


def manifest_problems(manifest: Manifest) -> list[str]:
    """What makes a test worthless, in words; for every task with classes."""
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
    """What is wrong with the names of files, classes and groups, and warnings of those that look alike."""
    named = {
        f"classes of tasks.{task}" if has_tasks else "classes": labels
        for task, labels in labels_by_task.items()
        if labels.kind in CATEGORICAL_KINDS
    }
    groups = sorted(set(groups))
    problems, notes = name_problems("files", [str(path.absolute()) for path in paths]), []
    for kind, labels in named.items():
        problems += name_problems(kind, labels.names)
        notes += name_notes(kind, labels.names, separator=LABEL_SEPARATOR if labels.kind == "multilabel" else None)
    return problems + name_problems("groups", groups), notes + name_notes("groups", groups)


def _empty_splits(manifest: Manifest) -> list[str]:
    return [] if len(manifest.rows("train")) else ["no row is in the split train"]


def _untrained_labels(manifest: Manifest) -> list[str]:
    """Of every task the names that are only tested."""
    problems = []
    for task, labels in manifest.labels_by_task.items():
        taught = labels.counts(manifest.rows("train"))
        for split in ("val", "test"):
            tested = labels.counts(manifest.rows(split))
            extra = [
                name for name, *counts in zip(labels.names, tested, taught, strict=False) if counts[0] and not counts[1]
            ]
            if extra:
                problems.append(
                    f"{_task_prefix(manifest, task)}{split} has {shorten_list(extra)}, which is not in train: "
                    "no model can predict it"
                )
    return problems


def _task_prefix(manifest: Manifest, task: str) -> str:
    return f"tasks.{task}: " if manifest.tasks else ""


def _unlabelled(manifest: Manifest) -> list[str]:
    """Tasks that have nothing to learn from, and a test of none."""
    train, test = manifest.rows("train"), manifest.rows("test")
    known = {name: labels.known for name, labels in manifest.tasks.items()}
    problems = [f"train has no label of tasks.{name}" for name, of_task in known.items() if not of_task[train].any()]
    if known and len(test) and not any(of_task[test].any() for of_task in known.values()):
        problems.append("test has no label of any task")
    return problems


def conflicting_labels(manifest: Manifest, files: np.ndarray) -> list[str]:
    """Files that are in several rows whose labels differ; `files` (N,) as `file_ids` numbers them."""
    _, counts = np.unique(files, return_counts=True)
    rows = np.flatnonzero(counts[files] > 1)
    problems = []
    for task, labels in manifest.labels_by_task.items():
        first: dict[int, int] = {}
        pairs = []
        for row in rows[labels.known[rows]].tolist() if labels.kind in CATEGORICAL_KINDS else []:
            other = first.setdefault(int(files[row]), row)
            if labels.text(row) != labels.text(other):
                pairs.append(" and ".join(_labelled(manifest, labels, each) for each in (other, row)))
        if pairs:
            advice = "list its classes in one row, a;b" if labels.kind == "multilabel" else "keep the one that is right"
            problems.append(f"{_task_prefix(manifest, task)}one file has two labels: {shorten_list(pairs)}; {advice}")
    return problems


def _labelled(manifest: Manifest, labels: Labels, row: int) -> str:
    return f"{manifest.path(row)} ({labels.text(row)[0] or 'no class'})"


def _leaks(manifest: Manifest, files: np.ndarray) -> list[str]:
    """A file or a group on both sides of a border between splits would make the test look better than it is."""
    problems = []
    first = np.unique(files, return_index=True)[1]
    columns = {"file": np.array([str(manifest.path(row)) for row in first])[files], "group": manifest.groups}
    for kind, values in columns.items():
        if values is None:
            continue
        sides = {split: set(values[manifest.rows(split)].tolist()) for split in SPLITS}
        for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
            both = sorted(sides[one] & sides[other])
            if both:
                problems.append(
                    f"{kind} {shorten_list(both)} is in {one} and in {other}: a leak; "
                    "correct the splits, or leave them out: rows are then divided by group"
                )
    return problems
