"""Metrics of detected objects: average precision, confusion of classes, and motion; with 95 % intervals over groups.

Suffixes: N frames, M true objects of a frame, D detections of a frame, K classes, S sizes of objects, E all true
objects, U units (groups, or frames without groups).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics.average_precision import PLACE_50, PLACE_75, RECALLS, SIZE_AREAS, SIZES, CocoMatches
from finetune.metrics.curves import MAX_CURVE_CLASSES
from finetune.metrics.intervals import MAX_UNITS, interval_of_shares, jackknife_units, proportion_interval
from finetune.metrics.object_matching import ThresholdCounts, best_score_threshold, count_at_threshold
from finetune.metrics.regression import score_motion
from finetune.recipe.object_fields import DETECTION_FIELDS, LABEL_FIELDS

DEFAULT_SCORE_THRESHOLD = 0.5  # where there are no objects to fit one on
# Frames × classes × sizes that are added up for intervals, about 20 s: with more, more groups are left out together.
MAX_ADDED, MIN_UNITS = 4_000_000, 20


def score_detection(
    kind: str,
    truth_NM9: np.ndarray,
    detections_ND8: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None,
    score_threshold: float | None = None,
) -> dict[str, Any]:
    """Metrics of objects in N labelled frames; `truth_NM9` has LABEL_FIELDS, `detections_ND8` DETECTION_FIELDS.

    `ap` is COCO's average precision, the mean over IoU 0.5, 0.55 … 0.95, `ap50` and `ap75` are those at one IoU, `ap_…`
    those of objects of one size; all are means over the classes that have such objects, None where no class has.
    `score_threshold` was fitted on val; without one, that of the highest F1 on these frames is used, which flatters.
    `precision`, `recall`, `f1` of all classes together, those of each class, and `confusion` (K + 1, K + 1), true by
    detected class, its last row invented objects, its last column missed ones, are for scores of at least the threshold
    and IoU 0.5. Kind track also has the correlation and the mean error of the motion of found objects, in pixels per
    frame. `groups` (N,) are the units of intervals; None where frames are independent.
    """
    truth, detections = rows_with_objects(truth_NM9, detections_ND8)
    origin = "val" if score_threshold is not None else "these frames"
    if score_threshold is None:
        score_threshold = best_score_threshold(truth, detections)
    threshold = DEFAULT_SCORE_THRESHOLD if score_threshold is None else score_threshold
    counts = count_at_threshold(truth, detections, len(classes), score_threshold=threshold)
    matches = CocoMatches(truth, detections, len(classes))
    precision = matches.precision()
    figures = _ap_figures(precision)
    return {
        "kind": kind,
        "classes": list(classes),
        "num_rows": len(truth),
        "num_empty_frames": sum(not len(objects) for objects in truth),
        "num_objects": len(counts.found_M),
        "num_detections": len(counts.correct_D),
        **figures,
        **_ap_intervals(figures, matches, truth, groups),
        "size_areas": list(SIZE_AREAS),
        "score_threshold": threshold,
        "score_threshold_from": origin,
        **_counted_shares(counts, groups),
        "per_class": [_class_figures(*item, precision=precision, counts=counts) for item in enumerate(classes)],
        "confusion": counts.confusion.tolist(),
        "precision_recall": _curves(precision, classes),
        **(_motion(counts, groups) if kind == "track" else {}),
    }


def rows_with_objects(truth_NM9: np.ndarray, detections_ND8: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The objects (M, 9) and the detections (D, 8) of each frame, without rows that hold none."""
    code, score = LABEL_FIELDS.index("class"), DETECTION_FIELDS.index("score")
    truth = [objects_M9[objects_M9[:, code] >= 0] for objects_M9 in truth_NM9]
    return truth, [detections_D8[detections_D8[:, score] > 0] for detections_D8 in detections_ND8]


def average_precision(truth_NM9: np.ndarray, detections_ND8: np.ndarray) -> float | None:
    """The `ap` of `score_detection`; None where no frame has an object."""
    truth, detections = rows_with_objects(truth_NM9, detections_ND8)
    codes = [frame[:, 0] for frame in truth if len(frame)]
    if not codes:
        return None
    matches = CocoMatches(truth, detections, int(np.concatenate(codes).max()) + 1, sizes=("all",))
    return _mean(matches.precision())


def _ap_figures(precision: np.ndarray) -> dict[str, float | None]:
    """Average precision from interpolated precision (10, 101, K, S)."""
    overall = precision[..., 0]
    figures = {"ap": _mean(overall), "ap50": _mean(overall[PLACE_50]), "ap75": _mean(overall[PLACE_75])}
    return figures | {f"ap_{size}": _mean(precision[..., place]) for place, size in enumerate(SIZES) if place}


