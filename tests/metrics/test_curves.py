"""Ranking and abstaining, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from finetune.metrics.curves import MANY_CLASSES, NUM_GRID_POINTS, accuracy_by_coverage, ap_and_auroc, ranking_curves

NAMES = [f"class {number}" for number in range(200)]


def drawn(num_rows=90, num_classes=4, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_rows)
    probs = rng.random((num_rows, num_classes)) + 0.5 * np.eye(num_classes)[labels]
    if levels:
        probs = np.round(probs * levels) / levels
    return np.eye(num_classes, dtype=bool)[labels], probs


@pytest.mark.parametrize("levels", [None, 4])
def test_areas_are_those_of_scikit_learn(levels):
    targets, probs = drawn(levels=levels)
    for code, found in enumerate(ap_and_auroc(targets, probs)):
        assert found["ap"] == pytest.approx(average_precision_score(targets[:, code], probs[:, code]))
        assert found["auroc"] == pytest.approx(roc_auc_score(targets[:, code], probs[:, code]))


def test_a_class_without_rows_has_no_area_and_one_that_all_rows_have_none_under_its_roc():
    targets = np.array([[1, 0, 1], [1, 0, 0]], dtype=bool)
    probs = np.array([[0.5, 0.1, 0.9], [0.2, 0.3, 0.4]])
    assert ap_and_auroc(targets, probs) == [
        {"ap": 1.0, "auroc": None},
        {"ap": None, "auroc": None},
        {"ap": 1.0, "auroc": 1.0},
    ]
    found = ranking_curves(targets, probs, NAMES[:3])
    assert [each["class"] for each in found["classes"]] == ["class 2"]
    nothing = ranking_curves(targets[:, :2], probs[:, :2], NAMES[:2])
    assert (nothing["precision"], nothing["recall"], nothing["classes"]) == ([], [], [])


def test_of_very_many_classes_there_is_average_precision_alone():
    targets, probs = drawn(150, MANY_CLASSES + 1)
    found = ap_and_auroc(targets, probs)
    assert {each["auroc"] for each in found} == {None}
    there = int(np.flatnonzero(targets.any(0))[0])
    assert found[there]["ap"] == pytest.approx(average_precision_score(targets[:, there], probs[:, there]))
    assert ranking_curves(targets, probs, NAMES[: MANY_CLASSES + 1])["precision"] == []


@pytest.mark.parametrize(("levels", "num_rows"), [(None, 90), (3, 90), (None, 7)])
def test_curves_go_through_the_points_of_scikit_learn(levels, num_rows):
    """At a recall the best of the lists that reach it first; at a rate of false alarms the last point up to it."""
    targets, probs = drawn(num_rows, levels=levels)
    found = ranking_curves(targets, probs, NAMES[:4])
    grid = np.array(found["grid"])
    assert grid.tolist() == [number / (NUM_GRID_POINTS - 1) for number in range(NUM_GRID_POINTS)]
    for each in found["classes"]:
        of_class = targets[:, NAMES.index(each["class"])], probs[:, NAMES.index(each["class"])]
        precision, recall, _ = precision_recall_curve(*of_class)
        for at, told in zip(grid[1:], each["precision"][1:], strict=True):
            reaching = np.flatnonzero(recall >= at)
            assert told == pytest.approx(precision[reaching[-1]], abs=1e-5), at
        false_alarms, found_share, _ = roc_curve(*of_class, drop_intermediate=False)
        for at, told in zip(grid, each["recall"], strict=True):
            assert told == pytest.approx(found_share[false_alarms <= at].max(), abs=1e-5), at
    for key in ("precision", "recall"):
        mean = np.mean([each[key] for each in found["classes"]], axis=0)
        assert found[key] == pytest.approx(mean, abs=2e-5)


def test_rows_that_are_equally_sure_are_points_of_the_roc_too():
    there = np.array([[True, False] * 4]).T
    sure = np.repeat([0.8, 0.6, 0.4, 0.2], 2)[:, None]
    found = ranking_curves(there, sure, ["a"])
    at_half = found["recall"][NUM_GRID_POINTS // 2]
    assert at_half == 0.5


def test_a_class_of_fifty_has_its_precision_at_each_fiftieth():
    rng = np.random.default_rng(0)
    there, sure = np.arange(120) < 50, rng.random(120)
    found = ranking_curves(there[:, None], sure[:, None], ["a"])
    right = np.cumsum(there[np.argsort(-sure)])
    wanted = [number / (np.argmax(right >= number) + 1) for number in range(1, 51)]
    assert found["classes"][0]["precision"][1:] == pytest.approx(wanted, abs=1e-5)


def test_abstaining_by_hand():
    sure = np.array([0.5, 0.9, 0.7, 0.9, 0.6])
    right = np.array([False, True, False, True, True])
    found = accuracy_by_coverage(sure, right, None)
    assert found["coverage"] == [0.4, 0.6, 0.8, 1.0]  # two rows are equally sure: they are answered together
    assert found["accuracy"] == [1.0, round(2 / 3, 5), 0.75, 0.6]
    by_share = {each["threshold"]: (each["coverage"], each["accuracy"]) for each in found["at"]}
    assert by_share[0.5] == (1.0, 0.6)
    assert by_share[0.6] == (0.8, 0.75)  # three quarters of five are four
    assert by_share[0.9] == (0.4, 1.0)  # a half of five are two
    assert len(found["at"]) == 4


def test_rows_that_are_all_equally_sure_are_answered_all_or_none():
    found = accuracy_by_coverage(np.full(8, 0.5), np.arange(8) < 6, None)
    assert (found["coverage"], found["accuracy"]) == ([1.0], [0.75])
    assert {(each["coverage"], each["accuracy"], each["threshold"]) for each in found["at"]} == {(1.0, 0.75, 0.5)}


def test_the_interval_of_what_is_answered_counts_its_groups_alone():
    rng = np.random.default_rng(0)
    sure, groups = rng.random(200), np.arange(200) // 20
    right = rng.random(200) < np.repeat(rng.random(10), 20)
    alone, grouped = (accuracy_by_coverage(sure, right, each)["at"] for each in (None, groups))
    for one, other in zip(alone, grouped, strict=True):
        assert one["accuracy"] == other["accuracy"]
        assert np.diff(one["accuracy_ci"]) < np.diff(other["accuracy_ci"])
        assert other["accuracy_ci"][0] <= other["accuracy"] <= other["accuracy_ci"][1]
    assert accuracy_by_coverage(np.array([0.4]), np.array([True]), np.array(["one"]))["at"][0]["accuracy"] == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.99]), st.booleans()), min_size=1, max_size=12))
def test_every_point_is_the_share_that_is_right_of_those_at_least_so_sure(rows):
    sure, right = (np.array(column) for column in zip(*rows, strict=True))
    found = accuracy_by_coverage(sure, right, None)
    wanted = [(float((sure >= mark).mean()), float(right[sure >= mark].mean())) for mark in np.unique(sure)[::-1]]
    assert found["coverage"] == pytest.approx([each[0] for each in wanted], abs=1e-5)
    assert found["accuracy"] == pytest.approx([each[1] for each in wanted], abs=1e-5)
    assert found["at"][0]["accuracy"] == pytest.approx(right.mean())
    for share, each in zip((1.0, 0.9, 0.75, 0.5), found["at"], strict=True):
        assert each["coverage"] >= min(1, max(1, round(share * len(sure))) / len(sure)) - 1e-9


def test_a_long_curve_has_a_few_hundred_points_and_both_ends():
    rng = np.random.default_rng(0)
    sure, right = rng.random(5000), rng.random(5000) < 0.5
    found = accuracy_by_coverage(sure, right, None)
    assert len(found["coverage"]) == len(found["accuracy"]) == 200
    assert (found["coverage"][0], found["coverage"][-1]) == (0.0002, 1.0)
    assert found["accuracy"][-1] == pytest.approx(right.mean(), abs=1e-5)
