"""Which predicted events match true ones: temporal IoU, edit score, segmental F1 and average precision.

An event is (start, end, label, score): seconds from the beginning of its recording, and a class index. The score ranks
predicted events; that of true ones is ignored. `metrics/localization.py` has all metrics with their intervals.

Suffixes: R recordings, N and M events, D detections (predicted events of one class), K classes, F thresholds of F1, A
thresholds of average precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

F1_IOUS = (0.1, 0.25, 0.5)
THUMOS_IOUS = tuple(percent / 100 for percent in range(30, 71, 10))
ACTIVITYNET_IOUS = tuple(percent / 100 for percent in range(50, 96, 5))
AP_IOUS = tuple(sorted({*THUMOS_IOUS, *ACTIVITYNET_IOUS}))


class Event(NamedTuple):
    """`start` and `end` in seconds, a class index, and the score that ranks predicted events."""

    start: float
    end: float
    label: int
    score: float = 1.0


def temporal_iou(spans_N2: np.ndarray, others_M2: np.ndarray) -> np.ndarray:
    """IoU (N, M) of spans (N, 2) and (M, 2), in seconds from start to end; 0 where both have no duration."""
    starts, ends = spans_N2[:, :1], spans_N2[:, 1:]
    common = np.clip(np.minimum(ends, others_M2[:, 1]) - np.maximum(starts, others_M2[:, 0]), 0, None)
    union = (ends - starts) + (others_M2[:, 1] - others_M2[:, 0]) - common
    return np.divide(common, union, out=np.zeros(common.shape), where=union > 0)


def edit_score(truth: Sequence[int], predicted: Sequence[int], *, background: int | None = None) -> float:
    """1 - the Levenshtein distance of two sequences of labels, in order of start, ÷ the length of the longer one.

    Labels that are `background` are left out, as in MS-TCN (Farha and Gall 2019, arXiv:1903.01945), which gives
    percent. By default all count: lists of events hold no background. Two events of one label in a row are two labels.
    Two empty sequences are equal: 1.
    """
    rows, columns = (np.array([label for label in each if label != background], int) for each in (truth, predicted))
    if not len(rows) or not len(columns):
        return float(len(rows) == len(columns))
    place = np.arange(len(columns) + 1)
    distance = place
    for row, label in enumerate(rows, 1):
        replaced_or_removed = np.minimum(distance[:-1] + (columns != label), distance[1:] + 1)
        distance = np.minimum.accumulate(np.append(row, replaced_or_removed) - place) + place  # or inserted
    return 1 - float(distance[-1]) / max(len(rows), len(columns))


def segmental_f1(truth: Sequence[Sequence[Event]], predicted: Sequence[Sequence[Event]]) -> np.ndarray:
    """F1 (F,) at the temporal IoUs `F1_IOUS`, of all events of all recordings; NaN without any event.

    As in MS-TCN: a predicted event belongs to the true event of its class with the highest IoU. It is correct if that
    IoU reaches the threshold, and no other predicted event was correct for the same true event.
    """
    hits_F = sum((count_hits(*pair).sum(0) for pair in zip(truth, predicted, strict=True)), np.zeros(len(F1_IOUS)))
    events = sum(map(len, truth)) + sum(map(len, predicted))
    return 2 * hits_F / events if events else np.full(len(F1_IOUS), np.nan)


def average_precisions(
    truth: Sequence[Sequence[Event]], predicted: Sequence[Sequence[Event]], num_classes: int
) -> np.ndarray:
    """Interpolated average precision (K, A) of each class at the temporal IoUs `AP_IOUS`; NaN without true events.

    As in ActivityNet's evaluator: detections of all recordings are ranked by score. Each belongs to the true event of
    its recording and class with the highest IoU among those that no better detection has; it is correct if that IoU
    reaches the threshold. Detections of the same score are ranked as one, so their order does not matter.
    """
    everything_R = np.ones(len(truth))
    classes = [rank_detections(truth, predicted, label) for label in range(num_classes)]
    return np.array([ranked.average_precision(everything_R) for ranked in classes])


class EventColumns(NamedTuple):
    spans_N2: np.ndarray
    labels_N: np.ndarray
    scores_N: np.ndarray


def event_columns(events: Sequence[Event]) -> EventColumns:
    """Events in the order of their start."""
    values = np.array(sorted(events), dtype=float).reshape(-1, 4)
    return EventColumns(values[:, :2], values[:, 2].astype(int), values[:, 3])


def count_hits(truth: Sequence[Event], predicted: Sequence[Event], num_classes: int | None = None) -> np.ndarray:
    """Correct events (K, F) of one recording: true events that are the nearest of an event with a sufficient IoU."""
    true, detected = event_columns(truth), event_columns(predicted)
    labels = np.intersect1d(true.labels_N, detected.labels_N)
    hits = np.zeros((num_classes or labels.max(initial=-1) + 1, len(F1_IOUS)))
    for label in labels:
        iou_NM = temporal_iou(detected.spans_N2[detected.labels_N == label], true.spans_N2[true.labels_N == label])
        nearest_N, iou_N = iou_NM.argmax(1), iou_NM.max(1)
        hits[label] = [len(np.unique(nearest_N[iou_N >= threshold])) for threshold in F1_IOUS]
    return hits


@dataclass(frozen=True, eq=False)
class RankedDetections:
    """Detections of one class by falling score, so that the average precision of some recordings takes two sums.

    `correct_DA` tells which are correct at each threshold, `recording_D` their recordings, `last_of_equals_D` the last
    detection of the same score; `truth_R` counts the true events of each recording.
    """

    correct_DA: np.ndarray
    recording_D: np.ndarray
    last_of_equals_D: np.ndarray
    truth_R: np.ndarray

    def average_precision(self, kept_R: np.ndarray) -> np.ndarray:
        """Average precision (A,) of the recordings with 1 in `kept_R`, the others have 0; NaN without true events."""
        total, kept_D = kept_R @ self.truth_R, kept_R[self.recording_D]
        if not total:
            return np.full(len(AP_IOUS), np.nan)
        correct_DA = self.correct_DA * kept_D[:, None]
        precision_DA = np.cumsum(correct_DA, axis=0) / np.maximum(np.cumsum(kept_D), 1)[:, None]
        interpolated_DA = np.maximum.accumulate(precision_DA[self.last_of_equals_D][::-1])[::-1]
        return (correct_DA * interpolated_DA).sum(0) / total


def rank_detections(
    truth: Sequence[Sequence[Event]], predicted: Sequence[Sequence[Event]], label: int
) -> RankedDetections:
    """The detections of the class `label` in all recordings, by falling score, matched with its true events."""
    scores, correct, sizes, truth_R = [], [], [], []
    for true_events, detected_events in zip(truth, predicted, strict=True):
        true = event_columns([event for event in true_events if event[2] == label])
        detected = event_columns([event for event in detected_events if event[2] == label])
        order = np.argsort(-detected.scores_N, kind="stable")
        scores.append(detected.scores_N[order])
        correct.append(_correct_detections(temporal_iou(detected.spans_N2[order], true.spans_N2)))
        sizes.append(len(order))
        truth_R.append(len(true.labels_N))
    falling = np.concatenate(scores)
    order = np.argsort(-falling, kind="stable")
    falling = falling[order]
    last_of_equals_D = np.searchsorted(-falling, -falling, side="right") - 1
    recording_D = np.repeat(np.arange(len(sizes)), sizes)[order]
    return RankedDetections(np.concatenate(correct)[order], recording_D, last_of_equals_D, np.array(truth_R))


def _correct_detections(iou_DM: np.ndarray) -> np.ndarray:
    """Which detections (D, A) of one recording, by falling score, are correct at each threshold."""
    correct_DA = np.zeros((len(iou_DM), len(AP_IOUS)), dtype=bool)
    if not iou_DM.size:
        return correct_DA
    free_AM = np.ones((len(AP_IOUS), iou_DM.shape[1]), dtype=bool)
    for detection in np.flatnonzero(iou_DM.max(1) >= min(AP_IOUS)):
        of_free_AM = np.where(free_AM, iou_DM[detection], -1)
        best_A = of_free_AM.argmax(1)
        correct_DA[detection] = of_free_AM.max(1) >= AP_IOUS
        free_AM[correct_DA[detection], best_A[correct_DA[detection]]] = False
    return correct_DA
