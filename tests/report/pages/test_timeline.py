"""What the timeline page selects and scales; tests/report/test_browser.py uses the page itself."""

import re
from pathlib import Path

import numpy as np
import pytest

from finetune.metrics.event_matching import Event
from finetune.report.pages.timeline import chosen_events, curve_path
from finetune.text import clock
from finetune.timeline.timeline import TaskTimeline, Timeline


def heights_of(path):
    """The points of a curve, as probabilities."""
    start, *steps = (int(number) for number in re.findall(r"-?\d+", path.replace("M0 ", "", 1)))
    assert steps[::2] == [1] * (len(steps) // 2)
    return (100 - np.cumsum([start, *steps[1::2]])) / 100


@pytest.mark.parametrize("count", [2, 7, 100, 2500])
def test_a_curve_has_at_most_as_many_points_as_asked_for_and_keeps_every_peak(count):
    values = np.random.default_rng(0).random(count).round(2)
    heights = heights_of(curve_path(values, 100))
    assert len(heights) == min(count, 100)
    for place, height in enumerate(heights):
        part = values[
            place * count // len(heights) : max(place * count // len(heights) + 1, (place + 1) * count // len(heights))
        ]
        assert height == pytest.approx(part.max())


def test_times_are_written_as_on_a_player():
    assert [clock(seconds) for seconds in (0, 59.96, 62.5, 3599.99, 36_000.1)] == [
        "0:00.0",
        "1:00.0",
        "1:02.5",
        "1:00:00.0",
        "10:00:00.1",
    ]
    assert clock(3725.4, tenths=False) == "1:02:05"


def test_the_events_with_the_highest_scores_are_chosen_in_the_order_of_their_starts():
    events = [Event(float(number), number + 1.0, 0, score) for number, score in enumerate((0.9, 0.1, 0.8, 0.7))]
    task = TaskTimeline(("a",), False, np.zeros((4, 1), np.float32), events)
    timeline = Timeline(Path("a.mp4"), 4, (9, 16), np.arange(4) + 0.5, np.arange(4), 1, 1, {"label": task})
    chosen = chosen_events([timeline, timeline], 5)
    assert [found.event.start for found in chosen[0]] == [0, 2, 3]
    assert [found.event.start for found in chosen[1]] == [0, 2]
