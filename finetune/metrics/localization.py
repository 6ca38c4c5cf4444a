"""Metrics of events in untrimmed recordings: of their time, order and borders, with 95 % intervals over recordings.

Suffixes: R recordings, K classes, F thresholds of F1, A thresholds of average precision, E true events and gaps, S
stretches of time, U units (recordings or groups of them).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from finetune.metrics.event_matching import (
    ACTIVITYNET_IOUS,
    AP_IOUS,
    F1_IOUS,
    THUMOS_IOUS,
    Event,
    EventColumns,
    RankedDetections,
    count_hits,
    edit_score,
    event_columns,
    rank_detections,
)
from finetune.metrics.intervals import jackknife_units, max_units, proportion_interval

F1_NAMES = tuple(f"f1_{100 * iou:.0f}" for iou in F1_IOUS)
MIN_RECORDINGS = 5  # with fewer recordings (or groups), intervals are a rough guide


def localization_metrics(
    truth: Sequence[Sequence[Event]],
    predicted: Sequence[Sequence[Event]],
    *,
    classes: Sequence[str],
    seconds: Sequence[float],
    background: int | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """All metrics of the events of at least one recording, in 0…1, with 95 % intervals under `<metric>_ci`.

    `seconds` are the durations of recordings. Events of the class `background` are ignored, as time without events is
    background already. A metric is None where there is nothing to measure: no true and no predicted event for `f1_…`,
    no true event for `frame_macro_f1` and `map_…`.

    `frame_accuracy` is the share of all time in which exactly the true classes (none: background) are predicted: the
    accuracy of infinitely short frames. `frame_macro_f1` is the mean F1 over classes with true events, of their time
    alone: background is no class. `background_share` is the accuracy of predicting nothing. `edit` is the mean over
    recordings of `edit_score`; `f1_10`, `f1_25` and `f1_50` are those of `segmental_f1`. `map_30_70` (IoU 0.3, 0.4 …
    0.7: THUMOS) and `map_50_95` (0.5, 0.55 … 0.95: ActivityNet) are means of `average_precisions`.

    Intervals are those of `proportion_interval`, with recordings left out one by one, or groups (R,) of recordings. In
    simulations with 4 to 20 recordings, 93 to 100 of 100 held the true value, and 88 to 99 of those of `map_…`.
    """
    truth, predicted = (
        [[event for event in events if event[2] != background] for events in recordings]
        for recordings in (truth, predicted)
    )
    tally = _tally(truth, predicted, seconds, len(classes))
    shown = [label for label in range(len(classes)) if label != background]
    everything_R = np.ones(len(truth))
    figures, ap_KA = tally.figures(everything_R), tally.average_precisions(everything_R)
    return {
        "kind": "timeline",
        "classes": [classes[label] for label in shown],
        "num_recordings": len(truth),
        "num_events": int(tally.truth_RK.sum()),
        "num_predicted": int(tally.predicted_RK.sum()),
        "seconds": float(tally.seconds_R.sum()),
        **figures,
        **_intervals(figures, tally, truth, groups),
        "interval": _describe_interval(len(truth), groups),
        "background_share": _ratio(tally.background_R.sum(), tally.seconds_R.sum()),
        "ious": list(AP_IOUS),
        "map_by_iou": [_mean(ap_K) for ap_K in ap_KA.T],
        "per_class": [{"class": classes[label], **tally.of_class(label, ap_KA[label])} for label in shown],
    }


@dataclass(frozen=True, eq=False)
class _Tally:
    """What the metrics of any of the recordings are computed from.

    Numbers of events: `truth_RK`, `predicted_RK`, `hits_RKF`. Seconds: `seconds_R` in all, `right_R` with exactly the
    true classes, `background_R` without a true event, `time_3RK` of true, predicted, and both.
    """

    truth_RK: np.ndarray
    predicted_RK: np.ndarray
    hits_RKF: np.ndarray
    edit_R: np.ndarray
    seconds_R: np.ndarray
    right_R: np.ndarray
    background_R: np.ndarray
    time_3RK: np.ndarray
    ranked: Sequence[RankedDetections]

    def average_precisions(self, kept_R: np.ndarray) -> np.ndarray:
        return np.array([ranked.average_precision(kept_R) for ranked in self.ranked])

    def figures(self, kept_R: np.ndarray) -> dict[str, float | None]:
        """The metrics of the recordings with 1 in `kept_R` (R,), the others have 0; None where there is nothing."""
        events = kept_R @ (self.truth_RK + self.predicted_RK).sum(1)
        f1_F = [_ratio(2 * hits, events) for hits in kept_R @ self.hits_RKF.sum(1)]
        true_K, predicted_K, both_K = kept_R @ self.time_3RK
        time_f1_K = 2 * both_K / np.where(true_K > 0, true_K + predicted_K, np.nan)
        ap_A = [_mean(ap_K) for ap_K in self.average_precisions(kept_R).T]
        return {
            "frame_accuracy": _ratio(kept_R @ self.right_R, kept_R @ self.seconds_R),
            "frame_macro_f1": _mean(time_f1_K),
            "edit": _ratio(kept_R @ self.edit_R, kept_R.sum()),
            **dict(zip(F1_NAMES, f1_F, strict=True)),
            "map_30_70": _mean([ap for iou, ap in zip(AP_IOUS, ap_A, strict=True) if iou in THUMOS_IOUS]),
            "map_50_95": _mean([ap for iou, ap in zip(AP_IOUS, ap_A, strict=True) if iou in ACTIVITYNET_IOUS]),
        }

    def of_class(self, label: int, ap_A: np.ndarray) -> dict[str, Any]:
        """Numbers and metrics of one class, of all recordings; `ap_A` is its average precision at `AP_IOUS`."""
        support, predicted = int(self.truth_RK[:, label].sum()), int(self.predicted_RK[:, label].sum())
        hits_F = self.hits_RKF[:, label].sum(0)
        f1_F = [_ratio(2 * hits, support + predicted) for hits in hits_F]
        time_3 = self.time_3RK[:, :, label].sum(1)
        return {
            "support": support,
            "predicted": predicted,
            "frame_f1": _ratio(2 * time_3[2], time_3[0] + time_3[1]),
            **dict(zip(F1_NAMES, f1_F, strict=True)),
            "ap_by_iou": [None if np.isnan(ap) else float(ap) for ap in ap_A],
        }


def _tally(
    truth: Sequence[Sequence[Event]],
    predicted: Sequence[Sequence[Event]],
    seconds: Sequence[float],
    num_classes: int,
) -> _Tally:
    count = partial(np.bincount, minlength=num_classes)
    pairs = [(event_columns(true), event_columns(detected)) for true, detected in zip(truth, predicted, strict=True)]
    times = [_times(*pair, duration, num_classes) for pair, duration in zip(pairs, seconds, strict=True)]
    hits = [count_hits(*pair, num_classes) for pair in zip(truth, predicted, strict=True)]
    edits = [edit_score(true.labels_N.tolist(), detected.labels_N.tolist()) for true, detected in pairs]
    return _Tally(
        truth_RK=np.array([count(true.labels_N) for true, _ in pairs]),
        predicted_RK=np.array([count(detected.labels_N) for _, detected in pairs]),
        hits_RKF=np.array(hits),
        edit_R=np.array(edits),
        seconds_R=np.array(seconds, dtype=float),
        right_R=np.array([right for right, _, _ in times]),
        background_R=np.array([background for _, background, _ in times]),
        time_3RK=np.array([time_3K for _, _, time_3K in times]).swapaxes(0, 1),
        ranked=[rank_detections(truth, predicted, label) for label in range(num_classes)],
    )


def _times(
    true: EventColumns, detected: EventColumns, duration: float, num_classes: int
) -> tuple[float, float, np.ndarray]:
    """Seconds with exactly the true classes, seconds of background, and seconds (3, K) of true, predicted, both."""
    ends = np.clip(np.concatenate([[0, duration], true.spans_N2.ravel(), detected.spans_N2.ravel()]), 0, duration)
    borders = np.unique(ends)
    lengths_S = np.diff(borders)
    occurs_2SK = np.zeros((2, len(lengths_S), num_classes), dtype=bool)
    for occurs_SK, events in zip(occurs_2SK, (true, detected), strict=True):
        stretches = np.searchsorted(borders, np.clip(events.spans_N2, 0, duration))
        for (first, after), label in zip(stretches, events.labels_N, strict=True):
            occurs_SK[first:after, label] = True
    true_SK, detected_SK = occurs_2SK
    right, background = lengths_S @ (true_SK == detected_SK).all(1), lengths_S @ ~true_SK.any(1)
    both_SK = true_SK & detected_SK
    return float(right), float(background), np.array([lengths_S @ time for time in (true_SK, detected_SK, both_SK)])


def _intervals(
    figures: dict[str, float | None], tally: _Tally, truth: Sequence[Sequence[Event]], groups: np.ndarray | None
) -> dict[str, list[float] | None]:
    """The interval of each metric in `figures`, under `<metric>_ci`; `groups` (R,) are left out one by one."""
    numbers = sum(ranked.correct_DA.size for ranked in tally.ranked)
    blocks_R = jackknife_units(groups, len(truth), most=max_units(numbers)).unit_of_row
    left_out = [tally.figures((blocks_R != block).astype(float)) for block in range(blocks_R.max() + 1)]
    recording_E, weights = _weights(truth, tally)
    intervals: dict[str, list[float] | None] = {}
    for name, weights_E in weights.items():
        value, left_out_U = figures[name], np.array([rest[name] for rest in left_out], dtype=float)
        intervals[f"{name}_ci"] = None
        if value is not None:
            units = jackknife_units(blocks_R[recording_E], len(recording_E), weights_N=weights_E)
            intervals[f"{name}_ci"] = proportion_interval(value, left_out_U, units)
    return intervals


def _weights(truth: Sequence[Sequence[Event]], tally: _Tally) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The recordings (E,) of true events and of the gaps around them, and their weights (E,) in each metric.

    The weights tell how many independent trials a metric is worth. In averages over classes, the events of each class
    weigh 1 together; in the edit score, those of each recording. In F1, a recording without true events weighs 1.
    """
    rows = [(place, event[2], event[1] - event[0]) for place, events in enumerate(truth) for event in events]
    recordings, labels, seconds = np.array(rows).reshape(-1, 3).T
    labels = labels.astype(int)
    gaps_R = tally.truth_RK.sum(1) + 1
    gap_seconds = np.repeat(tally.background_R / gaps_R, gaps_R)
    class_seconds = np.bincount(labels, seconds)[labels] if len(labels) else seconds
    share_of_time = np.divide(seconds, class_seconds, out=np.zeros(len(labels)), where=class_seconds > 0)
    share_of_events = 1 / tally.truth_RK.sum(0)[labels]
    no_events = np.repeat(gaps_R == 1, gaps_R)
    recordings = recordings.astype(int)
    recording_E = np.append(recordings, np.repeat(np.arange(len(truth)), gaps_R))
    return recording_E, {
        "frame_accuracy": np.append(seconds, gap_seconds),
        "frame_macro_f1": np.append(share_of_time, np.zeros(len(gap_seconds))),
        "edit": np.append(1 / (gaps_R[recordings] - 1), no_events),
        **dict.fromkeys(F1_NAMES, np.append(np.ones(len(labels)), no_events)),
        **dict.fromkeys(("map_30_70", "map_50_95"), np.append(share_of_events, np.zeros(len(gap_seconds)))),
    }


def _describe_interval(recordings: int, groups: np.ndarray | None) -> str:
    number = recordings if groups is None else len(np.unique(groups))
    noun = "recordings" if groups is None else "groups of recordings"
    if number == 1:
        return f"95 %, of a single one of {noun}: as wide as one independent trial leaves it"
    few = f"; fewer than {MIN_RECORDINGS}, so a rough guide" if number < MIN_RECORDINGS else ""
    return f"95 %, jackknife over {number} {noun}, Student's t{few}"


def _ratio(part: float, total: float) -> float | None:
    return float(part / total) if total > 0 else None


def _mean(values: Sequence[float | None] | np.ndarray) -> float | None:
    """The mean of the values that are neither None nor NaN; None where there are none."""
    known = np.array(values, dtype=float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None
