"""Scores of predictions, through scikit-learn, each main figure with a 95 % interval over groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from finetune.scores.intervals import interval_of, resamples_of, units_of


def score(
    labels_N: np.ndarray, probs_NK: np.ndarray, *, classes: Sequence[str], groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Figures of one classification task in 0…1; macro averages are over the classes that have rows.

    Intervals come from a bootstrap over groups, or over rows without groups; see `interval_of`. A resample leaves the
    classes out that it has no row of.
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
        **_macro(matrix.diagonal(), matrix.sum(1), matrix.sum(0)),
    }
    intervals = _intervals(labels_N, predicted_N, hits_N, groups, figures, recall_K=recall)
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


def _macro(right_K: np.ndarray, actual_K: np.ndarray, named_K: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 averaged over classes that have rows, from how many are right, there, and named so."""
    there = actual_K > 0
    precision = np.divide(right_K, named_K, out=np.zeros(right_K.shape), where=named_K > 0)
    recall = np.divide(right_K, actual_K, out=np.zeros(right_K.shape), where=there)
    both = actual_K + named_K
    f1 = np.divide(2 * right_K, both, out=np.zeros(right_K.shape), where=both > 0)
    averaged = (("precision", precision), ("recall", recall), ("f1", f1))
    return {f"macro_{name}": float(values[there].mean()) for name, values in averaged}


def _intervals(
    labels_N: np.ndarray,
    predicted_N: np.ndarray,
    hits_N: np.ndarray,
    groups: np.ndarray | None,
    figures: dict[str, float],
    *,
    recall_K: np.ndarray,
) -> dict[str, Any]:
    """The intervals of the `figures`, and of each class's recall."""
    units, num_units = units_of(groups, len(labels_N))
    rng, num_classes = np.random.default_rng(0), len(recall_K)
    right_N = labels_N == predicted_N
    drawn: dict[str, list[float]] = {name: [] for name in figures}
    resamples = resamples_of(len(labels_N))
    recalls = np.full((resamples, num_classes), np.nan)
    for resample in range(resamples):
        weights_N = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)[units]
        right_K, actual_K, named_K = (
            np.bincount(codes, weights, num_classes)
            for codes, weights in ((labels_N, weights_N * right_N), (labels_N, weights_N), (predicted_N, weights_N))
        )
        total = weights_N.sum()
        drawn["top1"].append(float(right_K.sum() / total))
        drawn["top5"].append(float(weights_N @ hits_N / total))
        for name, value in _macro(right_K, actual_K, named_K).items():
            drawn[name].append(value)
        there = actual_K > 0
        recalls[resample, there] = right_K[there] / actual_K[there]
    units_of_class = [len(np.unique(units[labels_N == code])) for code in range(num_classes)]
    return {
        "figures": {name: interval_of(figures[name], np.array(drawn[name]), num_units) for name in figures},
        "recall": [
            interval_of(float(recall_K[code]), recalls[:, code], units_of_class[code]) for code in range(num_classes)
        ],
    }
