"""Events while they happen: those of `events_from_probabilities`, told when they start and when they have ended.

Suffix: K classes.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from finetune.metrics.event_matching import Event
from finetune.timeline.events import ROUNDING, EventSettings, events_of_stretch


class EventChange(NamedTuple):
    """An event that has started, with what is known of it so far, or one that has ended."""

    has_ended: bool
    event: Event


class OnlineEvents:
    """Turns the probabilities of windows into events, window by window, in constant memory.

    The ended events are those of `events_from_probabilities` for the same windows, with the same arguments; `start` is
    the first border. A change is known with a delay: half of `smoothing_seconds` and one step, for a start also
    `shortest_seconds`, for an end also `max_gap_seconds`.

    Where one of the classes of single-label windows is background, an event starts as soon as something happens, with
    the class that is the most probable until then; its end tells its class, and may be that of several events.
    """

    def __init__(
        self, settings: EventSettings, *, start: float, multilabel: bool, background: int | None = None
    ) -> None:
        self.settings, self.multilabel, self.background = settings, multilabel, background
        self.recent: deque[tuple[float, np.ndarray]] = deque()  # those that are not complete, and what they need
        self.done = 0  # how many of `recent` are complete
        self.edge = start
        self.tracks: list[_Track] = []
        self.stretch: list[_Window] | None = None if background is None or multilabel else []

    def add(self, seconds: float, probabilities_K: np.ndarray) -> list[EventChange]:
        """Take the next window, (K,), with its center; returns what is known now."""
        self.recent.append((seconds, probabilities_K))
        changes: list[EventChange] = []
        while self.recent[self.done][0] + self.settings.smoothing_seconds / 2 + ROUNDING < seconds:
            changes += self._complete((self.recent[self.done][0] + self.recent[self.done + 1][0]) / 2)
        return changes

    def finish(self, end: float) -> list[EventChange]:
        """The changes up to `end`, the second border; there are no windows after it."""
        changes: list[EventChange] = []
        while self.done < len(self.recent):
            is_last = self.done == len(self.recent) - 1
            changes += self._complete(
                end if is_last else (self.recent[self.done][0] + self.recent[self.done + 1][0]) / 2
            )
        for track in self.tracks:
            changes += self._with_classes(track.close())
        return changes

    def _complete(self, upper: float) -> list[EventChange]:
        """Smooth the next window, which stands for the time up to `upper`, and follow it on each track."""
        center, reach = self.recent[self.done][0], self.settings.smoothing_seconds / 2 + ROUNDING
        near = [values_K for seconds, values_K in self.recent if abs(seconds - center) <= reach]
        smooth_K = np.clip(np.mean(near, axis=0, dtype=float), 0, 1)
        probabilities_K = self.recent[self.done][1]
        self.done += 1
        while self.recent[0][0] < center - reach:
            self.recent.popleft()
            self.done -= 1
        lower, self.edge = self.edge, upper
        if not self.tracks:
            self.tracks = [_Track(self.settings) for _ in range(len(smooth_K) if self.multilabel else 1)]
        if self.stretch is not None:
            return self._follow_something(_Window(lower, upper, probabilities_K, smooth_K))
        labels = self._labels(smooth_K)
        return [
            change
            for track, label in zip(self.tracks, labels, strict=True)
            for change in track.add(label, smooth_K, (lower, upper))
        ]

    def _follow_something(self, window: "_Window") -> list[EventChange]:
        """Follow a window of classes beside background; keeps the windows of what has not ended yet."""
        assert self.stretch is not None and self.background is not None
        (track,) = self.tracks
        something = 1 - window.smooth_K[self.background]
        self.stretch.append(window)
        label = 0 if something >= self.settings.low else None
        changes = self._with_classes(track.add(label, np.array([something]), (window.lower, window.upper)))
        starts = [stretch.start for stretch in (track.event, track.candidate) if stretch is not None]
        self.stretch = [kept for kept in self.stretch if starts and kept.lower >= min(starts)]
        return changes

    def _with_classes(self, changes: list[EventChange]) -> list[EventChange]:
        """The changes of what happens, with its classes."""
        if self.stretch is None or self.background is None:
            return changes
        with_classes = []
        for has_ended, event in changes:
            inside = [window for window in self.stretch if event.start <= window.lower < event.end]
            smooth_NK = np.array([window.smooth_K for window in inside])
            if has_ended:
                probabilities_NK = np.array([window.probabilities_K for window in inside])
                edges = np.array([inside[0].lower, *(window.upper for window in inside)])
                events = events_of_stretch(probabilities_NK, smooth_NK, edges, self.settings, self.background)
                with_classes += [EventChange(True, of_class) for of_class in events]
            else:
                mean_K = smooth_NK.mean(0)
                mean_K[self.background] = -1.0
                label = int(mean_K.argmax())
                with_classes.append(EventChange(False, event._replace(label=label, score=float(mean_K[label]))))
        return with_classes

    def _labels(self, smooth_K: np.ndarray) -> list[int | None]:
        """The class that is on, on each track."""
        candidates = range(len(smooth_K)) if self.multilabel else [int(smooth_K.argmax())]
        is_on = [smooth_K[label] >= self.settings.low and label != self.background for label in candidates]
        return [label if on else None for label, on in zip(candidates, is_on, strict=True)]


class _Window(NamedTuple):
    """A complete window: the time it stands for in seconds, and its probabilities as they are and smoothed."""

    lower: float
    upper: float
    probabilities_K: np.ndarray
    smooth_K: np.ndarray


class _Stretch:
    """Successive windows in which a class is on. Windows after them are `pending` until it is on again."""

    def __init__(self, label: int, start: float) -> None:
        self.label, self.start, self.end = label, start, start
        self.inside: list[float] = [0, 0.0, 0.0]  # number of windows, sum and peak of their probabilities
        self.pending: list[float] = [0, 0.0, 0.0]
        self.is_announced = False

    def add(self, smooth_K: np.ndarray) -> None:
        probability = float(smooth_K[self.label])
        self.pending = _joined(self.pending, [1, probability, probability])

    def extend(self, end: float) -> None:
        self.end = end
        self.inside, self.pending = _joined(self.inside, self.pending), [0, 0.0, 0.0]

    def has_gap_to(self, time: float, longest: float) -> bool:
        return time - self.end > longest + ROUNDING

    def change(self, *, has_ended: bool) -> EventChange:
        count, total, _ = self.inside
        return EventChange(has_ended, Event(self.start, self.end, self.label, min(total / count, 1.0)))


def _joined(first: list[float], second: list[float]) -> list[float]:
    return [first[0] + second[0], first[1] + second[1], max(first[2], second[2])]


class _Track:
    """Classes of which one is on at a time: one event, and perhaps a stretch that is still too short to count."""

    def __init__(self, settings: EventSettings) -> None:
        self.settings = settings
        self.event: _Stretch | None = None
        self.candidate: _Stretch | None = None
        self.is_interrupted = False  # another stretch began after the event's last window

    def add(self, label: int | None, smooth_K: np.ndarray, span: tuple[float, float]) -> list[EventChange]:
        """Take the next window, for the time `span`, in which the class `label` is on."""
        lower, upper = span
        changes: list[EventChange] = []
        for stretch in filter(None, (self.event, self.candidate)):
            stretch.add(smooth_K)
        if label is not None:
            changes += self._continue(label, smooth_K, lower, upper)
        longest = self.settings.max_gap_seconds
        if self.candidate and self.candidate.has_gap_to(upper, longest):
            self.candidate = None
        if self.event and self.event.has_gap_to(upper, longest) and not self._may_join():
            changes += self.close()
        return changes + self._announce()

    def close(self) -> list[EventChange]:
        """End the event, if there is one."""
        event, changes = self.event, self._announce()
        self.event = None
        return [*changes, event.change(has_ended=True)] if event and event.is_announced else []

    def _continue(self, label: int, smooth_K: np.ndarray, lower: float, upper: float) -> list[EventChange]:
        longest, changes = self.settings.max_gap_seconds, []
        event, candidate = self.event, self.candidate
        if event and event.label == label and not self.is_interrupted and not event.has_gap_to(lower, longest):
            event.extend(upper)
            return []
        if candidate is None or candidate.label != label or candidate.has_gap_to(lower, longest):
            candidate = self.candidate = _Stretch(label, lower)
            candidate.add(smooth_K)
            self.is_interrupted = True
        candidate.extend(upper)
        if candidate.end - candidate.start >= self.settings.shortest_seconds - ROUNDING:
            if event and self._may_join():
                event.extend(upper)
            else:
                changes = self.close()
                self.event = candidate
            self.candidate, self.is_interrupted = None, False
        return changes

    def _may_join(self) -> bool:
        """Whether the event goes on with the candidate, once that is long enough."""
        if self.event is None or self.candidate is None or self.event.label != self.candidate.label:
            return False
        return not self.event.has_gap_to(self.candidate.start, self.settings.max_gap_seconds)

    def _announce(self) -> list[EventChange]:
        event = self.event
        if event is None or event.is_announced or event.inside[2] < self.settings.high:
            return []
        event.is_announced = True
        return [event.change(has_ended=False)]
