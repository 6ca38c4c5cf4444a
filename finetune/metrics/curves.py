"""Precision-recall and ROC curves, average precision and AUROC, and accuracy by coverage (selective prediction)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics.intervals import interval_of_shares

NUM_GRID_POINTS = 51
MAX_CURVE_CLASSES = 12  # up to so many classes, each has a curve of its own
MANY_CLASSES = 100  # beyond, no mean curve and no AUROC: each class takes a sort of all rows
COVERAGES = (1.0, 0.9, 0.75, 0.5)
NUM_CURVE_POINTS = 200


def ap_and_auroc(targets_NK: np.ndarray, probs_NK: np.ndarray) -> list[dict[str, float | None]]:
    """Average precision `ap` and area under the ROC curve `auroc` of each class against all others.

    `targets_NK` is bool (N, K), `probs_NK` (N, K) probabilities. `ap` is None for a class without rows, `auroc` also
    for a class that has all rows, and with more than MANY_CLASSES classes.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # slow to import

    found, few = [], targets_NK.shape[1] <= MANY_CLASSES
    for there_N, confidence_N in zip(targets_NK.T, probs_NK.T, strict=True):
        some, all_of_them = there_N.any(), there_N.all()
        found.append(
            {
                "ap": float(average_precision_score(there_N, confidence_N)) if some else None,
                "auroc": float(roc_auc_score(there_N, confidence_N)) if few and some and not all_of_them else None,
            }
        )
    return found


def ranking_curves(targets_NK: np.ndarray, probs_NK: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Precision by recall, and recall by false-positive rate, at the values of `grid` from 0 to 1.

    `targets_NK` is bool (N, K), `probs_NK` (N, K) probabilities. Curves are means over classes that some, but not all,
    rows have; `classes` has the curve of each class where there are at most MAX_CURVE_CLASSES.
    """
    num_there_K, num_rows = targets_NK.sum(0), len(targets_NK)
    curve_classes = [code for code in range(len(classes)) if 0 < num_there_K[code] < num_rows]
    curve_classes = curve_classes if len(classes) <= MANY_CLASSES else []
    grid = np.arange(NUM_GRID_POINTS) / (
        NUM_GRID_POINTS - 1
    )  # np.linspace is slightly above 35/50, a recall that a class of 50 rows can have
    precision, recall = np.zeros(NUM_GRID_POINTS), np.zeros(NUM_GRID_POINTS)
    of_classes = []
    for code in curve_classes:
        of_class = targets_NK[:, code], probs_NK[:, code], grid
        one, other = _precision_at(*of_class), _recall_at(*of_class)
        precision, recall = precision + one / len(curve_classes), recall + other / len(curve_classes)
        of_classes.append({"class": classes[code], "precision": _rounded(one), "recall": _rounded(other)})
    return {
        "grid": _rounded(grid),
        "precision": _rounded(precision) if curve_classes else [],
        "recall": _rounded(recall) if curve_classes else [],
        "classes": of_classes if len(curve_classes) <= MAX_CURVE_CLASSES else [],
    }


def _precision_at(there_N: np.ndarray, confidence_N: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Precision of the shortest ranked list whose recall is at least each value of `grid`."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(there_N, confidence_N)
    rising_recall, precision = recall[::-1], precision[::-1]
    first = np.searchsorted(rising_recall, np.maximum(grid, 1e-9), side="left")
    return precision[np.minimum(first, len(precision) - 1)]


def _recall_at(there_N: np.ndarray, confidence_N: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from sklearn.metrics import roc_curve

    false_alarms, recall, _ = roc_curve(
        there_N, confidence_N, drop_intermediate=False
    )  # keep all points: the curve is read as a step function
    return recall[np.searchsorted(false_alarms, grid, side="right") - 1]


def accuracy_by_coverage(confidence_N: np.ndarray, correct_N: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    """Accuracy on the most confident rows, by their share of all rows: for a model that may abstain.

    `confidence_N` (N,) is the probability of the predicted class, `correct_N` bool (N,). `coverage` and `accuracy` are
    the curve, at most NUM_CURVE_POINTS points; rows of equal confidence enter together. `at` has the accuracy at a few
    coverages with its interval and the confidence threshold.
    """
    order = np.argsort(-confidence_N, kind="stable")
    falling = confidence_N[order]
    last_of_equals = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
    covered = last_of_equals + 1
    accuracy = np.cumsum(correct_N[order])[last_of_equals] / covered
    shown = np.unique(np.linspace(0, len(covered) - 1, min(NUM_CURVE_POINTS, len(covered))).astype(int))
    return {
        "coverage": _rounded(covered[shown] / len(confidence_N)),
        "accuracy": _rounded(accuracy[shown]),
        "at": [_accuracy_at_coverage(share, falling, confidence_N, correct_N, groups) for share in COVERAGES],
    }


def _accuracy_at_coverage(
    share: float, falling: np.ndarray, confidence_N: np.ndarray, correct_N: np.ndarray, groups: np.ndarray | None
) -> dict[str, Any]:
    threshold = falling[max(1, round(share * len(falling))) - 1]
    answered = confidence_N >= threshold
    return {
        "coverage": float(answered.mean()),
        "accuracy": float(correct_N[answered].mean()),
        "accuracy_ci": interval_of_shares(correct_N[answered], None if groups is None else groups[answered]),
        "threshold": float(threshold),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]
