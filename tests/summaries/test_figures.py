"""Summaries beside uniform and random ones of the same length."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.cli.summary_figures import References, print_figures
from finetune.summaries.figures import coverage_figures, random_parts, uniform_parts
from finetune.summaries.summary import Part, Summary


def summary_of(seconds, parts, path="a.mp4"):
    shown = tuple(Part(start, end, 1.0, None, 0) for start, end in parts)
    return Summary(Path(path), seconds, shown, (), "by hand", (48, 64))


def test_events_that_are_shown_are_counted_beside_uniform_and_random_parts():
    summary = summary_of(10.0, [(0.0, 2.0)])
    figures = coverage_figures([summary], {Path("a.mp4").resolve(): [(0.0, 2.0), (5.0, 6.0), (1.5, 2.5)]})
    assert figures["summary"]["half"] == pytest.approx(2 / 3) and figures["summary"]["any"] == pytest.approx(2 / 3)
    assert figures["uniform"]["half"] == figures["uniform"]["any"] == pytest.approx(1 / 3), "from 4 to 6 seconds"
    assert 0 < figures["random"]["half"] < figures["random"]["any"] < 1


@given(number=st.integers(1, 20), share=st.floats(0.01, 1), seconds=st.floats(1, 5000), seed=st.integers(0, 99))
def test_parts_that_are_compared_are_as_many_and_as_long_and_do_not_overlap(number, share, seconds, seed):
    step = seconds / number
    summary = summary_of(seconds, [(place * step, place * step + share * step) for place in range(number)])
    for parts in (uniform_parts(summary), random_parts(summary, np.random.default_rng(seed))):
        assert len(parts) == number
        assert sum(end - start for start, end in parts) == pytest.approx(summary.shown_seconds)
        edges = np.array(parts).ravel()
        slack = 1e-6 * seconds
        assert (np.diff(edges) > -slack).all() and edges[0] > -slack and edges[-1] < seconds + slack


def test_events_of_recordings_that_cannot_be_read_give_no_figures(capsys):
    events = {Path("unreadable.mp4").resolve(): [(0.0, 1.0)]}
    figures = coverage_figures([summary_of(10.0, [(0.0, 2.0)])], events)
    assert figures["random"] == {"half": None, "any": None} and figures["summary"]["half"] is None
    print_figures([summary_of(10.0, [(0.0, 2.0)])], References(events, None))
    assert capsys.readouterr().out.startswith("0 events in 0 recordings, at the same length:\n")
