"""Metrics of events equal published figures, and slow versions that are written from the definitions."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from finetune.metrics.event_matching import (
    ACTIVITYNET_IOUS,
    AP_IOUS,
    F1_IOUS,
    Event,
    average_precisions,
    edit_score,
    segmental_f1,
    temporal_iou,
)
from finetune.metrics.localization import localization_metrics
from finetune.run.results import TaskResults

NUM_CLASSES = 3
METRICS = (
    *("frame_accuracy", "frame_macro_f1", "edit"),
    *("f1_10", "f1_25", "f1_50", "map_30_70", "map_50_95"),
)

events = st.lists(
    st.builds(
        lambda start, length, label, score: Event(start / 4, (start + length) / 4, label, score / 8),
        *(st.integers(0, 60), st.integers(1, 24), st.integers(0, NUM_CLASSES - 1), st.integers(0, 8)),
    ),
    max_size=6,
    unique_by=lambda event: event[:3],  # MS-TCN counts two equal true events, found twice, as one
)
recordings = st.lists(st.tuples(events, events), min_size=1, max_size=4)


def score(pairs, **settings):
    truth, predicted = [true for true, _ in pairs], [detected for _, detected in pairs]
    return localization_metrics(truth, predicted, classes=["a", "b", "c"], seconds=[30] * len(pairs), **settings)


def iou(event, other):
    common = max(0, min(event.end, other.end) - max(event.start, other.start))
    return common / (event.end - event.start + other.end - other.start - common)


def slow_f1(pairs, threshold):
    """MS-TCN's: in order of time, each predicted event takes the true event of its class with the highest IoU."""
    correct = wrong = missed = 0
    for truth, predicted in pairs:
        truth, taken = sorted(truth), set()
        for event in sorted(predicted):
            best = max(
                range(len(truth)), key=lambda j: (truth[j].label == event.label) * iou(event, truth[j]), default=-1
            )
            fits = best >= 0 and truth[best].label == event.label and iou(event, truth[best]) >= threshold
            if fits and best not in taken:
                taken.add(best)
                correct += 1
            else:
                wrong += 1
        missed += len(truth) - len(taken)
    return 2 * correct / (2 * correct + wrong + missed) if correct + wrong + missed else np.nan


def slow_edit(truth, predicted):
    """Levenshtein's distance by its recursion."""
    table = {(row, -1): row + 1 for row in range(-1, len(truth))}
    table |= {(-1, column): column + 1 for column in range(-1, len(predicted))}
    for row, label in enumerate(truth):
        for column, other in enumerate(predicted):
            replaced = table[row - 1, column - 1] + (label != other)
            table[row, column] = min(replaced, table[row - 1, column] + 1, table[row, column - 1] + 1)
    return 1 - table[len(truth) - 1, len(predicted) - 1] / max(1, len(truth), len(predicted))


def slow_ap(pairs, label, threshold):
    """The area under the curve of precision against recall, whose precision never rises with recall."""
    total = sum(event.label == label for truth, _ in pairs for event in truth)
    results = []  # score, whether correct
    for truth, predicted in pairs:
        free = sorted(event for event in truth if event.label == label)
        for event in sorted((event for event in predicted if event.label == label), key=lambda e: (-e.score, e)):
            best = max(free, key=lambda other: iou(event, other), default=None)
            correct = best is not None and iou(event, best) >= threshold
            if correct:
                free.remove(best)
            results.append((event.score, correct))
    curve = []  # recall, precision of all detections with at least this score
    for score in {score for score, _ in results}:
        correct = [correct for other, correct in results if other >= score]
        curve.append((sum(correct) / total, sum(correct) / len(correct)))
    area = previous = 0
    for recall in sorted({recall for recall, _ in curve}):
        area += (recall - previous) * max(precision for other, precision in curve if other >= recall)
        previous = recall
    return area


