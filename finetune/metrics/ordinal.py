"""Metrics of ordered levels, where an error of one level counts less than one of three."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics.headline import score_classification
from finetune.metrics.intervals import interval_of_shares


def score_ordinal(
    levels_N: np.ndarray, probs_NK: np.ndarray, *, classes: Sequence[str], groups: np.ndarray | None
) -> dict[str, Any]:
    """Metrics of classification, and of the distance between true levels (N,) and predicted ones, of at least one row.

    `probs_NK` (N, K) are probabilities of levels; the predicted level is the most probable one. `mean_distance` is in
    levels; `within_one` is the share of rows at most one level off; `kappa` is Cohen's kappa with quadratic weights: 1
    is perfect, 0 is chance level, and also the value where all rows have and are predicted the same level.
    """
    predicted_N, furthest = probs_NK.argmax(1), max(1, len(classes) - 1)
    distance_N = np.abs(predicted_N - levels_N)
    ends = interval_of_shares(distance_N / furthest, groups)
    return score_classification(levels_N, probs_NK, classes=classes, groups=groups) | {
        "kind": "ordinal",
        "num_rows": len(levels_N),
        "mean_distance": float(distance_N.mean()),
        "mean_distance_ci": None if ends is None else [furthest * end for end in ends],
        "within_one": float((distance_N <= 1).mean()),
        "within_one_ci": interval_of_shares(distance_N <= 1, groups),
        "kappa": _kappa(levels_N, predicted_N, len(classes)),
    }


def _kappa(levels_N: np.ndarray, predicted_N: np.ndarray, num_levels: int) -> float:
    from sklearn.metrics import cohen_kappa_score  # slow to import

    if len(np.union1d(levels_N, predicted_N)) < 2:
        return 0.0
    return float(cohen_kappa_score(levels_N, predicted_N, labels=range(num_levels), weights="quadratic"))
