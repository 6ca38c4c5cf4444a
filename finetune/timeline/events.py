"""Events from the probabilities of sliding windows: smoothing, two thresholds, gaps and the shortest length.

Suffixes: N windows, K classes, E events.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from finetune.errors import FinetuneError
from finetune.metrics.event_matching import Event

ROUNDING = 1e-9  # seconds by which times may differ that are meant to be equal


@dataclass(frozen=True)
class EventSettings:
    """How probabilities become events; the defaults are for overlapping windows of a few seconds.

    Probabilities are averaged over `smoothing_seconds` around each window. A class is on where its probability is at
    least `low`. Gaps of at most `max_gap_seconds` between two stretches of a class are closed, stretches shorter than
    `shortest_seconds` are dropped. A stretch is an event if its probability reaches `high` (hysteresis): a moment of
    doubt does not cut an event in two, and a class that is never probable gives none.
    """

    smoothing_seconds: float = 1.0
    high: float = 0.5
    low: float = 0.3
    shortest_seconds: float = 0.5
    max_gap_seconds: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_threshold = field.name in {"high", "low"}
            if not 0 <= value <= (1 if is_threshold else float("inf")):
                wanted = "a probability, 0 to 1" if is_threshold else "0 seconds or more"
                raise FinetuneError(f"{field.name} of events is {value:g}: it must be {wanted}.")
        if self.low > self.high:
            raise FinetuneError(
                f"low of events is {self.low:g}, above high ({self.high:g}): make it at most {self.high:g}."
            )


def events_from_probabilities(
    times_N: np.ndarray,
    probabilities_NK: np.ndarray,
    borders: tuple[float, float],
    settings: EventSettings,
    *,
    multilabel: bool,
    background: int | None = None,
) -> list[Event]:
    """Events in order of their start, from probabilities (N, K) of windows with centers `times_N` (N,), N ≥ 1.

    Times are seconds and rise by a regular step. A window stands for the time that is nearest to its center; the first
    and the last one reach to the `borders` of the recording, (start, end) in seconds. The class `background` gives no
    events.

    With one label per window, a class is on only where it is the most probable one, so events never overlap. With
    several, classes are independent of each other.

    The score of an event is the mean of the smoothed probability inside. In trials on joined clips and on simulated
    recordings it ranked events as well as the maximum (mAP within 0.02), and it depends less on one window.
    """
    edges = np.concatenate([[borders[0]], (times_N[1:] + times_N[:-1]) / 2, [borders[1]]])
    smooth_NK = _smooth(times_N, probabilities_NK, settings.smoothing_seconds)
    on_NK = smooth_NK >= settings.low
    if not multilabel:
        on_NK &= smooth_NK.argmax(1)[:, None] == np.arange(smooth_NK.shape[1])
    if background is not None:
        on_NK[:, background] = False
    stretches = _stretches(on_NK) if multilabel else _stretches(on_NK).by_start()
    stretches = _close_gaps(stretches, edges, settings.max_gap_seconds)
    stretches = _drop_short(stretches, edges, settings.shortest_seconds)
    if not multilabel:  # where a short stretch of another class was dropped
        stretches = _close_gaps(stretches, edges, settings.max_gap_seconds)
    return _probable_events(stretches.by_class(), edges, smooth_NK, settings.high)


class _Stretches(NamedTuple):
    """Windows `first_E` to before `after_E` (E,), in which the class `label_E` is on."""

    label_E: np.ndarray
    first_E: np.ndarray
    after_E: np.ndarray

    def select(self, chosen_E: np.ndarray) -> "_Stretches":
        return _Stretches(*(values[chosen_E] for values in self))

    def by_start(self) -> "_Stretches":
        return self.select(np.argsort(self.first_E, kind="stable"))

    def by_class(self) -> "_Stretches":
        return self.select(np.lexsort((self.first_E, self.label_E)))


def _smooth(times_N: np.ndarray, probabilities_NK: np.ndarray, seconds: float) -> np.ndarray:
    """Probabilities (N, K), averaged over `seconds` around each window; at the ends over what there is."""
    number = len(times_N)
    step = (times_N[-1] - times_N[0]) / (number - 1) if number > 1 else np.inf
    reach = int(seconds / 2 / step + ROUNDING)
    if not reach:
        return probabilities_NK
    sums = np.concatenate([np.zeros((1, probabilities_NK.shape[1])), np.cumsum(probabilities_NK, axis=0, dtype=float)])
    low_N, high_N = np.maximum(np.arange(number) - reach, 0), np.minimum(np.arange(number) + reach + 1, number)
    return np.clip((sums[high_N] - sums[low_N]) / (high_N - low_N)[:, None], 0, 1)


def _stretches(on_NK: np.ndarray) -> _Stretches:
    """The stretches of successive windows in which a class is on, by class and start."""
    changes_KN = np.diff(on_NK.T.astype(np.int8), axis=1, prepend=0, append=0)
    label_E, first_E = np.nonzero(changes_KN == 1)
    return _Stretches(label_E, first_E, np.nonzero(changes_KN == -1)[1])


def _close_gaps(stretches: _Stretches, edges: np.ndarray, longest: float) -> _Stretches:
    """Join each stretch with the next one if both are of one class, and at most `longest` seconds lie between them."""
    label_E, first_E, after_E = stretches
    gap = edges[first_E[1:]] - edges[after_E[:-1]]
    apart = (label_E[1:] != label_E[:-1]) | (gap > longest + ROUNDING)
    is_first, is_last = np.append(True, apart)[: len(label_E)], np.append(apart, True)[: len(label_E)]
    return _Stretches(label_E[is_first], first_E[is_first], after_E[is_last])


def _drop_short(stretches: _Stretches, edges: np.ndarray, shortest: float) -> _Stretches:
    return stretches.select(edges[stretches.after_E] - edges[stretches.first_E] >= shortest - ROUNDING)


def _probable_events(stretches: _Stretches, edges: np.ndarray, smooth_NK: np.ndarray, high: float) -> list[Event]:
    """The stretches, in order of class, whose probability reaches `high` in some window, as events by start."""
    if not len(stretches.label_E):
        return []
    number = len(smooth_NK) + 1
    flat = np.append(smooth_NK, np.zeros((1, smooth_NK.shape[1])), axis=0).T.ravel()
    ends = np.column_stack(
        [stretches.label_E * number + stretches.first_E, stretches.label_E * number + stretches.after_E]
    )
    peak_E, sum_E = (function.reduceat(flat, ends.ravel())[::2] for function in (np.maximum, np.add))
    score_E = np.minimum(sum_E / (stretches.after_E - stretches.first_E), 1)
    starts, stops = edges[stretches.first_E], edges[stretches.after_E]
    columns = (starts, stops, stretches.label_E, score_E)
    return sorted(
        Event(*values) for values in zip(*(column[peak_E >= high].tolist() for column in columns), strict=True)
    )
