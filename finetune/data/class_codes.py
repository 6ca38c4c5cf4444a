"""Labels as class indices: of one class per row, or of lists of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.labels import Labels
from finetune.recipe.tasks import CATEGORICAL_KINDS


def class_labels(labels: Labels) -> tuple[tuple[str, ...], np.ndarray, np.ndarray | None]:
    """The same as `encode_labels`, for a task; a task that predicts numbers has no classes."""
    if labels.kind not in CATEGORICAL_KINDS:
        return (), np.zeros(len(labels.values), dtype=np.int64), None
    if labels.kind == "multilabel":
        return labels.names, rarest_class(labels.values), labels.values
    return labels.names, labels.values, None


def class_task_labels(classes: tuple[str, ...], codes: np.ndarray, targets: np.ndarray | None) -> Labels:
    """The result of `encode_labels` as Labels: `codes` (N,), and for multi-label `targets`, bool (N, K)."""
    if targets is None:
        return Labels("classify", classes, codes, codes < len(classes))
    return Labels("multilabel", classes, targets, np.ones(len(targets), dtype=bool))


def encode_labels(
    labels: Sequence[str] | Sequence[tuple[str, ...]],
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray | None]:
    """Classes (K), class indices (N,), and, if labels are lists, multi-label targets, bool (N, K).

    The index of a list is that of its rarest class, by which rows are stratified; of an empty list it is K.
    """
    lists = [(label,) if isinstance(label, str) else label for label in labels]
    classes = tuple(sorted({name for names in lists for name in names}))
    codes = {name: code for code, name in enumerate(classes)}
    if all(isinstance(label, str) for label in labels):
        return classes, np.array([codes[name] for (name,) in lists], dtype=np.int64), None
    targets = np.zeros((len(lists), len(classes)), dtype=bool)
    for row, names in enumerate(lists):
        targets[row, [codes[name] for name in names]] = True
    return classes, rarest_class(targets), targets


def rarest_class(targets_NK: np.ndarray) -> np.ndarray:
    """Class indices (N,): for each row of `targets_NK`, bool (N, K), its class with the fewest rows; K without one."""
    rows, count = targets_NK.shape
    if not count:
        return np.zeros(rows, dtype=np.int64)
    rarest_N = np.where(targets_NK, targets_NK.sum(0), rows + 1).argmin(1)
    return np.where(targets_NK.any(1), rarest_N, count).astype(np.int64)
