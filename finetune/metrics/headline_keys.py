"""The headline metric of each kind of task, by which models are chosen and compared; higher is better."""

import math

HEADLINE_METRICS = {  # by kind: its key in results.json, its name
    "classify": ("top1", "top-1"),
    "multilabel": ("map", "mAP"),
    "ordinal": ("top1", "top-1"),
    "box": ("mean_iou", "mean IoU"),
    "motion": ("correlation", "correlation"),
    "regress": ("r2", "R²"),
    "detect": ("ap", "AP"),
    "track": ("ap", "AP"),
    "segment": ("miou", "mIoU"),
}
_LIMITS = {"correlation": (-1.0, 1.0), "r2": (-math.inf, 1.0)}


def metric_range(kind: str) -> tuple[float, float]:
    """Lowest and highest value of the headline metric of a kind: 0 and 1, except for correlations and R²."""
    return _LIMITS.get(HEADLINE_METRICS[kind][0], (0.0, 1.0))
