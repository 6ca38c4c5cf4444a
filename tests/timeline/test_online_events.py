"""Events told while they happen are those of the whole recording."""

import numpy as np
import pytest

from finetune.timeline.events import EventSettings, events_from_probabilities
from finetune.timeline.online_events import OnlineEvents


def random_windows(rng, *, multilabel):
    """Times by a step, and probabilities that stay at one level for some windows, with noise."""
    step, number, classes = rng.choice([0.1, 0.25, 0.5]), int(rng.integers(1, 60)), int(rng.integers(1, 4))
    levels = rng.dirichlet(np.full(classes, 0.3), number) if not multilabel else rng.random((number, classes))
    held = np.repeat(levels, rng.integers(1, 6, number), axis=0)[:number]
    noise = rng.random(held.shape) * 0.2
    return step * (1 + np.arange(len(held))) + rng.random(), np.clip(held + noise - 0.1, 0, 1)


def told_online(times_N, probabilities_NK, borders, settings, **how):
    online = OnlineEvents(settings, start=borders[0], **how)
    windows = zip(times_N.tolist(), probabilities_NK, strict=True)
    changes = [change for seconds, values_K in windows for change in online.add(seconds, values_K)]
    return changes + online.finish(borders[1])


@pytest.mark.parametrize("multilabel", [False, True])
def test_ended_events_are_those_of_the_recording(multilabel):
    total = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        times_N, probabilities_NK = random_windows(rng, multilabel=multilabel)
        borders = times_N[0] - 0.3, times_N[-1] + 0.3
        low = rng.uniform(0.1, 0.6)
        settings = EventSettings(*rng.choice([0, 0.3, 1.0], 1), rng.uniform(low, 1), low, *rng.choice([0, 0.4, 1.1], 2))
        how = {"multilabel": multilabel, "background": rng.choice([None, 0])}
        expected = events_from_probabilities(times_N, probabilities_NK, borders, settings, **how)
        changes = told_online(times_N, probabilities_NK, borders, settings, **how)
        ended = sorted(change.event for change in changes if change.has_ended)
        np.testing.assert_allclose(ended, sorted(expected), atol=1e-6, err_msg=f"seed {seed}")
        starts = sorted((change.event.start, change.event.label) for change in changes if not change.has_ended)
        if multilabel or how["background"] is None:
            assert starts == sorted((event.start, event.label) for event in ended)
        else:  # what happens has one start, and may turn out to be several events
            assert {start for start, _ in starts} <= {event.start for event in ended}
        total += len(ended)
    assert total > 60


def test_a_start_is_told_while_the_event_goes_on_and_memory_stays_the_same():
    online = OnlineEvents(EventSettings(), start=0.0, multilabel=False, background=1)
    told = {}
    for number in range(1, 2001):
        probability = 0.9 if number > 100 else 0.1
        for change in online.add(number / 4, np.array([probability, 1 - probability])):
            told[change.has_ended] = number / 4, change.event
        assert len(online.recent) < 10
    seconds, event = told[False]
    assert 24.5 < event.start < 25.5 and event.start < seconds < event.start + 2 and True not in told
    (change,) = online.finish(500.5)
    assert change.has_ended and change.event[:3] == (event.start, 500.5, 0)
