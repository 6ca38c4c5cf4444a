"""Metrics of a task of any kind: all of them for results.json, or the headline metric of an epoch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune.metrics.boxes import box_iou_pairs, score_box
from finetune.metrics.detection import average_precision, score_detection
from finetune.metrics.headline import score_classification
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.multilabel import mean_average_precision
from finetune.metrics.ordinal import score_ordinal
from finetune.metrics.regression import mean_correlation, mean_r2, score_motion, score_regression
from finetune.metrics.segmentation import mean_iou, score_segmentation
from finetune.recipe.tasks import CLASSIFICATION_KINDS, DETECTION_KINDS


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
    or numbers (N, K), in the order of `names` (K,). Objects are (N, M, 9) and detections (N, D, 8), see
    `score_detection`. Of masks, `predictions` are the `frame_counts` (N, K² + 2), and `truth` is not used.

    `fitted` (K,) comes from other rows: the mean of the training rows' numbers, thresholds of a multi-label task, or
    the score threshold of detections, (1,). Without it there is no baseline for numbers, multi-label thresholds are
    0.5, and the score threshold is the best one on these rows.
    """
    assert len(truth) == len(predictions) > 0
    if kind in ("regress", "motion"):
        score = score_regression if kind == "regress" else score_motion
        return score(truth, predictions, names=names, groups=groups, mean=fitted)
    if kind == "box":
        return score_box(truth, predictions, groups=groups, mean_box=fitted)
    if kind in DETECTION_KINDS:
        threshold = None if fitted is None else fitted[0]
        return score_detection(kind, truth, predictions, classes=names, groups=groups, score_threshold=threshold)
    if kind == "segment":
        return score_segmentation(predictions, classes=names, groups=groups)
    if kind == "ordinal":
        return score_ordinal(truth, predictions, classes=names, groups=groups)
    assert kind in CLASSIFICATION_KINDS, kind
    thresholds = None if fitted is None else np.asarray(fitted)
    predicted_NK = predictions >= (0.5 if thresholds is None else thresholds) if kind == "multilabel" else None
    return score_classification(
        truth, predictions, classes=names, groups=groups, predicted_NK=predicted_NK, thresholds=thresholds
    )


def validation_headline(kind: str, truth: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
    """The headline metric of a task by its key, without an interval, from its labelled rows; empty without rows.

    `truth` and `predictions` have the shapes of `score_task`.
    """
    return {HEADLINE_METRICS[kind][0]: _HEADLINE_FUNCTIONS[kind](truth, predictions)} if len(truth) else {}


def _mean_iou_of_masks(_: np.ndarray, counts_NF: np.ndarray) -> float | None:
    return mean_iou(counts_NF)


def _top1(labels_N: np.ndarray, probs_NK: np.ndarray) -> float:
    return float((probs_NK.argmax(1) == labels_N).mean())


def _mean_iou(truth_N4: np.ndarray, predictions_N4: np.ndarray) -> float:
    return float(box_iou_pairs(truth_N4, predictions_N4).mean())


_HEADLINE_FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "classify": _top1,
    "multilabel": mean_average_precision,
    "ordinal": _top1,
    "box": _mean_iou,
    "motion": mean_correlation,
    "regress": mean_r2,
    "detect": average_precision,
    "track": average_precision,
    "segment": _mean_iou_of_masks,
}