def slow_frames(pairs, seconds=30, step=0.25):
    """Accuracy and macro F1 of frames in the middle of each step; borders of events are multiples of a step."""
    frames = [
        [{event.label for event in events if event.start <= time < event.end} for events in pair]
        for pair in pairs
        for time in np.arange(step / 2, seconds, step)
    ]
    f1 = []
    for label in range(NUM_CLASSES):
        both, true, predicted = (
            sum(label in truth and label in detected for truth, detected in frames),
            sum(label in truth for truth, _ in frames),
            sum(label in detected for _, detected in frames),
        )
        f1 += [2 * both / (true + predicted)] if true else []
    return np.mean([truth == detected for truth, detected in frames]), np.mean(f1) if f1 else None


@pytest.mark.real
def test_average_precision_equals_the_figures_of_activitynets_evaluator(real):
    folder = real / "data/eval_localization"
    annotated = json.loads((folder / "gt.json").read_text())
    detections = json.loads((folder / "result.json").read_text())["results"]
    classes = ["Wakeboarding", "Cleaning shoes"]
    truth = [
        [Event(*entry["segment"], classes.index(entry["label"])) for entry in video["annotations"]]
        for video in annotated.values()
    ]
    predicted = [
        [Event(*entry["segment"], classes.index(entry["label"]), entry["score"]) for entry in detections[name[2:]]]
        for name in annotated
    ]
    seconds = [video["duration"] for video in annotated.values()]
    metrics = localization_metrics(truth, predicted, classes=classes, seconds=seconds)
    assert metrics["map_50_95"] == pytest.approx(0.617758, abs=1e-6)
    ap = [dict(zip(metrics["ious"], entry["ap_by_iou"], strict=True)) for entry in metrics["per_class"]]
    golden = [0.4286, 0.4286, 0.4286, 0.375, 0.375, 0.1944, 0.0417, 0.0417, 0.0417, 0]
    assert [ap[0][iou] for iou in ACTIVITYNET_IOUS] == pytest.approx(golden, abs=5e-5)
    assert [ap[1][iou] for iou in ACTIVITYNET_IOUS] == [1] * 10


def test_a_small_case_has_the_figures_that_a_person_computes():
    truth = [[Event(0, 10, 0), Event(20, 30, 1)], [Event(0, 4, 0)]]
    predicted = [[Event(0, 8, 0, 0.9), Event(9, 10, 0, 0.8), Event(22, 30, 0, 0.4)], [Event(1, 4, 0, 0.7)]]
    metrics = localization_metrics(truth, predicted, classes=["a", "b"], seconds=[40, 10])
    # Wrong: 8-9 s and 20-30 s of the first recording, 0-1 s of the second.
    assert metrics["frame_accuracy"] == pytest.approx(38 / 50)
    assert metrics["background_share"] == pytest.approx(26 / 50)
    assert metrics["frame_macro_f1"] == pytest.approx((2 * 12 / (14 + 20) + 0) / 2)
    assert metrics["edit"] == pytest.approx((1 - 2 / 3 + 1) / 2)  # a b against a a a: one replaced, one removed
    assert metrics["f1_50"] == pytest.approx(2 * 2 / (3 + 4))
    # IoU 0.8, 0.1, 0 and 0.75, by falling score: correct, wrong, correct, wrong up to an IoU of 0.75.
    assert metrics["per_class"][0]["ap_by_iou"] == pytest.approx([5 / 6] * 8 + [1 / 2] + [0] * 3)
    assert metrics["map_30_70"] == pytest.approx(5 / 12)
    assert metrics["per_class"][1]["ap_by_iou"] == [0] * 12


@settings(max_examples=80, deadline=None)
@given(recordings)
def test_metrics_equal_slow_versions_from_their_definitions(pairs):
    metrics = score(pairs)
    for threshold, name in zip(F1_IOUS, ("f1_10", "f1_25", "f1_50"), strict=True):
        assert metrics[name] == pytest.approx(slow_f1(pairs, threshold), nan_ok=True) or metrics[name] is None
    labels = [[[event.label for event in sorted(events)] for events in pair] for pair in pairs]
    assert metrics["edit"] == pytest.approx(np.mean([slow_edit(*pair) for pair in labels]))
    accuracy, macro = slow_frames(pairs)
    assert metrics["frame_accuracy"] == pytest.approx(accuracy)
    assert metrics["frame_macro_f1"] == (None if macro is None else pytest.approx(macro))
    for label, entry in enumerate(metrics["per_class"]):
        if entry["support"]:
            expected = [slow_ap(pairs, label, threshold) for threshold in AP_IOUS]
            assert entry["ap_by_iou"] == pytest.approx(expected)
        else:
            assert set(entry["ap_by_iou"]) == {None}


