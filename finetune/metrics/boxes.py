"""Intersection over union (IoU) of boxes, and the metrics of one box per clip."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics.intervals import interval_of_errors, interval_of_shares

NUM_IOU_BINS = 20  # of the histogram of IoU


def score_box(
    truth_N4: np.ndarray, predictions_N4: np.ndarray, *, groups: np.ndarray | None, mean_box: Sequence[float] | None
) -> dict[str, Any]:
    """Metrics of one box task, from at least one row; boxes (N, 4) are x, y, width, height in pixels of the source.

    `ap50` and `ap75` are the shares of clips with an IoU of at least 0.5 and 0.75: with one true and one predicted box
    per clip, precision and recall are equal, and boxes have no confidence to rank them by. `center_error` is the mean
    distance of centers in pixels. `mean_box` (4,) is that of the training rows; always predicting it is the baseline.
    """
    iou_N = box_iou_pairs(truth_N4, predictions_N4)
    error_N = np.hypot(*(_centers(truth_N4) - _centers(predictions_N4)).T)
    counts, edges = np.histogram(iou_N, np.arange(NUM_IOU_BINS + 1) / NUM_IOU_BINS)
    shares = {"mean_iou": iou_N, "ap50": iou_N >= 0.5, "ap75": iou_N >= 0.75}
    task: dict[str, Any] = {"kind": "box", "num_rows": len(iou_N)}
    for name, share_N in shares.items():
        task |= {name: float(share_N.mean()), f"{name}_ci": interval_of_shares(share_N, groups)}
    task |= {"center_error": float(error_N.mean()), "center_error_ci": interval_of_errors(error_N, groups)}
    if mean_box is not None:
        always_N4 = np.broadcast_to(np.asarray(mean_box, dtype=np.float64), truth_N4.shape)
        task["baseline"] = {"mean_iou": float(box_iou_pairs(truth_N4, always_N4).mean())}
    return task | {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def box_iou_pairs(truth_N4: np.ndarray, predictions_N4: np.ndarray) -> np.ndarray:
    """IoU (N,) of each pair of boxes (N, 4): area of the intersection ÷ area of the union; 0 for a box without area."""
    truth_N4, predictions_N4 = truth_N4.astype(np.float64), predictions_N4.astype(np.float64)
    starts = np.maximum(truth_N4[:, :2], predictions_N4[:, :2])
    ends = np.minimum(truth_N4[:, :2] + truth_N4[:, 2:], predictions_N4[:, :2] + predictions_N4[:, 2:])
    common_N = np.clip(ends - starts, 0, None).prod(1)
    union_N = truth_N4[:, 2:].prod(1) + predictions_N4[:, 2:].prod(1) - common_N
    has_area_N = (truth_N4[:, 2:] > 0).all(1) & (predictions_N4[:, 2:] > 0).all(1)
    return np.divide(common_N, union_N, out=np.zeros(len(truth_N4)), where=has_area_N)


def box_iou_matrix(boxes_N4: np.ndarray, others_M4: np.ndarray) -> np.ndarray:
    """IoU (N, M) of each box (N, 4) with each other one (M, 4), x, y, width, height; 0 where both have no area."""
    common_NM = box_intersections(boxes_N4, others_M4)
    union_NM = boxes_N4[:, None, 2:].prod(2) + others_M4[:, 2:].prod(1) - common_NM
    return np.divide(common_NM, union_NM, out=np.zeros(common_NM.shape), where=union_NM > 0)


def box_intersections(boxes_N4: np.ndarray, others_M4: np.ndarray) -> np.ndarray:
    """Areas (N, M) that boxes (N, 4) and (M, 4), x, y, width, height, have in common."""
    boxes_N4, others_M4 = boxes_N4.astype(np.float64), others_M4.astype(np.float64)
    starts = np.maximum(boxes_N4[:, None, :2], others_M4[:, :2])
    ends = np.minimum((boxes_N4[:, :2] + boxes_N4[:, 2:])[:, None], others_M4[:, :2] + others_M4[:, 2:])
    return np.clip(ends - starts, 0, None).prod(2)


def _centers(boxes_N4: np.ndarray) -> np.ndarray:
    return boxes_N4[:, :2].astype(np.float64) + boxes_N4[:, 2:] / 2
