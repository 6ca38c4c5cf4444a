"""Metrics of a task of any kind: all of them for results.json, or the headline metric of an epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics.boxes import box_iou_pairs, score_box
from finetune.metrics.headline import score_classification
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.multilabel import mean_average_precision
from finetune.metrics.ordinal import score_ordinal
from finetune.metrics.regression import mean_correlation, mean_r2, score_motion, score_regression
from finetune.recipe.tasks import CLASSIFICATION_KINDS


def score_task(
    kind: str,
    truth: np.ndarray,
    predictions: np.ndarray,
    *,
    names: Sequence[str],
    groups: np.ndarray | None,
    fitted: Sequence[float] | None,
) -> dict[str, Any]:
    """All metrics of a task for results.json, from its labelled rows: at least one.

    `truth` are labels or levels (N,), present classes, bool (N, K), or numbers (N, K). `predictions` are probabilities
    or numbers (N, K), in the order of `names` (K,). `fitted` (K,) comes from other rows: the mean of the training rows'
    numbers, or thresholds of a multi-label task; None: 0.5 for thresholds, and no baseline for numbers.
    """
    assert len(truth) == len(predictions) > 0
    if kind in ("regress", "motion"):
        score = score_regression if kind == "regress" else score_motion
        return score(truth, predictions, names=names, groups=groups, mean=fitted)
    if kind == "box":
        return score_box(truth, predictions, groups=groups, mean_box=fitted)
    if kind == "ordinal":
        return score_ordinal(truth, predictions, classes=names, groups=groups)
    assert kind in CLASSIFICATION_KINDS, kind
    thresholds = None if fitted is None else np.asarray(fitted)
    predicted_NK = predictions >= (0.5 if thresholds is None else thresholds) if kind == "multilabel" else None
    return score_classification(
        truth, predictions, classes=names, groups=groups, predicted_NK=predicted_NK, thresholds=thresholds
    )


def validation_headline(kind: str, truth: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The headline metric of a task by its key, without an interval, from its labelled rows; empty without rows.

    `truth` and `predictions` have the shapes of `score_task`.
    """
    return {HEADLINE_METRICS[kind][0]: _HEADLINE_FUNCTIONS[kind](truth, predictions)} if len(truth) else {}


def _top1(labels_N: np.ndarray, probs_NK: np.ndarray) -> float:
    return float((probs_NK.argmax(1) == labels_N).mean())


def _mean_iou(truth_N4: np.ndarray, predictions_N4: np.ndarray) -> float:
    return float(box_iou_pairs(truth_N4, predictions_N4).mean())


_HEADLINE_FUNCTIONS = {
    "classify": _top1,
    "multilabel": mean_average_precision,
    "ordinal": _top1,
    "box": _mean_iou,
    "motion": mean_correlation,
    "regress": mean_r2,
}
