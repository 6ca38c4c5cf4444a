"""How sure against how often right: against scikit-learn, by hand, and temperatures that the test chose."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as log_loss_of_sklearn

from finetune.metrics.calibration import apply_temperature, calibration_metrics, fit_temperature, log_loss


def drawn(num_rows=400, num_classes=5, temperature=1.0, seed=0):
    """Labels drawn by the very probabilities that the logits give, and these logits made so many times as large."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, num_classes))
    steps = softmax(logits, axis=1).cumsum(1)
    labels = (rng.random((num_rows, 1)) > steps).sum(1).clip(max=num_classes - 1)
    return labels, temperature * logits


def test_a_case_worked_by_hand():
    labels = np.array([0, 0, 1, 1])
    probs = np.array([[0.95, 0.05], [0.65, 0.35], [0.62, 0.38], [0.2, 0.8]])
    found = calibration_metrics(labels, probs, None)
    in_words = [(each["low"], each["high"], each["count"]) for each in found["bins"]]
    assert in_words == [(0.6, 0.7, 2), (0.8, 0.9, 1), (0.9, 1.0, 1)]
    assert [each["right"] for each in found["bins"]] == [0.5, 1, 1]
    assert [each["sure"] for each in found["bins"]] == pytest.approx([0.635, 0.8, 0.95])
    assert found["ece"] == pytest.approx((2 * 0.135 + 0.2 + 0.05) / 4)
    assert found["brier"] == pytest.approx(2 * (0.05**2 + 0.35**2 + 0.62**2 + 0.2**2) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.95, 0.65, 0.38, 0.8]).mean())
    assert found["gap"] == pytest.approx((0.95 + 0.65 + 0.62 + 0.8) / 4 - 0.75)


def test_figures_are_those_of_scikit_learn():
    labels, logits = drawn()
    probs = softmax(logits, axis=1)
    found, sure, right = calibration_metrics(labels, probs, None), probs.max(1), probs.argmax(1) == labels
    of_sklearn = calibration_curve(right, sure, n_bins=10)
    assert [each["right"] for each in found["bins"]] == pytest.approx(of_sklearn[0])
    assert [each["sure"] for each in found["bins"]] == pytest.approx(of_sklearn[1])
    counts = [each["count"] for each in found["bins"]]
    assert sum(counts) == 400
    assert found["ece"] == pytest.approx(np.average(np.abs(of_sklearn[0] - of_sklearn[1]), weights=counts))
    of_classes = [brier_score_loss(labels == code, probs[:, code]) for code in range(5)]
    assert found["brier"] == pytest.approx(sum(of_classes))
    assert found["log_loss"] == pytest.approx(log_loss_of_sklearn(labels, probs, labels=range(5)))
    assert found["brier_ci"][0] < found["brier"] < found["brier_ci"][1]


def test_of_several_classes_each_counts_by_itself():
    rng = np.random.default_rng(0)
    probs = rng.random((200, 3))
    there = rng.random((200, 3)) < probs
    found = calibration_metrics(there, probs, None)
    of_sklearn = calibration_curve(there.ravel(), probs.ravel(), n_bins=10)
    assert [each["right"] for each in found["bins"]] == pytest.approx(of_sklearn[0])
    assert sum(each["count"] for each in found["bins"]) == 600
    assert found["brier"] == pytest.approx(3 * brier_score_loss(there.ravel(), probs.ravel()))
    assert found["log_loss"] == pytest.approx(log_loss_of_sklearn(there.ravel(), probs.ravel()))
    assert found["gap"] == pytest.approx(probs.mean() - there.mean())


def test_a_model_as_sure_as_right_stays_under_what_chance_gives_and_a_too_sure_one_does_not():
    under, held = 0, 0
    for seed in range(40):
        labels, logits = drawn(300, seed=seed)
        found = calibration_metrics(labels, softmax(logits, axis=1), None)
        under += found["ece"] <= found["ece_by_chance"]
        held += found["gap_ci"][0] <= 0 <= found["gap_ci"][1]
    assert under >= 36 and held >= 35  # 38 of each are expected
    labels, logits = drawn(300, temperature=4)
    found = calibration_metrics(labels, softmax(logits, axis=1), None)
    assert found["ece"] > 2 * found["ece_by_chance"]
    assert found["gap_ci"][0] > 0.05


def test_what_chance_gives_falls_with_the_root_of_the_rows_beyond_those_that_are_drawn():
    rng = np.random.default_rng(0)
    found = {}
    for rows in (5_000, 80_000):
        probs = rng.random((rows, 1))
        found[rows] = calibration_metrics(rng.random((rows, 1)) < probs, probs, None)["ece_by_chance"]
    assert found[80_000] == pytest.approx(found[5_000] / 4, rel=0.1)


