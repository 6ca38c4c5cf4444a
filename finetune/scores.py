"""Scores of predictions, through scikit-learn, each main figure with a 95 % interval over groups."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

RESAMPLES = 2000
Z = 1.959964  # of 95 % of a normal distribution


def score(
    labels_N: np.ndarray, probs_NK: np.ndarray, *, classes: Sequence[str], groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Figures of one classification task in 0…1; macro averages are over the classes that have rows.

    Intervals are percentiles of a bootstrap over groups, or over rows without groups: clips of one group are alike,
    so they are drawn together. A draw leaves the classes out that it has no row of. Where every resample gives the
    same figure (all right, all wrong, a single group) the interval is Wilson's for as many trials as there are groups.
    """
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
    figures = {
        "top1": float((labels_N == predicted_N).mean()),
        "top5": float(hits_N.mean()),
        **{name: float(value) for name, value in _macro(matrix).items()},
    }
    intervals = _intervals(labels_N, predicted_N, hits_N, groups, num_classes=num_classes)
    majority = int(support.argmax())
    return {
        "kind": "classify",
        "classes": list(classes),
        **figures,
        **{f"{name}_ci": interval for name, interval in intervals["figures"].items()},
        "per_class": [
            {
                "class": name,
                "precision": float(precision[code]),
                "recall": float(recall[code]),
                "recall_ci": intervals["recall"][code],
                "f1": float(f1[code]),
                "support": int(support[code]),
            }
            for code, name in enumerate(classes)
        ],
        "confusion": matrix.tolist(),
        "majority": {"class": classes[majority], "top1": float(support[majority] / support.sum())},
    }


def top1_and_loss(labels_N: np.ndarray, probs_NK: np.ndarray) -> tuple[float, float]:
    """How often the likeliest class is the label, and the mean of -ln p(label): what weights are chosen by."""
    likelihood_N = np.maximum(probs_NK[np.arange(len(labels_N)), labels_N], 1e-12)
    return float((probs_NK.argmax(1) == labels_N).mean()), float(-np.log(likelihood_N).mean())


def paired_difference(
    right_N: np.ndarray, other_N: np.ndarray, *, groups: np.ndarray | None
) -> tuple[float, tuple[float, float]]:
    """How much more often one is right than another on the same rows, with the 95 % interval of a paired bootstrap.

    `right_N` and `other_N` are true where a row was right. Units are groups, or rows where there are none.
    """
    difference_N = right_N.astype(float) - other_N
    units, num_units = units_of(groups, len(difference_N))
    sums, sizes = np.bincount(units, difference_N), np.bincount(units)
    drawn = np.random.default_rng(0).integers(num_units, size=(RESAMPLES, num_units))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    return float(difference_N.mean()), (float(low), float(high))


def units_of(groups: np.ndarray | None, rows: int) -> tuple[np.ndarray, int]:
    """The unit of each row that a resample draws as a whole, numbered from 0, and how many there are."""
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    return units, int(units.max()) + 1


def _macro(matrix_KK: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 averaged over classes that have rows; rows are true, columns predicted."""
    right = matrix_KK.diagonal(axis1=-2, axis2=-1)
    actual, named = matrix_KK.sum(-1), matrix_KK.sum(-2)
    there = actual > 0
    precision = np.divide(right, named, out=np.zeros(right.shape), where=named > 0)
    recall = np.divide(right, actual, out=np.zeros(right.shape), where=there)
    f1 = np.divide(2 * right, actual + named, out=np.zeros(right.shape), where=actual + named > 0)
    count = there.sum(-1)
    return {
        f"macro_{name}": (values * there).sum(-1) / count
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1))
    }


def _intervals(
    labels_N: np.ndarray,
    predicted_N: np.ndarray,
    hits_N: np.ndarray,
    groups: np.ndarray | None,
    *,
    num_classes: int,
) -> dict[str, Any]:
    """Each unit's confusion counts are summed once; a resample is then a weighted sum of them."""
    units, num_units = units_of(groups, len(labels_N))
    rng = np.random.default_rng(0)
    cells_N = labels_N * num_classes + predicted_N
    names = ("top1", "top5", "macro_precision", "macro_recall", "macro_f1")
    drawn: dict[str, list[float]] = {name: [] for name in names}
    recalls = np.full((RESAMPLES, num_classes), np.nan)
    for resample in range(RESAMPLES):
        weights_N = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)[units]
        matrix = np.bincount(cells_N, weights_N, num_classes**2).reshape(num_classes, num_classes)
        total = matrix.sum()
        drawn["top1"].append(matrix.trace() / total)
        drawn["top5"].append(float(weights_N @ hits_N) / total)
        for name, value in _macro(matrix).items():
            drawn[name].append(float(value))
        support = matrix.sum(1)
        there = support > 0
        recalls[resample, there] = matrix.diagonal()[there] / support[there]
    units_of_class = [len(np.unique(units[labels_N == code])) for code in range(num_classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class without rows has no recall
        recall_ci = [interval_of(recalls[:, code], units_of_class[code]) for code in range(num_classes)]
    return {
        "figures": {name: interval_of(np.array(drawn[name]), num_units) for name in names},
        "recall": recall_ci,
    }


def interval_of(drawn: np.ndarray, num_units: int) -> list[float] | None:
    """The 95 % interval of what resamples gave; None where none did."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return _wilson(low, num_units) if low == high else [float(low), float(high)]


def _wilson(share: float, trials: int) -> list[float]:
    """Wilson's interval (1927), for a share that need not be a whole number of trials."""
    center = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return [float(max(0.0, min(share, center - half))), float(min(1.0, max(share, center + half)))]
