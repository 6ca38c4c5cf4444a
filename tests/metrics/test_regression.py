import json

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from finetune.metrics.regression import mean_correlation, mean_r2, score_motion, score_regression

NAMES = ("a", "b", "c")


def drawn(num_rows=150, seed=0):
    """Three outputs of very unlike size and place; the last is not told at all."""
    rng = np.random.default_rng(seed)
    truth = rng.normal([0, 5000, -3], [1, 20, 0.01], (num_rows, 3))
    said = truth + rng.normal(0, [0.5, 8, 0.02], truth.shape)
    said[:, 2] = rng.permutation(said[:, 2])
    return truth, said


def test_figures_are_those_of_scikit_learn_and_scipy():
    truth, said = drawn()
    task = score_regression(truth, said, names=NAMES, groups=None, mean=(0, 5000, -3))
    assert task["r2"] == pytest.approx(r2_score(truth, said)) == mean_r2(truth, said)
    assert task["mae"] == pytest.approx(mean_absolute_error(truth, said))
    assert task["rmse"] == pytest.approx(root_mean_squared_error(truth, said))
    wanted = [pearsonr(truth[:, output], said[:, output]).statistic for output in range(3)]
    assert [row["correlation"] for row in task["per_output"]] == pytest.approx(wanted)
    assert task["correlation"] == pytest.approx(np.mean(wanted)) == mean_correlation(truth, said)
    for output, row in enumerate(task["per_output"]):
        assert row["name"] == NAMES[output]
        assert row["r2"] == pytest.approx(r2_score(truth[:, output], said[:, output]))
        assert row["mae"] == pytest.approx(mean_absolute_error(truth[:, output], said[:, output]))
        assert row["rmse"] == pytest.approx(root_mean_squared_error(truth[:, output], said[:, output]))
    assert task["r2"] < 0 < task["per_output"][0]["r2"]  # the one that is not told draws the mean down
    assert task["baseline"]["mae"] == pytest.approx(np.abs(truth - [0, 5000, -3]).mean())


def test_intervals_hold_their_figure_and_widen_with_grouping():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 15)
    truth = rng.normal(size=(180, 2))
    off_of_group = rng.normal(0, 0.6, (12, 2))
    said = truth + rng.normal(0, 0.3, (180, 2)) + off_of_group[groups]
    alone, grouped = (
        score_regression(truth, said, names=("a", "b"), groups=units, mean=None) for units in (None, groups.astype(str))
    )
    for name in ("r2", "mae", "correlation"):
        for task in (alone, grouped):
            assert task[f"{name}_ci"][0] < task[name] < task[f"{name}_ci"][1]
        assert np.ptp(grouped[f"{name}_ci"]) > 1.5 * np.ptp(alone[f"{name}_ci"])
    assert "baseline" not in alone


def test_of_many_rows_the_interval_of_a_correlation_is_fishers():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(4000, 1))
    said = truth + rng.normal(size=(4000, 1))
    task = score_regression(truth, said, names=("a",), groups=None, mean=None)
    wanted = pearsonr(truth[:, 0], said[:, 0]).confidence_interval(0.95)
    assert task["correlation_ci"] == pytest.approx([wanted.low, wanted.high], abs=0.002)


@pytest.mark.parametrize("place", [0.0, 0.1, 1e6])
def test_what_is_constant_has_a_correlation_of_0(place):
    truth, said = drawn()
    same = np.full_like(truth, place)
    assert mean_correlation(truth, same.astype(np.float32)) == 0
    assert mean_correlation(same, said) == mean_r2(same, said) == mean_r2(same, same) == 0
    task = score_regression(truth, np.column_stack([said[:, :1], same[:, 1:]]), names=NAMES, groups=None, mean=None)
    assert [row["correlation"] for row in task["per_output"][1:]] == [0, 0]
    assert task["correlation_ci"][0] < task["correlation"] < 0.34
    assert json.dumps(task, allow_nan=False)


def test_a_small_deviation_of_large_numbers_is_one():
    seconds = 1_700_000_000 + np.arange(50.0)[:, None]
    assert mean_r2(seconds, seconds + 0.5) == pytest.approx(1 - 0.25 / np.arange(50).var())
    assert mean_correlation(seconds, np.arange(50.0)[:, None]) == pytest.approx(1)


@pytest.mark.parametrize("groups", [None, np.array(["one"])])
def test_of_one_row_nothing_is_known_but_its_error(groups):
    task = score_regression(np.array([[3.0]]), np.array([[5.0]]), names=("a",), groups=groups, mean=[4.0])
    assert (task["mae"], task["rmse"], task["r2"], task["correlation"]) == (2, 2, 0, 0)
    assert task["mae_ci"] is task["r2_ci"] is task["correlation_ci"] is None
    assert task["baseline"] == {"mae": 1}
    assert task["per_output"][0]["points"] == [[3, 5]]
    motion = score_motion(np.array([[3.0, 4.0]]), np.array([[0.0, 0.0]]), names=("dx", "dy"), groups=groups, mean=None)
    assert (motion["endpoint_error"], motion["angle_error"]) == (5, 90)
    assert json.loads(json.dumps([task, motion], allow_nan=False)) == [task, motion]


def test_perfect_answers_have_no_interval_but_a_figure():
    truth, _ = drawn()
    task = score_regression(truth, truth, names=NAMES, groups=None, mean=None)
    assert (task["r2"], task["mae"]) == (1, 0)
    assert task["correlation"] == pytest.approx(1)
    assert json.dumps(task, allow_nan=False)


def test_points_are_spread_evenly_and_at_most_500():
    truth = np.arange(1777.0)[:, None]
    points = score_regression(truth, truth + 1, names=("a",), groups=None, mean=None)["per_output"][0]["points"]
    assert len(points) == 500
    assert (points[0], points[-1]) == ([0, 1], [1776, 1777])
    assert {int(step) for step in np.diff([true for true, _ in points])} == {3, 4}


def test_movements_worked_by_hand():
    truth = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.05, 0.0], [3.0, 3.0]])
    said = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [-5.0, 0.0], [3.0, 3.0]])
    task = score_motion(truth, said, names=("dx", "dy"), groups=None, mean=(0, 0))
    assert task["endpoint_error"] == pytest.approx((1 + 1 + 2 + 5.05 + 0) / 5)
    assert task["angle_error"] == pytest.approx((0 + 45) / 2)  # of 45, 0, 180 and 0; the fourth hardly moves
    assert task["baseline"]["endpoint_error"] == pytest.approx((1 + 2 + 1 + 0.05 + 18**0.5) / 5)
    assert task["r2"] == pytest.approx(r2_score(truth, said))
    wanted = [pearsonr(truth[:, output], said[:, output]).statistic for output in range(2)]
    assert task["correlation"] == pytest.approx(np.mean(wanted))
    assert [set(row) for row in task["per_output"]] == [{"name", "correlation", "mae", "r2", "points"}] * 2


def test_intervals_of_movements_hold_their_figure():
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 2, (120, 2))
    said = truth + rng.normal(0, 1, (120, 2))
    task = score_motion(truth, said, names=("dx", "dy"), groups=np.arange(120) // 8, mean=None)
    for name in ("correlation", "endpoint_error", "angle_error"):
        assert task[f"{name}_ci"][0] < task[name] < task[f"{name}_ci"][1]


def test_where_nothing_moves_there_is_no_angle():
    still = np.full((4, 2), 0.01)
    task = score_motion(still, still + 1, names=("dx", "dy"), groups=None, mean=None)
    assert task["angle_error"] is task["angle_error_ci"] is None
    assert task["correlation"] == 0
