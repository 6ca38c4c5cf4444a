"""Settings of events are fitted to annotated recordings, where there are enough."""

import numpy as np

from finetune.metrics.event_matching import Event, segmental_f1
from finetune.timeline.events import EventSettings, events_from_probabilities
from finetune.timeline.fit_events import AnnotatedProbabilities, fit_event_settings

BACKGROUND = 2


def hesitant(number, *, seed, events=6):
    """Recordings whose events have probabilities of 0.2 and 0.15, in flickering windows of half a second."""
    rng = np.random.default_rng(seed)
    recordings = []
    for _ in range(number):
        time, truth = 0.0, []
        for _ in range(events):
            start = time + rng.uniform(2, 4)
            time = start + rng.uniform(3, 5)
            truth.append(Event(start, time, int(rng.integers(2))))
        times = np.arange(0.25, time + 3, 0.5)
        probabilities = np.tile([0.05, 0.05, 0.9], (len(times), 1))
        for event in truth:
            inside = (event.start <= times) & (times < event.end) & (rng.random(len(times)) < 0.8)
            probabilities[inside] = (0.15, 0.15, 0.65)
            probabilities[inside, event.label] = 0.2
        recordings.append(AnnotatedProbabilities(times, probabilities, (0, time + 3), truth))
    return recordings


def f1_50(recordings, event_settings):
    predicted = [
        events_from_probabilities(*recording[:3], event_settings, multilabel=False, background=BACKGROUND)
        for recording in recordings
    ]
    return segmental_f1([recording.truth for recording in recordings], predicted)[-1]


def test_fitted_settings_are_better_on_other_recordings_in_whatever_order_they_come():
    recordings = hesitant(4, seed=0)
    fitted = fit_event_settings(recordings, multilabel=False, background=BACKGROUND)
    assert fitted.how.startswith("fitted to 4 val recordings with 24 events: F1@50 ")
    others = hesitant(6, seed=1)
    assert f1_50(others, fitted.settings) > f1_50(others, EventSettings()) + 0.3
    assert fit_event_settings(recordings[::-1], multilabel=False, background=BACKGROUND) == fitted


def test_the_defaults_stay_where_there_is_too_little_to_fit_to():
    for recordings in ([], hesitant(1, seed=0, events=20), hesitant(3, seed=0, events=1)):
        fitted = fit_event_settings(recordings, multilabel=False, background=BACKGROUND)
        assert fitted.settings == EventSettings()
        assert f"defaults: {len(recordings)} val recordings" in fitted.how and "too few" in fitted.how


def test_the_defaults_stay_where_other_settings_are_better_in_one_recording_only():
    times = np.arange(0.25, 60, 0.5)
    recordings = []
    for high in (0.9, 0.9, 0.9, 0.4):  # the event of the last recording stays below the default threshold
        truth = [Event(start, start + 4, 0) for start in range(2, 50, 10)]
        probabilities = np.zeros((len(times), 1))
        for event in truth:
            probabilities[(event.start <= times) & (times < event.end)] = 0.9
        probabilities[(truth[0].start <= times) & (times < truth[0].end)] = high
        recordings.append(AnnotatedProbabilities(times, probabilities, (0, 60), truth))
    fitted = fit_event_settings(recordings, multilabel=True)
    assert fitted.settings == EventSettings()
    assert fitted.how.startswith("defaults: the best settings for 4 val recordings with 20 events raise F1@50 by 0.026")