@settings(max_examples=40, deadline=None)
@given(recordings, st.randoms(use_true_random=False))
def test_the_order_of_recordings_and_of_events_changes_nothing(pairs, random):
    moved = [tuple(random.sample(events, len(events)) for events in pair) for pair in pairs]
    random.shuffle(moved)
    first, second = score(pairs), score(moved)
    for name in METRICS:
        assert first[name] == pytest.approx(second[name])
        assert first[f"{name}_ci"] == pytest.approx(second[f"{name}_ci"], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(recordings)
def test_all_metrics_are_shares_inside_their_intervals_and_fit_results_json(pairs):
    metrics = score(pairs)
    for name in METRICS:
        value, interval = metrics[name], metrics[f"{name}_ci"]
        assert value is None or 0 <= value <= 1
        assert interval is None or 0 <= interval[0] <= value <= interval[1] <= 1
    assert TypeAdapter(TaskResults).validate_json(json.dumps(metrics)) == metrics


@settings(max_examples=40, deadline=None)
@given(st.lists(events, min_size=1, max_size=4))
def test_perfect_predictions_get_1(truths):
    metrics = score([(truth, truth) for truth in truths])
    for name in METRICS:
        measured = any(truths) or name in {"frame_accuracy", "edit"}
        assert metrics[name] == (pytest.approx(1) if measured else None), name


def test_nothing_predicted_and_nothing_to_predict_are_measured():
    event = Event(5, 10, 0)
    nothing = score([([event], [])])
    assert [nothing[name] for name in METRICS] == [pytest.approx(25 / 30), 0, 0, 0, 0, 0, 0, 0]
    superfluous = score([([], [event])])
    assert [superfluous[name] for name in METRICS] == [pytest.approx(25 / 30), None, 0, 0, 0, 0, None, None]
    empty = score([([], [])])
    assert [empty[name] for name in METRICS] == [1, None, 1, None, None, None, None, None]
    assert empty["frame_macro_f1_ci"] is None


def test_events_of_the_background_class_do_not_count():
    pairs = [([Event(0, 5, 1), Event(5, 9, 2)], [Event(0, 5, 1), Event(6, 20, 2)])]
    metrics = score(pairs, background=2)
    assert [metrics[name] for name in METRICS] == [1] * len(METRICS)
    assert metrics["classes"] == ["a", "b"] and metrics["num_events"] == 1
    assert edit_score([1, 2, 1], [1, 1], background=2) == 1
    assert edit_score([1, 2, 1], [1, 1]) == pytest.approx(2 / 3)


def test_few_recordings_give_wide_intervals_that_say_so():
    pair = ([Event(0, 5, 0), Event(9, 12, 1)], [Event(0, 5, 0), Event(20, 21, 1)])
    one, four, twenty = (score([pair] * count) for count in (1, 4, 20))
    assert "as wide as one independent trial leaves it" in one["interval"]
    assert "fewer than 5" in four["interval"] and "20 recordings" in twenty["interval"]
    width = [metrics["f1_50_ci"][1] - metrics["f1_50_ci"][0] for metrics in (one, four, twenty)]
    assert width[0] > 0.6 > width[1] > width[2]
    grouped = score([pair] * 20, groups=np.arange(20) // 5)
    assert "4 groups of recordings" in grouped["interval"]
    assert grouped["f1_50_ci"][1] - grouped["f1_50_ci"][0] > width[2]


def test_overlap_of_touching_and_empty_spans_is_0():
    spans = np.array([[0.0, 2], [2, 2], [1, 4]])
    assert temporal_iou(spans, spans).tolist() == [[1, 0, 0.25], [0, 0, 0], [0.25, 0, 1]]
    assert np.isnan(segmental_f1([[]], [[]])).all() and np.isnan(average_precisions([[]], [[]], 2)).all()
