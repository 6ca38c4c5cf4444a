"""Metrics of multi-label classification: average precision, and F1 at thresholds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics.intervals import interval_of_shares, jackknife_units, max_units, proportion_interval


def score_multilabel(
    targets_NK: np.ndarray,
    probs_NK: np.ndarray,
    predicted_NK: np.ndarray,
    *,
    classes: Sequence[str],
    thresholds: np.ndarray | None,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Metrics in 0…1 of one task from `targets_NK`, bool (N, K), and probabilities `probs_NK` (N, K).

    `predicted_NK`, bool (N, K), are the classes above `thresholds` (K,). `map` is the mean over classes that occur of
    their average precision; `micro_f1` pools all clips and classes, `macro_f1` is the mean over classes that occur;
    `exact` is the share of clips whose classes are all correct. `chance_map` is the mAP of random probabilities.
    Intervals are `proportion_interval` of the values without each group.
    """
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support  # slow to import

    there_K = targets_NK.sum(0) > 0
    precision, recall, f1, support = precision_recall_fscore_support(targets_NK, predicted_NK, zero_division=0)
    ap_K = [
        float(average_precision_score(targets_NK[:, code], probs_NK[:, code])) if there_K[code] else None
        for code in range(len(classes))
    ]
    figures = {
        "map": float(np.mean([ap for ap in ap_K if ap is not None])) if there_K.any() else 0.0,
        "micro_f1": _micro_f1(targets_NK, predicted_NK, np.ones(len(targets_NK))),
        "macro_f1": float(f1[there_K].mean()) if there_K.any() else 0.0,
        "exact": float((targets_NK == predicted_NK).all(1).mean()),
    }
    intervals = _intervals(targets_NK, probs_NK, predicted_NK, groups, figures)
    share_K = targets_NK.mean(0)
    return {
        "kind": "multilabel",
        "classes": list(classes),
        **figures,
        **{f"{name}_ci": interval for name, interval in intervals.items()},
        "chance_map": float(share_K[there_K].mean()) if there_K.any() else 0.0,
        "per_class": [
            {
                "class": name,
                "ap": ap_K[code],
                "threshold": None if thresholds is None else float(thresholds[code]),
                "precision": float(precision[code]),
                "recall": float(recall[code]),
                "f1": float(f1[code]),
                "support": int(support[code]),
            }
            for code, name in enumerate(classes)
        ],
    }


def mean_average_precision(targets_NK: np.ndarray, probs_NK: np.ndarray) -> float:
    """mAP over classes that occur, of targets and probabilities (N, K); 0 where none occurs."""
    from sklearn.metrics import average_precision_score

    there_K = targets_NK.any(0)
    return float(average_precision_score(targets_NK[:, there_K], probs_NK[:, there_K])) if there_K.any() else 0.0


def binary_log_loss(targets_NK: np.ndarray, probs_NK: np.ndarray) -> float:
    """Mean binary cross-entropy over clips and classes, of targets and probabilities (N, K)."""
    likelihood_NK = np.where(targets_NK, probs_NK, 1 - probs_NK)
    return float(-np.log(np.maximum(likelihood_NK, 1e-12)).mean())


def best_thresholds(targets_NK: np.ndarray, probs_NK: np.ndarray) -> list[float]:
    """For each class the threshold on its probability that maximizes F1; 0.5 for a class that never occurs.

    The threshold is halfway between the last clip above it and the next lower one; of equally good ones the highest.
    """
    return [
        _best_threshold(targets_NK[:, code], probs_NK[:, code].astype(np.float64)) for code in range(probs_NK.shape[1])
    ]


def _best_threshold(there_N: np.ndarray, probs_N: np.ndarray) -> float:
    from sklearn.metrics import precision_recall_curve

    if not there_N.any():
        return 0.5
    precision, recall, marks = precision_recall_curve(there_N, probs_N)
    precision, recall = precision[:-1], recall[:-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    chosen = len(f1) - 1 - int(f1[::-1].argmax())
    below = marks[chosen - 1] if chosen else 0.0
    return float((marks[chosen] + below) / 2)


def _micro_f1(targets_NK: np.ndarray, predicted_NK: np.ndarray, weights_N: np.ndarray) -> float:
    right = weights_N @ (targets_NK & predicted_NK).sum(1)
    both = weights_N @ (targets_NK.sum(1) + predicted_NK.sum(1))
    return float(2 * right / both) if both else 0.0


def _intervals(
    targets_NK: np.ndarray,
    probs_NK: np.ndarray,
    predicted_NK: np.ndarray,
    groups: np.ndarray | None,
    figures: dict[str, float],
) -> dict[str, list[float] | None]:
    """Intervals by leaving out each unit; in averages over classes a row weighs Σ 1 / support of its classes."""
    support_K = np.maximum(targets_NK.sum(0), 1)
    weights_N = np.maximum((targets_NK / support_K).sum(1), 1 / targets_NK.size)  # a row without a class weighs little
    most = max_units(probs_NK.size)
    of_classes = jackknife_units(groups, len(targets_NK), weights_N=weights_N, most=most)
    of_all = jackknife_units(groups, len(targets_NK), most=most)
    ranked = [_Ranked(targets_NK[:, code], probs_NK[:, code]) for code in np.flatnonzero(targets_NK.any(0))]
    labels_NK = targets_NK.astype(int)  # a product of two bool arrays would not count
    hits_NK, sums_NK = labels_NK * predicted_NK, labels_NK + predicted_NK
    left_out = np.full((of_all.count, 3), np.nan)
    for unit, rest_N in enumerate(of_all.leave_one_out_masks()):
        hits_K, sums_K, support_K = rest_N @ hits_NK, rest_N @ sums_NK, rest_N @ labels_NK
        if support_K.any():
            precision = float(np.nanmean([each.average_precision(rest_N) for each in ranked]))
            macro = float((2 * hits_K / np.maximum(sums_K, 1))[support_K > 0].mean())
            left_out[unit] = precision, macro, 2 * hits_K.sum() / max(1, sums_K.sum())
    return {
        "map": proportion_interval(figures["map"], left_out[:, 0], of_classes),
        "macro_f1": proportion_interval(figures["macro_f1"], left_out[:, 1], of_classes),
        "micro_f1": proportion_interval(figures["micro_f1"], left_out[:, 2], of_all),
        "exact": interval_of_shares((targets_NK == predicted_NK).all(1), groups),
    }


class _Ranked:
    """One class's rows by falling probability, so that the average precision of weighted rows takes two sums."""

    def __init__(self, there_N: np.ndarray, probs_N: np.ndarray) -> None:
        self.order = np.argsort(-probs_N, kind="stable")
        self.there = there_N[self.order]
        falling = probs_N[self.order]
        self.last_of_equals = np.searchsorted(-falling, -falling, side="right") - 1

    def average_precision(self, weights_N: np.ndarray) -> float:
        weights = weights_N[self.order]
        right = weights * self.there
        total = right.sum()
        if not total:
            return np.nan
        precision = np.cumsum(right) / np.maximum(np.cumsum(weights), 1)
        return float(right @ precision[self.last_of_equals] / total)
