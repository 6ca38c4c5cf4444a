"""Which detections of a frame are which of its true objects, at one IoU: for confusion, precision, recall and motion.

Objects are rows of LABEL_FIELDS, detections rows of DETECTION_FIELDS, both in pixels of the video, without rows that
hold no object or detection.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune.metrics.boxes import box_intersections, box_iou_matrix
from finetune.recipe.object_fields import DETECTION_FIELDS, LABEL_FIELDS

MATCH_IOU = 0.5
INVENTED, IGNORED = -1, -2  # detections of no true object, and of an object to ignore
_CLASS, _IGNORE = LABEL_FIELDS.index("class"), LABEL_FIELDS.index("ignore")
_SCORE, _DETECTED_CLASS = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")
_BOX = slice(1, 5)  # x, y, w, h in LABEL_FIELDS; the first four of DETECTION_FIELDS


def match_objects(
    objects_M9: np.ndarray, detections_D8: np.ndarray, *, same_class: bool = False, iou: float = MATCH_IOU
) -> np.ndarray:
    """The index (D,) of the true object of each detection, else INVENTED or IGNORED.

    By falling score, a detection takes the free object of its class with the highest IoU of at least `iou`. Those that
    are left match an object to ignore of their class, if a share `iou` of their area is inside it. Those that are left
    then take free objects of other classes in the same way, unless `same_class`.
    """
    object_D = np.full(len(detections_D8), INVENTED)
    if not len(objects_M9) or not len(detections_D8):
        return object_D
    boxes_D4, boxes_M4 = detections_D8[:, :4], objects_M9[:, _BOX]
    iou_DM, common_DM = box_iou_matrix(boxes_D4, boxes_M4), box_intersections(boxes_D4, boxes_M4)
    inside_DM = common_DM / np.maximum(boxes_D4[:, 2:].prod(1), 1e-9)[:, None]
    alike_DM = detections_D8[:, _DETECTED_CLASS, None] == objects_M9[:, _CLASS]
    ignored_M = objects_M9[:, _IGNORE] > 0
    order = np.argsort(-detections_D8[:, _SCORE], kind="stable")
    _take_free_objects(object_D, order, np.where(alike_DM & ~ignored_M, iou_DM, 0), iou)
    inside_D = np.where(alike_DM & ignored_M, inside_DM, 0).max(1)
    object_D[(object_D == INVENTED) & (inside_D >= iou)] = IGNORED
    if not same_class:
        _take_free_objects(object_D, order, np.where(~alike_DM & ~ignored_M, iou_DM, 0), iou)
    return object_D


def _take_free_objects(object_D: np.ndarray, order: np.ndarray, iou_DM: np.ndarray, least: float) -> None:
    """Give each detection without an object the best free one, in the given order; changes `object_D`."""
    iou_DM = iou_DM.copy()
    iou_DM[:, object_D[object_D >= 0]] = 0
    for detection in order[iou_DM.max(1)[order] >= least]:
        best = iou_DM[detection].argmax()
        if object_D[detection] == INVENTED and iou_DM[detection, best] >= least:
            object_D[detection] = best
            iou_DM[:, best] = 0


def best_score_threshold(truth: Sequence[np.ndarray], detections: Sequence[np.ndarray]) -> float | None:
    """The score at which F1 of all classes together is highest, at MATCH_IOU; None without objects or detections.

    `truth` are the objects (M, 9) of each frame, `detections` theirs (D, 8). It is halfway between the last score above
    it and the next lower one; of equally good ones the highest.
    """
    matched = [match_objects(*frame, same_class=True) for frame in zip(truth, detections, strict=True)]
    object_D = np.concatenate([*matched, np.zeros(0, int)])
    score_D = np.concatenate([*(frame[:, _SCORE] for frame in detections), np.zeros(0)])
    num_objects = sum(int((frame[:, _IGNORE] == 0).sum()) for frame in truth)
    score_D, correct_D = score_D[object_D != IGNORED], object_D[object_D != IGNORED] >= 0
    if not num_objects or not len(score_D):
        return None
    order = np.argsort(-score_D, kind="stable")
    score_D, correct_D = score_D[order], correct_D[order]
    f1_D = 2 * np.cumsum(correct_D) / (np.arange(1, len(score_D) + 1) + num_objects)
    last_of_equals = np.flatnonzero(np.append(score_D[1:] < score_D[:-1], True))
    chosen = last_of_equals[f1_D[last_of_equals].argmax()]
    below = score_D[chosen + 1] if chosen + 1 < len(score_D) else 0.0
    return float((score_D[chosen] + below) / 2)


class ThresholdCounts(NamedTuple):
    """Objects and detections at a score threshold, at MATCH_IOU.

    `confusion` (K + 1, K + 1) counts by true and detected class; its last row are invented objects, its last column
    missed ones. `found_M` tells which objects are found as their class, `correct_D` which detections are; `frame_M` and
    `frame_D` are their frames. Objects to ignore and detections of them are left out. `motion_P4` are true and detected
    dx, dy of the found objects (P,) of `frame_P` whose motion is known.
    """

    confusion: np.ndarray
    found_M: np.ndarray
    frame_M: np.ndarray
    correct_D: np.ndarray
    frame_D: np.ndarray
    motion_P4: np.ndarray
    frame_P: np.ndarray


def count_at_threshold(
    truth: Sequence[np.ndarray], detections: Sequence[np.ndarray], num_classes: int, *, score_threshold: float
) -> ThresholdCounts:
    """Match the detections of each frame whose score is at least the threshold, and count."""
    confusion = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    parts = []
    for objects_M9, detections_D8 in zip(truth, detections, strict=True):
        shown_D8 = detections_D8[detections_D8[:, _SCORE] >= score_threshold]
        parts.append(_count_frame(confusion, objects_M9, shown_D8))
    found, correct, motion = zip(*parts, strict=True)
    frame_M, frame_D, frame_P = (
        np.repeat(np.arange(len(parts)), list(map(len, part))) for part in (found, correct, motion)
    )
    return ThresholdCounts(
        confusion, np.concatenate(found), frame_M, np.concatenate(correct), frame_D, np.concatenate(motion), frame_P
    )


def _count_frame(
    confusion: np.ndarray, objects_M9: np.ndarray, shown_D8: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count one frame in `confusion`; its `found_M`, `correct_D` and `motion_P4`."""
    missing = len(confusion) - 1
    object_D = match_objects(objects_M9, shown_D8)
    shown_D8, object_D = shown_D8[object_D != IGNORED], object_D[object_D != IGNORED]
    classes_M, detected_D = objects_M9[:, _CLASS].astype(int), shown_D8[:, _DETECTED_CLASS].astype(int)
    true_D = np.append(classes_M, missing)[object_D]  # INVENTED is -1: the last
    counted_M = objects_M9[:, _IGNORE] == 0
    missed_M = counted_M & ~np.isin(np.arange(len(objects_M9)), object_D)
    np.add.at(confusion, (true_D, detected_D), 1)
    np.add.at(confusion, (classes_M[missed_M], missing), 1)
    correct_D = true_D == detected_D
    found_M = np.isin(np.flatnonzero(counted_M), object_D[correct_D])
    motion_P4 = np.concatenate([objects_M9[object_D[correct_D], 5:7], shown_D8[correct_D, 6:8]], 1)
    return found_M, correct_D, motion_P4[np.isfinite(motion_P4).all(1)]
