"""Events follow from probabilities: borders, order, lengths and thresholds."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import FinetuneError
from finetune.metrics.event_matching import Event
from finetune.timeline.events import EventSettings, events_from_probabilities

PLAIN = EventSettings(smoothing_seconds=0, high=0.5, low=0.5, shortest_seconds=0, max_gap_seconds=0)
STEP = 0.5
NUM_CLASSES = 3  # the last one is the background where there is one


def windows(seconds, step=STEP):
    return np.arange(step / 2, seconds, step)


@st.composite
def apart(draw):
    """Events of classes 0 and 1 and the pauses between them, each at least 4 steps long; and the recording's end."""
    time, events = 0.0, []
    for _ in range(draw(st.integers(0, 6))):
        start = time + draw(st.floats(2, 5))
        time = start + draw(st.floats(2, 5))
        events.append(Event(start, time, draw(st.integers(0, 1))))
    return events, time + 3


@st.composite
def any_probabilities(draw):
    """Times (N,) and probabilities (N, K), of softmax or of sigmoids."""
    number, rng = draw(st.integers(1, 40)), np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = rng.normal(size=(number, NUM_CLASSES)) * draw(st.sampled_from([0.5, 2, 6]))
    multilabel = draw(st.booleans())
    probabilities = 1 / (1 + np.exp(-logits)) if multilabel else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return 1 + STEP * np.arange(number), probabilities, multilabel


some_settings = st.builds(
    lambda low, rise, smoothing, shortest, gap: EventSettings(smoothing, low + rise, low, shortest, gap),
    *(st.floats(0.1, 0.6), st.floats(0, 0.4), st.floats(0, 4), st.floats(0, 3), st.floats(0, 3)),
)


def events_of(probabilities, event_settings, *, shift=0.0):
    times, probabilities_NK, multilabel = probabilities
    borders = (shift, shift + times[-1] + 1)
    return events_from_probabilities(
        times + shift, probabilities_NK, borders, event_settings, multilabel=multilabel, background=2
    )


@pytest.mark.parametrize(
    ("multilabel", "event_settings"), [(False, PLAIN), (True, PLAIN), (False, EventSettings(max_gap_seconds=0.5))]
)
@settings(max_examples=40, deadline=None)
@given(made=apart())
def test_perfect_probabilities_give_the_true_events_to_half_a_step(made, multilabel, event_settings):
    truth, seconds = made
    times = windows(seconds)
    probabilities = np.zeros((len(times), NUM_CLASSES))
    for event in truth:
        probabilities[(event.start <= times) & (times < event.end), event.label] = 1
    probabilities[:, 2] = 1 - probabilities[:, :2].sum(1)
    found = events_from_probabilities(
        times, probabilities, (0, seconds), event_settings, multilabel=multilabel, background=2
    )
    assert [event.label for event in found] == [event.label for event in truth]
    for event, true in zip(found, truth, strict=True):
        assert event[:2] == pytest.approx(true[:2], abs=STEP / 2 + 1e-9)


@settings(max_examples=80, deadline=None)
@given(any_probabilities(), some_settings, st.floats(-100, 1000))
def test_recordings_that_begin_later_have_their_events_later(probabilities, event_settings, shift):
    first, second = events_of(probabilities, event_settings), events_of(probabilities, event_settings, shift=shift)
    assert [event[2:] for event in first] == [event[2:] for event in second]
    moved = [(event.start + shift, event.end + shift) for event in first]
    assert np.ravel(moved) == pytest.approx(np.ravel([event[:2] for event in second]), abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(any_probabilities(), some_settings, st.floats(0, 0.5))
def test_a_higher_high_threshold_only_takes_events_away(probabilities, event_settings, rise):
    higher = replace(event_settings, high=min(1.0, event_settings.high + rise))
    assert set(events_of(probabilities, higher)) <= set(events_of(probabilities, event_settings))


@settings(max_examples=80, deadline=None)
@given(any_probabilities(), some_settings)
def test_events_are_in_order_long_enough_inside_the_recording_and_apart(probabilities, event_settings):
    times, _, multilabel = probabilities
    events = events_of(probabilities, event_settings)
    assert events == sorted(events)
    for event in events:
        assert event.end - event.start >= max(event_settings.shortest_seconds, STEP / 2) - 1e-6
        assert event.start >= 0 and event.end <= times[-1] + 1
        assert 0 <= event.score <= 1 and event.label != 2
    for label in range(NUM_CLASSES):
        same = [event for event in events if event.label == label or not multilabel]
        for event, after in pairwise(same):
            assert event.end <= after.start
            assert (
                event.label != after.label or after.start - event.end > event_settings.max_gap_seconds or not multilabel
            )


def test_events_reach_to_the_borders_of_the_recording():
    times, probabilities = np.array([1.5, 2.0, 2.5]), np.array([[0.9], [0.8], [0.7]])
    assert events_from_probabilities(times, probabilities, (0, 4), PLAIN, multilabel=True) == [
        Event(0, 4, 0, pytest.approx(0.8))
    ]
    alone = events_from_probabilities(times[:1], probabilities[:1], (0.5, 2.5), EventSettings(), multilabel=False)
    assert alone == [Event(0.5, 2.5, 0, 0.9)]


def test_two_thresholds_keep_an_event_whole_and_leave_out_what_is_never_probable():
    probabilities = np.array([[0.1, 0.4, 0.8, 0.4, 0.8, 0.1, 0.4, 0.4, 0.1]]).T
    both = replace(PLAIN, low=0.3)
    assert [event[:2] for event in predict(probabilities, PLAIN)] == [(2, 3), (4, 5)]
    assert [event[:2] for event in predict(probabilities, both)] == [(1, 5)]


def test_short_gaps_are_closed_and_short_events_dropped():
    probabilities = np.array([[0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0]]).T
    assert [event[:2] for event in predict(probabilities, PLAIN)] == [(1, 3), (4, 6), (8, 9)]
    closed = replace(PLAIN, max_gap_seconds=1)
    assert [event[:2] for event in predict(probabilities, closed)] == [(1, 6), (8, 9)]
    long = replace(closed, shortest_seconds=2)
    assert [event[:2] for event in predict(probabilities, long)] == [(1, 6)]


def test_a_moment_of_another_class_does_not_cut_an_event():
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.2, 0.8]] + [[0.9, 0.1]] * 4)
    cut = [event[:3] for event in predict(probabilities, PLAIN, multilabel=False)]
    assert cut == [(0, 4, 0), (4, 5, 1), (5, 9, 0)]
    whole = replace(PLAIN, shortest_seconds=2, max_gap_seconds=1)
    assert [event[:3] for event in predict(probabilities, whole, multilabel=False)] == [(0, 9, 0)]


def test_events_of_several_labels_may_overlap():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.8], [0.1, 0.8]])
    assert [event[:3] for event in predict(probabilities, PLAIN)] == [(0, 2, 0), (1, 3, 1)]


def predict(probabilities, event_settings, *, multilabel=True):
    times = windows(len(probabilities), step=1)
    return events_from_probabilities(
        times, probabilities, (0, len(probabilities)), event_settings, multilabel=multilabel
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"high": 1.5}, "high of events is 1.5: it must be a probability"),
        ({"max_gap_seconds": -1}, "max_gap_seconds of events is -1: it must be 0 seconds or more"),
        ({"low": 0.7}, "low of events is 0.7, above high"),
        ({"low": float("nan")}, "low of events is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(FinetuneError, match=message):
        EventSettings(**wrong)
