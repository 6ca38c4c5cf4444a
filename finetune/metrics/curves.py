"""How well probabilities rank clips: precision-recall and ROC curves, and accuracy where a model may abstain."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from finetune.metrics.intervals import interval_of_shares

NUM_GRID_POINTS = 51
MAX_CURVE_CLASSES = 12  # that have a curve each
MANY_CLASSES = 100  # of more there is no mean curve and no area under it: each class is a sort of all rows
COVERAGES = (1.0, 0.9, 0.75, 0.5)
NUM_CURVE_POINTS = 200


def ap_and_auroc(targets_NK: np.ndarray, probs_NK: np.ndarray) -> list[dict[str, float | None]]:
    """For each class `ap` and `auroc`, of it against all others; None where it has no rows, or all of them.

    Of more than MANY_CLASSES classes `ap` alone.
    """
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
    """Precision at each recall, and recall at each rate of false alarms, on a grid from 0 to 1: `grid`.

    Of the mean over classes that have rows and are not all there is, and of each where they are few.
    """
    num_there_K, num_rows = targets_NK.sum(0), len(targets_NK)
    asked = [code for code in range(len(classes)) if 0 < num_there_K[code] < num_rows]
    asked = asked if len(classes) <= MANY_CLASSES else []
    grid = np.arange(NUM_GRID_POINTS) / (
        NUM_GRID_POINTS - 1
    )  # linspace is a bit above 35/50, where a class of 50 has a point
    precision, recall = np.zeros(NUM_GRID_POINTS), np.zeros(NUM_GRID_POINTS)
    of_classes = []
    for code in asked:
        of_class = targets_NK[:, code], probs_NK[:, code], grid
        one, other = _precision_at(*of_class), _recall_at(*of_class)
        precision, recall = precision + one / len(asked), recall + other / len(asked)
        of_classes.append({"class": classes[code], "precision": _rounded(one), "recall": _rounded(other)})
    return {
        "grid": _rounded(grid),
        "precision": _rounded(precision) if asked else [],
        "recall": _rounded(recall) if asked else [],
        "classes": of_classes if len(asked) <= MAX_CURVE_CLASSES else [],
    }


def _precision_at(there_N: np.ndarray, confidence_N: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The precision of the shortest list that finds at least a share of the class."""
    precision, recall, _ = precision_recall_curve(there_N, confidence_N)
    rising_recall, precision = recall[::-1], precision[::-1]
    first = np.searchsorted(rising_recall, np.maximum(grid, 1e-9), side="left")
    return precision[np.minimum(first, len(precision) - 1)]


def _recall_at(there_N: np.ndarray, confidence_N: np.ndarray, grid: np.ndarray) -> np.ndarray:
    false_alarms, recall, _ = roc_curve(there_N, confidence_N, drop_intermediate=False)  # a line is read off in steps
    return recall[np.searchsorted(false_alarms, grid, side="right") - 1]


def accuracy_by_coverage(confidence_N: np.ndarray, correct_N: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    """Accuracy on the surest share of rows, for every share: what happens when the model may abstain.

    `coverage` and `accuracy` are points of the curve, at most POINTS, rows of equal sureness together; `at` has a few
    shares with intervals, and the sureness from which on they are answered.
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
