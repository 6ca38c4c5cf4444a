"""Metrics of segmentation: intersection over union (IoU) per class, from one confusion matrix over all pixels.

Masks are uint8 (S, S): indices of classes; UNLABELLED pixels of a true mask do not count. `frame_counts`
sums up a frame, and all metrics come from these counts.

Suffixes: N frames, S sides of a mask, K classes, F counts of a frame, U units (groups, or frames without groups).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.metrics.intervals import jackknife_units, max_units, proportion_interval
from finetune.recipe.object_fields import UNLABELLED

FIGURES = ("miou", "pixel_accuracy", "steadiness")


def frame_counts(
    masks: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int, *, recordings: np.ndarray
) -> np.ndarray:
    """Counts of pixels (N, K² + 2) of labelled frames, from their true and predicted masks.

    First by true and predicted class. Then, against the frame before it: pixels whose true class is the same in both,
    and those of them whose predicted class is the same in both, whether right or wrong. These are 0 where the frame
    before it is of another of `recordings` (N,).
    """
    counts_NF = np.zeros((len(recordings), num_classes**2 + 2), dtype=np.int32)
    before: tuple[np.ndarray, np.ndarray] | None = None
    for frame, (true_SS, predicted_SS) in enumerate(masks):
        known_SS = true_SS != UNLABELLED
        pairs = true_SS[known_SS].astype(np.int64) * num_classes + predicted_SS[known_SS]
        counts_NF[frame, :-2] = np.bincount(pairs, minlength=num_classes**2)
        if before is not None and recordings[frame] == recordings[frame - 1]:
            still_SS = known_SS & (true_SS == before[0])
            counts_NF[frame, -2:] = still_SS.sum(), (still_SS & (predicted_SS == before[1])).sum()
        before = true_SS, predicted_SS
    return counts_NF


def score_segmentation(counts_NF: np.ndarray, *, classes: Sequence[str], groups: np.ndarray | None) -> dict[str, Any]:
    """Metrics of at least one labelled frame, from its `frame_counts` (N, K² + 2).

    `miou` is the mean IoU of the classes that occur in the true masks, `pixel_accuracy` the share of pixels with the
    true class. `steadiness` is the share of pixels whose predicted class stays from one labelled frame to the next
    where the true class stays; None without neighbouring frames. `groups` (N,) are the units of intervals; None where
    frames are independent. Without any labelled pixel all metrics are None.
    """
    units = jackknife_units(groups, len(counts_NF), most=max_units(counts_NF.size))
    counts_UF = np.zeros((units.count, counts_NF.shape[1]), dtype=np.int64)
    np.add.at(counts_UF, units.unit_of_row, counts_NF)
    counts_F = counts_UF.sum(0)
    left_out = [segmentation_figures(rest_F) for rest_F in counts_F - counts_UF]
    confusion_KK = counts_F[:-2].reshape(len(classes), len(classes))
    task: dict[str, Any] = {"kind": "segment", "classes": list(classes), "num_rows": len(counts_NF)}
    for name, value in segmentation_figures(counts_F).items():
        left_out_U = np.array([rest[name] for rest in left_out], dtype=float)
        task |= {name: value, f"{name}_ci": None if value is None else proportion_interval(value, left_out_U, units)}
    task |= {"num_pixels": int(confusion_KK.sum()), "num_neighbours": int((counts_NF[:, -2] > 0).sum())}
    task |= {"per_class": [_class_figures(code, name, confusion_KK) for code, name in enumerate(classes)]}
    return task | {"confusion": confusion_KK.tolist()}


def mean_iou(counts_NF: np.ndarray) -> float | None:
    """The `miou` of `score_segmentation`."""
    return segmentation_figures(counts_NF.sum(0, dtype=np.int64))["miou"]


def segmentation_figures(counts_F: np.ndarray) -> dict[str, float | None]:
    """The metrics of `score_segmentation` from counts (K² + 2,) of one or more frames."""
    num_classes = math.isqrt(len(counts_F))
    confusion_KK = counts_F[:-2].reshape(num_classes, num_classes)
    true_K, right_K = confusion_KK.sum(1), confusion_KK.diagonal()
    union_K, occurs_K = true_K + confusion_KK.sum(0) - right_K, true_K > 0
    values = (
        float((right_K[occurs_K] / union_K[occurs_K]).mean()) if occurs_K.any() else None,
        _ratio(right_K.sum(), true_K.sum()),
        _ratio(counts_F[-1], counts_F[-2]),
    )
    return dict(zip(FIGURES, values, strict=True))


def _class_figures(code: int, name: str, confusion_KK: np.ndarray) -> dict[str, Any]:
    right, true, predicted = confusion_KK[code, code], confusion_KK[code].sum(), confusion_KK[:, code].sum()
    return {
        "class": name,
        "iou": _ratio(right, true + predicted - right) if true else None,
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, true),
        "support": int(true),
    }


def _ratio(part: float, total: float) -> float | None:
    return float(part / total) if total > 0 else None
