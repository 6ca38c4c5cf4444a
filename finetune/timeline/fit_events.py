"""Settings of events that give the best F1@50 on the annotated recordings of `val`."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import NamedTuple

import numpy as np

from finetune.metrics.event_matching import Event, segmental_f1
from finetune.metrics.intervals import jackknife, jackknife_units
from finetune.timeline.events import EventSettings, events_from_probabilities

MIN_RECORDINGS, MIN_EVENTS = 2, 5  # with fewer the defaults stay: what fits one recording may fit no other
ROUNDS = 2  # each searches thresholds and smoothing first, then lengths
HIGHS, LOW_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 0.75, 1.0)  # low is a share of high
LENGTH_SHARES = (0, 0.125, 0.25, 0.5)  # smoothing, shortest and gaps are shares of the median length of true events


class AnnotatedProbabilities(NamedTuple):
    """A recording: windows as in `events_from_probabilities`, and its true events."""

    times_N: np.ndarray
    probabilities_NK: np.ndarray
    borders: tuple[float, float]
    truth: Sequence[Event]


class FittedSettings(NamedTuple):
    """Settings, and in one sentence how they were found."""

    settings: EventSettings
    how: str


def fit_event_settings(
    recordings: Sequence[AnnotatedProbabilities], *, multilabel: bool, background: int | None = None
) -> FittedSettings:
    """The settings with the highest F1@50 on these recordings, all of `val`, from a grid; the same each time.

    Of equally good ones, those with the higher mean of F1@{10, 25, 50}, and then those nearest to the defaults. The
    defaults stay with fewer than MIN_RECORDINGS recordings or MIN_EVENTS true events. They also stay where F1@50 does
    not rise by more than the standard error of its rise: such settings were often worse on other recordings.
    """
    truth = [[event for event in recording.truth if event.label != background] for recording in recordings]
    lengths = [event.end - event.start for events in truth for event in events]
    basis = f"{len(recordings)} val recordings with {len(lengths)} events"
    if len(recordings) < MIN_RECORDINGS or len(lengths) < MIN_EVENTS:
        return FittedSettings(
            EventSettings(), f"defaults: {basis} are too few to fit to ({MIN_RECORDINGS} with {MIN_EVENTS} are needed)"
        )

    def predict(settings: EventSettings) -> list[list[Event]]:
        return [
            events_from_probabilities(*recording[:3], settings, multilabel=multilabel, background=background)
            for recording in recordings
        ]

    def rank(settings: EventSettings) -> tuple[float, float, float]:
        f1_F = segmental_f1(truth, predict(settings))
        distance = np.abs(np.subtract(astuple(settings), astuple(EventSettings()))).sum()
        return round(float(f1_F[-1]), 9), round(float(f1_F.mean()), 9), -float(distance)

    best = default = EventSettings()
    for _ in range(ROUNDS):
        best = max((best, *_thresholds(best, float(np.median(lengths)))), key=rank)
        best = max((best, *_lengths(best, float(np.median(lengths)))), key=rank)
    before, after = rank(default)[0], rank(best)[0]
    error = _error_of_rise(truth, predict(default), predict(best))
    if best != default and after - before <= error:
        rise = f"{after - before:.3f}, not more than its standard error, {error:.3f}"
        return FittedSettings(default, f"defaults: the best settings for {basis} raise F1@50 by {rise}")
    return FittedSettings(best, f"fitted to {basis}: F1@50 {after:.3f} there, {before:.3f} with the defaults")


def _error_of_rise(
    truth: Sequence[Sequence[Event]], before: Sequence[Sequence[Event]], after: Sequence[Sequence[Event]]
) -> float:
    """The standard error of the difference of F1@50 of two predictions, by a jackknife over recordings."""
    places = range(len(truth))

    def rise(left_out: int | None) -> float:
        kept = [place for place in places if place != left_out]
        true, first, second = ([events[place] for place in kept] for events in (truth, before, after))
        return float(segmental_f1(true, second)[-1] - segmental_f1(true, first)[-1])

    left_out_U = np.array([rise(place) for place in places])
    return jackknife(rise(None), left_out_U, jackknife_units(None, len(truth))).error


def _thresholds(settings: EventSettings, length: float) -> list[EventSettings]:
    return [
        replace(settings, smoothing_seconds=smoothing, high=high, low=round(share * high, 3))
        for smoothing in _seconds(EventSettings.smoothing_seconds, length)
        for high in HIGHS
        for share in LOW_SHARES
    ]


def _lengths(settings: EventSettings, length: float) -> list[EventSettings]:
    return [
        replace(settings, shortest_seconds=shortest, max_gap_seconds=gap)
        for shortest in _seconds(EventSettings.shortest_seconds, length)
        for gap in _seconds(EventSettings.max_gap_seconds, length)
    ]


def _seconds(default: float, length: float) -> list[float]:
    """The default, and shares of the length of an event."""
    return sorted({default, *(round(share * length, 2) for share in LENGTH_SHARES)})
