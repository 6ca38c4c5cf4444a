"""Metrics of segmentation: intersection over union (IoU) per class, from one confusion matrix over all pixels.

Suffixes: S sides of a mask, K classes, U units (groups, or frames without groups).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.metrics.intervals import JackknifeUnits, jackknife_units, max_units, proportion_interval

UNLABELLED = 255  # the value of pixels without a class


def score_segmentation(
    masks: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    classes: Sequence[str],
    groups: np.ndarray,
    recordings: np.ndarray,
) -> dict[str, Any]:
    """Metrics of N labelled frames from true and predicted masks, uint8 (S, S) each: indices of classes, or UNLABELLED.

    Pixels that are unlabelled in the true mask do not count. `miou` is the mean IoU of the classes that occur in the
    true masks, `pixel_accuracy` the share of pixels with the true class. `steadiness` looks at pairs of neighbouring
    labelled frames: of the pixels whose true class is the same in both, the share whose predicted class is the same in
    both, whether right or wrong. A frame's neighbour is the one before it if it has the same of `recordings` (N,); None
    where none has. `groups` (N,) are the units of intervals. Without any labelled pixel all metrics are None.
    """
    units = jackknife_units(groups, len(groups), most=max_units(len(groups) * len(classes) ** 2))
    confusion_UKK = np.zeros((units.count, len(classes), len(classes)), dtype=np.int64)
    steady_U2, num_neighbours = np.zeros((units.count, 2), dtype=np.int64), 0
    previous: tuple[np.ndarray, np.ndarray] | None = None
    for frame, (true_SS, predicted_SS) in enumerate(masks):
        confusion_UKK[units.unit_of_row[frame]] += pixel_confusion(true_SS, predicted_SS, len(classes))
        if previous is not None and recordings[frame] == recordings[frame - 1]:
            still_SS = (true_SS == previous[0]) & (true_SS != UNLABELLED)
            steady_U2[units.unit_of_row[frame]] += (still_SS & (predicted_SS == previous[1])).sum(), still_SS.sum()
            num_neighbours += 1
        previous = true_SS, predicted_SS
    confusion_KK = confusion_UKK.sum(0)
    task = {"kind": "segment", "classes": list(classes), "num_rows": len(groups), "num_pixels": int(confusion_KK.sum())}
    task |= _figures_with_intervals(confusion_UKK, steady_U2, units)
    task |= {"num_neighbours": num_neighbours, "confusion": confusion_KK.tolist()}
    return task | {"per_class": [_class_figures(code, name, confusion_KK) for code, name in enumerate(classes)]}


def mean_iou(masks: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int) -> float | None:
    """The `miou` of `score_segmentation`; None without a labelled pixel."""
    total_KK = np.zeros((num_classes, num_classes), dtype=np.int64)
    for true_SS, predicted_SS in masks:
        total_KK += pixel_confusion(true_SS, predicted_SS, num_classes)
    return _figures(total_KK, np.zeros(2))["miou"]


def pixel_confusion(true_SS: np.ndarray, predicted_SS: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels (K, K) by true and predicted class, of masks (S, S); without those that are unlabelled."""
    known_SS = true_SS != UNLABELLED
    pairs = true_SS[known_SS].astype(np.int64) * num_classes + predicted_SS[known_SS]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _figures(confusion_KK: np.ndarray, steady_2: np.ndarray) -> dict[str, float | None]:
    true_K, right_K = confusion_KK.sum(1), confusion_KK.diagonal()
    union_K = true_K + confusion_KK.sum(0) - right_K
    occurs_K = true_K > 0
    return {
        "miou": float((right_K[occurs_K] / union_K[occurs_K]).mean()) if occurs_K.any() else None,
        "pixel_accuracy": _ratio(right_K.sum(), true_K.sum()),
        "steadiness": _ratio(*steady_2),
    }


def _figures_with_intervals(
    confusion_UKK: np.ndarray, steady_U2: np.ndarray, units: JackknifeUnits
) -> dict[str, float | list[float] | None]:
    """Metrics with intervals by leaving out each unit; each frame is one trial."""
    confusion_KK, steady_2 = confusion_UKK.sum(0), steady_U2.sum(0)
    figures = _figures(confusion_KK, steady_2)
    rest = zip(confusion_KK - confusion_UKK, steady_2 - steady_U2, strict=True)
    left_out = [_figures(*counts) for counts in rest]
    task: dict[str, float | list[float] | None] = {}
    for name, value in figures.items():
        left_out_U = np.array([figures[name] for figures in left_out], dtype=float)
        task |= {name: value, f"{name}_ci": None if value is None else proportion_interval(value, left_out_U, units)}
    return task


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
