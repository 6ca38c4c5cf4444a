"""How well an index finds clips of the same class: each labelled row is a query for the others."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune.errors import IndexFolderError, suggest_similar
from finetune.metrics.retrieval import LabelledVectors, rank_queries, retrieval_metrics
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.vector_index.entry import NO_UNIT
from finetune.vector_index.index import VectorIndex


class _Blocks:
    """The vectors of an index, one shard at a time, read anew each time."""

    def __init__(self, index: VectorIndex) -> None:
        self._index = index

    def __iter__(self) -> Iterator[np.ndarray]:
        return (vectors_ND for _, vectors_ND in self._index.shards())


def evaluate_index(
    index: VectorIndex, *, task: str | None = None, allowed: np.ndarray | None = None, same_group: bool = False
) -> dict[str, Any]:
    """The metrics of `retrieval_metrics` for the labelled rows of an index, with `task` and `num_groups`.

    `task` is by default `label`, or else the first task of the labelled rows; `allowed` bool (N,) are the rows that are
    evaluated. A row does not find those of its own group (or of its file, without a group), unless `same_group`. Raises
    IndexFolderError where no row has a label of the task.
    """
    allowed = np.ones(len(index), bool) if allowed is None else allowed
    task, names, classes_NK = _labels(index, task, allowed)
    units_N2 = index.units()
    groups = np.where(units_N2[:, 1] == NO_UNIT, units_N2[:, 0], units_N2[:, 1])
    ranks = rank_queries(LabelledVectors(_Blocks(index), classes_NK, groups), same_group=same_group)
    metrics = retrieval_metrics(ranks, classes_NK, names)
    num_groups = len(np.unique(groups[classes_NK.any(1)]))
    return {"task": task, "same_group": same_group, "num_groups": num_groups, **metrics}


def _labels(index: VectorIndex, task: str | None, allowed: np.ndarray) -> tuple[str, list[str], np.ndarray]:
    """The evaluated task, its classes (K,) and those of each row, bool (N, K)."""
    by_task: dict[str, dict[str, list[int]]] = {}
    for row, entry in enumerate(index.entries()):
        for name, labels in (entry.labels or {}).items() if allowed[row] else ():
            for label in labels:
                by_task.setdefault(name, {}).setdefault(label, []).append(row)
    if not by_task:
        raise IndexFolderError(
            f"{index.folder}: none of the {int(allowed.sum())} rows has a label, by which hits are right or wrong; "
            "index a folder with one folder per class, or a CSV with the column label"
        )
    if task is not None and task not in by_task:
        near = suggest_similar(task, by_task)
        raise IndexFolderError(f"{index.folder}: no row has a label of {task!r}{near}; tasks: {', '.join(by_task)}")
    task = task or (DEFAULT_TASK if DEFAULT_TASK in by_task else next(iter(by_task)))
    names = sorted(by_task[task])
    classes_NK = np.zeros((len(index), len(names)), bool)
    for place, name in enumerate(names):
        classes_NK[by_task[task][name], place] = True
    return task, names, classes_NK