def test_the_interval_of_the_gap_is_that_of_whole_groups():
    labels, logits = drawn(200)
    groups = np.arange(200) // 20
    probs = softmax(logits, axis=1)
    probs[groups < 3] = np.eye(5)[(labels[groups < 3] + 1) % 5]  # whole groups are wrong, and sure of it
    alone, grouped = (calibration_metrics(labels, probs, each)["gap_ci"] for each in (None, groups))
    assert grouped[0] < alone[0] < alone[1] < grouped[1]


def test_of_one_group_nothing_is_known_of_the_gap_and_results_are_still_json():
    labels, logits = drawn(30)
    found = calibration_metrics(labels, softmax(logits, axis=1), np.zeros(30, dtype=int))
    assert found["gap_ci"] == [-1, 1]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_a_model_was_spoilt_by_is_found(temperature):
    labels, logits = drawn(5000, temperature=temperature)
    assert fit_temperature(labels, softmax(logits, axis=1)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_it_is_found_of_several_classes_too(temperature):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(2500, 2))
    there = rng.random(logits.shape) < expit(logits)
    assert fit_temperature(there, expit(temperature * logits)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("num_rows", [12, 300])
def test_no_other_temperature_has_a_lower_loss(num_rows):
    labels, logits = drawn(num_rows, temperature=1.7, seed=3)
    grid = np.linspace(-3, 3, 6001)
    losses = [
        num_rows * log_loss_of_sklearn(labels, softmax(logits / np.exp(each), axis=1), labels=range(5)) + each**2 / 2
        for each in grid[::20]
    ]
    near = grid[::20][np.argmin(losses)]

    def loss(each):
        probs = softmax(logits / np.exp(each), axis=1)
        return num_rows * log_loss_of_sklearn(labels, probs, labels=range(5)) + each**2 / 2

    finest = minimize_scalar(loss, bounds=(near - 0.02, near + 0.02), method="bounded", options={"xatol": 1e-6}).x
    assert fit_temperature(labels, softmax(logits, axis=1)) == pytest.approx(np.exp(finest), abs=1e-3)


@pytest.mark.parametrize("rows", [1, 4, 20])
def test_few_rows_that_are_all_right_ask_for_no_extreme(rows):
    labels = np.arange(rows) % 3
    probs = np.full((rows, 3), 0.1)
    probs[np.arange(rows), labels] = 0.8
    assert 0.15 < fit_temperature(labels, probs) < 1
    assert fit_temperature(labels, np.eye(3)[labels]) == pytest.approx(1, abs=0.05)  # nothing left to gain
    assert 1 < fit_temperature(labels, np.eye(3)[(labels + 1) % 3]) < 20.1  # exp(3): all sure and all wrong


def test_the_order_of_rows_moves_the_temperature_by_nothing():
    labels, logits = drawn(200, temperature=2)
    probs, order = softmax(logits, axis=1), np.random.default_rng(1).permutation(200)
    assert fit_temperature(labels[order], probs[order]) == pytest.approx(fit_temperature(labels, probs), abs=2e-4)


@settings(max_examples=60, deadline=None)
@given(
    logits=arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.floats(-6, 6)),
    temperature=st.floats(0.3, 20),
)
def test_tempered_probabilities_are_those_of_divided_logits_and_name_the_same_class(logits, temperature):
    probs = softmax(logits, axis=1)
    found = apply_temperature(probs, temperature)
    np.testing.assert_allclose(found, softmax(logits / temperature, axis=1), atol=1e-6)
    for before, after in zip(probs, found, strict=True):
        rising = np.argsort(before, kind="stable")
        assert (np.diff(after[rising]) >= -1e-12).all()
    each = apply_temperature(expit(logits), temperature, multilabel=True)
    np.testing.assert_allclose(each, expit(logits / temperature), atol=1e-6)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_certain_probabilities_stay_numbers(multilabel, temperature):
    probs = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    found = apply_temperature(probs, temperature, multilabel=multilabel)
    assert np.isfinite(found).all() and ((found >= 0) & (found <= 1)).all()
    assert (found.argmax(1) == probs.argmax(1)).all()
    truth = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool) if multilabel else np.array([0, 1, 0])
    assert np.isfinite(log_loss(truth, probs))
    told = calibration_metrics(truth, probs, None)
    json.dumps(told, allow_nan=False)
    assert np.isfinite(fit_temperature(truth, probs))


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 50), elements=st.floats(0, 1)), st.randoms(use_true_random=False))
def test_bins_hold_each_row_once_and_add_up_to_the_error(sure, random):
    there = np.array([[random.random() < 0.5] for _ in sure])
    found = calibration_metrics(there, sure[:, None], None)
    assert sum(each["count"] for each in found["bins"]) == len(sure)
    for each in found["bins"]:
        assert each["low"] - 1e-9 <= each["sure"] <= each["high"] + 1e-9
    apart = [each["count"] * abs(each["sure"] - each["right"]) for each in found["bins"]]
    assert found["ece"] == pytest.approx(sum(apart) / len(sure), abs=1e-9)
    assert found["ece"] >= abs(found["gap"]) - 1e-9