def _ap_intervals(
    figures: dict[str, float | None], matches: CocoMatches, truth: list[np.ndarray], groups: np.ndarray | None
) -> dict[str, list[float] | None]:
    """Intervals by leaving out each unit; in the mean over classes an object weighs 1 / the objects of its class."""
    most = min(MAX_UNITS, max(MIN_UNITS, MAX_ADDED // matches.size))
    blocks_N = jackknife_units(groups, len(truth), most=most).unit_of_row
    kept = [blocks_N != block for block in range(blocks_N.max() + 1)]
    left_out = [_ap_figures(matches.precision(kept_N)) if kept_N.any() else {} for kept_N in kept]
    objects_E9, frame_E = np.concatenate(truth), np.repeat(np.arange(len(truth)), [len(frame) for frame in truth])
    block_E = np.append(blocks_N[frame_E], blocks_N)  # and each frame once with weight 0, so that no unit is lost
    intervals: dict[str, list[float] | None] = {}
    for name, value in figures.items():
        intervals[f"{name}_ci"] = None
        if value is not None:
            low, high = SIZES[name.removeprefix("ap_")] if "_" in name else SIZES["all"]
            weights_E = np.append(_object_weights(objects_E9, low, high), np.zeros(len(blocks_N)))
            units = jackknife_units(block_E, len(block_E), weights_N=weights_E)
            left_out_U = np.array([rest.get(name) for rest in left_out], dtype=float)
            intervals[f"{name}_ci"] = proportion_interval(value, left_out_U, units)
    return intervals


def _object_weights(objects_E9: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 / the number of counted objects (E,) of the same class with an area of low to high; 0 for other objects."""
    area_E, code_E = objects_E9[:, 3] * objects_E9[:, 4], objects_E9[:, 0].astype(int)
    counted_E = (objects_E9[:, 8] == 0) & (area_E >= low) & (area_E <= high)
    return counted_E / np.maximum(np.bincount(code_E[counted_E], minlength=code_E.max() + 1), 1)[code_E]


def _counted_shares(counts: ThresholdCounts, groups: np.ndarray | None) -> dict[str, Any]:
    """Precision, recall and F1 of all classes together; None where there is nothing to count."""
    shares: dict[str, Any] = {}
    for name, right, frame in (
        ("precision", counts.correct_D, counts.frame_D),
        ("recall", counts.found_M, counts.frame_M),
    ):
        units = frame if groups is None else groups[frame]
        shares[name] = float(right.mean()) if len(right) else None
        shares[f"{name}_ci"] = interval_of_shares(right, units) if len(right) else None
    return shares | {"f1": _ratio(2 * counts.found_M.sum(), len(counts.found_M) + len(counts.correct_D))}


def _class_figures(code: int, name: str, *, precision: np.ndarray, counts: ThresholdCounts) -> dict[str, Any]:
    right, true, detected = (
        int(count)
        for count in (counts.confusion[code, code], counts.confusion[code].sum(), counts.confusion[:, code].sum())
    )
    return {
        "class": name,
        "support": true,
        "ap": _mean(precision[..., code, 0]),
        "ap50": _mean(precision[PLACE_50, :, code, 0]),
        "precision": _ratio(right, detected),
        "recall": _ratio(right, true),
        "f1": _ratio(2 * right, true + detected),
    }


def _curves(precision: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Precision by recall, the mean over classes with objects; of each such class where there are few."""
    occurs = [code for code in range(len(classes)) if not np.isnan(precision[PLACE_50, 0, code, 0])]
    curves: dict[str, Any] = {"recall": _rounded(RECALLS)}
    for name, place in (("precision", PLACE_50), ("precision_75", PLACE_75)):
        curves[name] = _rounded(precision[place][:, occurs, 0].mean(1)) if occurs else []
    of_classes = [{"class": classes[code], "precision": _rounded(precision[PLACE_50, :, code, 0])} for code in occurs]
    return curves | {"classes": of_classes if len(occurs) <= MAX_CURVE_CLASSES else []}


def _motion(counts: ThresholdCounts, groups: np.ndarray | None) -> dict[str, Any]:
    """Correlation and mean error of the motion of found objects, in pixels per frame; None where none is known."""
    names = ("motion_correlation", "motion_correlation_ci", "motion_error", "motion_error_ci")
    if not len(counts.motion_P4):
        return dict.fromkeys(names) | {"num_motion": 0}
    units = counts.frame_P if groups is None else groups[counts.frame_P]
    true_P2, detected_P2 = counts.motion_P4[:, :2], counts.motion_P4[:, 2:]
    motion = score_motion(true_P2, detected_P2, names=("dx", "dy"), groups=units, mean=None)
    keys = ("correlation", "correlation_ci", "endpoint_error", "endpoint_error_ci")
    values = {name: motion[key] for name, key in zip(names, keys, strict=True)}
    return values | {"num_motion": len(true_P2), "per_output": motion["per_output"]}


def _mean(values: np.ndarray) -> float | None:
    """The mean of the values that are not NaN; None where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _ratio(part: float, total: float) -> float | None:
    return float(part / total) if total > 0 else None


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]
