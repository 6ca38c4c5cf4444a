"""Summaries of imagined recordings: what is shown, how long, and in which order."""

from itertools import pairwise

import numpy as np
import pytest
from recorded import samples_of

from finetune.errors import DataError
from finetune.summaries.events_first import NamedEvent, choose_events, in_turns
from finetune.summaries.length import SummaryLength
from finetune.summaries.samples import Samples
from finetune.summaries.summarize import summarize

LOOKS = [0] * 20 + [1] * 8 + [0] * 20 + [2] * 8 + [0] * 24  # 40 s, of which the looks 1 and 2 have 4 s each


def shown_looks(summary, looks):
    return {looks[int(time * 2)] for part in summary.parts for time in np.arange(part.start + 0.25, part.end, 0.5)}


def test_a_summary_shows_each_look_once_within_its_length():
    summary = summarize(samples_of(LOOKS), SummaryLength(seconds=12))
    assert 11 <= summary.shown_seconds <= 12
    assert shown_looks(summary, LOOKS) == {0, 1, 2}
    assert [part.start for part in summary.parts] == sorted(part.start for part in summary.parts)
    assert not summary.is_storyboard


def test_a_storyboard_has_single_frames_of_different_looks():
    summary = summarize(samples_of(LOOKS), SummaryLength(frames=3))
    assert summary.is_storyboard
    assert {LOOKS[part.frame // 10] for part in summary.parts} == {0, 1, 2}
    assert all(part.start == part.end == part.frame / 20 + 0.25 for part in summary.parts)


def test_scores_of_parts_are_the_shares_that_they_represent():
    summary = summarize(samples_of(LOOKS, noise=0.001), SummaryLength(frames=3))
    assert sum(part.score for part in summary.parts) == pytest.approx(1)
    assert max(summary.parts, key=lambda part: part.score).score == pytest.approx(64 / 80)


def test_a_recording_shorter_than_its_summary_is_shown_whole():
    summary = summarize(samples_of([0, 1, 0]), SummaryLength(seconds=60))
    assert [(part.start, part.end) for part in summary.parts] == [(0, 1.5)]
    assert summary.method == "the whole recording"


@pytest.mark.parametrize("length", [{"share": 0.15}, {"seconds": 0.2}, {"seconds": 5}, {"share": 1}])
@pytest.mark.parametrize("number", [1, 2, 3, 7, 50, 301])
@pytest.mark.parametrize("with_events", [False, True])
def test_parts_are_inside_the_recording_apart_and_fill_the_length(length, number, with_events):
    rng = np.random.default_rng(number)
    looks = np.repeat(rng.integers(0, 5, number), rng.integers(1, 9, number))[:number].tolist()
    samples = samples_of(looks, shots=(number / 4,))
    starts = np.sort(rng.uniform(0, samples.seconds, 6)).tolist()
    events = [NamedEvent(*span, "ab"[place % 2], 0.5) for place, span in enumerate(pairwise(starts))]
    summary = summarize(samples, SummaryLength(**length), events=events[::2] if with_events else None)
    edges = [edge for part in summary.parts for edge in (part.start, part.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= samples.seconds + 1e-9
    budget = min(SummaryLength(**length).budget(samples.seconds), samples.seconds)
    assert 0 < summary.shown_seconds <= budget + 1e-9
    assert len(summary.scores) == number
    assert all(0 <= score <= 1 for score in (*summary.scores, *(part.score for part in summary.parts)))
    assert {part.frame for part in summary.parts} <= set(samples.frames_N.tolist())


@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_a_storyboard_has_as_many_frames_as_asked_where_there_are_enough(number):
    for frames in (1, 3, 12):
        summary = summarize(samples_of([0] * number, noise=0), SummaryLength(frames=frames))
        assert len({part.frame for part in summary.parts}) == len(summary.parts) == min(frames, number)


def test_a_frame_that_is_shown_for_long_is_in_a_storyboard_once():
    still = Samples(samples_of([0] * 9).path, 4.5, (8, 8), np.zeros(9, int), samples_of([0] * 9).features_ND, ())
    assert [part.frame for part in summarize(still, SummaryLength(frames=5)).parts] == [0]


def test_parts_begin_exactly_at_shots():
    looks = [0] * 20 + [1] * 20
    summary = summarize(samples_of(looks, shots=(9.9,)), SummaryLength(share=0.4))
    assert all(part.end <= 9.9 or part.start >= 9.9 for part in summary.parts)


def test_events_come_first_and_the_rest_is_representative():
    events = [NamedEvent(10, 13, "kick", 0.9), NamedEvent(30, 32, "push", 0.4)]
    summary = summarize(samples_of(LOOKS), SummaryLength(seconds=12), events=events)
    named = [(part.start, part.end, part.label, part.score) for part in summary.parts if part.label]
    assert named == [(10, 13, "kick", 0.9), (30, 32, "push", 0.4)]
    assert 9 <= summary.shown_seconds <= 12
    assert summary.method == "events first"
    assert shown_looks(summary, LOOKS) == {0, 1, 2}
    assert min(summary.scores[20:26]) > max(summary.scores[:20])


def test_events_of_a_storyboard_show_their_middle():
    events = [NamedEvent(10, 13, "kick", 0.9)]
    summary = summarize(samples_of(LOOKS), SummaryLength(frames=3), events=events)
    assert [(part.start, part.frame) for part in summary.parts if part.label] == [(11.5, 230)]
    assert len(summary.parts) == 3


def test_classes_take_turns_and_the_best_event_comes_first():
    events = [
        NamedEvent(place, place + 1, label, score)
        for place, (label, score) in enumerate(zip("aaab", (0.9, 0.8, 0.7, 0.1), strict=True))
    ]
    assert [event.score for event in in_turns(events)] == [0.9, 0.1, 0.8, 0.7]


def test_events_are_shortened_before_any_is_left_out():
    events = [NamedEvent(10 * place, 10 * place + 4, "a", 1 - place / 10) for place in range(3)]
    shortened = choose_events(events, 9)
    assert [(event.start, event.end) for event in shortened] == [(0.5, 3.5), (10.5, 13.5), (20.5, 23.5)]
    halves = choose_events(events, 4)
    assert [(event.start, event.end) for event in halves] == [(1, 3), (11, 13)]
    assert choose_events([NamedEvent(0, 40, "a", 1)], 30)[0][:2] == (15, 25)
    assert choose_events([NamedEvent(0, 40, "a", 1)], 2)[0][:2] == (19, 21)


def test_events_that_overlap_are_shown_once():
    events = [NamedEvent(0, 4, "a", 0.5), NamedEvent(3, 6, "b", 0.9)]
    assert [event.label for event in choose_events(events, 100)] == ["b"]


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ({"share": 0.0}, "--share is 0; it is the share"),
        ({"share": 1.5}, "--share is 1.5; it is the share"),
        ({"seconds": -1.0}, "--seconds is -1; it must be"),
        ({"seconds": float("nan")}, "--seconds is nan; it must be"),
        ({"frames": 0}, "--frames is 0; a storyboard"),
        ({"share": 0.1, "frames": 2}, "--share and --frames exclude each other"),
        ({}, "none is given"),
    ],
)
def test_lengths_that_are_not_possible_are_refused(length, message):
    with pytest.raises(DataError, match=message):
        SummaryLength(**length)
