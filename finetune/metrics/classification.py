"""Metrics of multiclass classification, from scikit-learn, with 95 % intervals over groups."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from finetune.metrics.intervals import (
    JackknifeUnits,
    interval_of_shares,
    jackknife_units,
    max_units,
    proportion_interval,
)


def score_multiclass(
    labels_N: np.ndarray, probs_NK: np.ndarray, *, classes: Sequence[str], groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Metrics in 0…1 of one task with `labels_N` (N,), class indices, and `probs_NK` (N, K), probabilities.

    `top1` and `top5` are the shares of rows whose label has the highest, or one of the five highest, probabilities.
    `macro_…` are means over the classes that have rows. `confusion` is (K, K), counts by true and predicted class.
    `majority` is the accuracy of always predicting the most frequent class of these rows.

    The interval of top-1, top-5 and each recall is `interval_of_shares` of the rows' hits; that of macro averages is
    `proportion_interval` of their values without each group. `groups` is (N,), or None where rows are independent.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # slow to import

    num_classes = len(classes)
    predicted_N = probs_NK.argmax(1)
    matrix = confusion_matrix(labels_N, predicted_N, labels=range(num_classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels_N, predicted_N, labels=range(num_classes), zero_division=0
    )
    top_k = min(5, num_classes)
    hits_N = np.array(
        [label in row for label, row in zip(labels_N, np.argsort(-probs_NK, axis=1)[:, :top_k], strict=True)]
    )
    correct_N = labels_N == predicted_N
    macro = _macro(matrix.diagonal(), matrix.sum(1), matrix.sum(0))
    figures = {"top1": float(correct_N.mean()), "top5": float(hits_N.mean()), **macro}
    intervals = {"top1": interval_of_shares(correct_N, groups), "top5": interval_of_shares(hits_N, groups)}
    intervals |= _macro_intervals(labels_N, predicted_N, groups, macro, support_K=support)
    majority = int(support.argmax())
    return {
        "kind": "classify",
        "classes": list(classes),
        **figures,
        **{f"{name}_ci": interval for name, interval in intervals.items()},
        "per_class": [
            {
                "class": name,
                "precision": float(precision[code]),
                "recall": float(recall[code]),
                "recall_ci": _subset_accuracy_interval(labels_N == code, correct_N, groups),
                "f1": float(f1[code]),
                "support": int(support[code]),
            }
            for code, name in enumerate(classes)
        ],
        "confusion": matrix.tolist(),
        "majority": {"class": classes[majority], "top1": float(support[majority] / support.sum())},
    }


def top1_and_loss(labels_N: np.ndarray, probs_NK: np.ndarray) -> tuple[float, float]:
    """Top-1 accuracy, and the mean of -ln p(label), from labels (N,) and probabilities (N, K)."""
    likelihood_N = np.maximum(probs_NK[np.arange(len(labels_N)), labels_N], 1e-12)
    return float((probs_NK.argmax(1) == labels_N).mean()), float(-np.log(likelihood_N).mean())


def _macro(correct_K: np.ndarray, actual_K: np.ndarray, predicted_K: np.ndarray) -> dict[str, float]:
    """Macro precision, recall and F1 over classes that have rows, from counts (K,) of correct, true, predicted rows."""
    occurs = actual_K > 0
    precision = np.divide(correct_K, predicted_K, out=np.zeros(correct_K.shape), where=predicted_K > 0)
    recall = np.divide(correct_K, actual_K, out=np.zeros(correct_K.shape), where=occurs)
    both = actual_K + predicted_K
    f1 = np.divide(2 * correct_K, both, out=np.zeros(correct_K.shape), where=both > 0)
    averaged = (("precision", precision), ("recall", recall), ("f1", f1))
    return {f"macro_{name}": float(values[occurs].mean()) for name, values in averaged}


def _subset_accuracy_interval(
    chosen_N: np.ndarray, correct_N: np.ndarray, groups: np.ndarray | None
) -> list[float] | None:
    """The interval of the accuracy on the chosen rows; None where there are none."""
    if not chosen_N.any():
        return None
    return interval_of_shares(correct_N[chosen_N], None if groups is None else groups[chosen_N])


def _macro_intervals(
    labels_N: np.ndarray,
    predicted_N: np.ndarray,
    groups: np.ndarray | None,
    macro: dict[str, float],
    *,
    support_K: np.ndarray,
) -> dict[str, list[float] | None]:
    """Intervals of macro averages. A row weighs 1 / support of its class; leaving out a group may remove a class."""
    most = max_units(len(labels_N) * len(support_K) // 10)
    units = jackknife_units(groups, len(labels_N), weights_N=1 / support_K[labels_N], most=most)
    left_out = [_macro(*counts) for counts in _leave_one_out_counts(labels_N, predicted_N, units, len(support_K))]
    return {
        name: proportion_interval(macro[name], np.array([metrics[name] for metrics in left_out]), units)
        for name in macro
    }


def _leave_one_out_counts(
    labels_N: np.ndarray, predicted_N: np.ndarray, units: JackknifeUnits, num_classes: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each unit, counts (K,) of correct, true and predicted rows without it; none where there is one unit."""
    rows_of_unit = np.split(
        np.argsort(units.unit_of_row, kind="stable"), np.cumsum(np.bincount(units.unit_of_row))[:-1]
    )
    codes = (labels_N[labels_N == predicted_N], labels_N, predicted_N)
    correct_K, actual_K, predicted_K = (np.bincount(code, minlength=num_classes) for code in codes)
    for rows in rows_of_unit if units.count > 1 else ():
        labels, predicted = labels_N[rows], predicted_N[rows]
        unit_correct = np.bincount(labels[labels == predicted], minlength=num_classes)
        unit_actual, unit_predicted = (np.bincount(code, minlength=num_classes) for code in (labels, predicted))
        yield correct_K - unit_correct, actual_K - unit_actual, predicted_K - unit_predicted
