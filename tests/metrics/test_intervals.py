"""Whether 95 % intervals hold the truth 95 times of 100, simulated with groups whose clips are alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from finetune.metrics.intervals import (
    interval_of_errors,
    interval_of_median,
    interval_of_shares,
    jackknife_units,
    leave_one_out_means,
    mean_interval,
    paired_difference,
    proportion_interval,
    transformed_interval,
    widen_for_pooled_folds,
)
from finetune.metrics.regression import score_regression

SIMULATIONS = 600


def zipf(groups, clips):
    """Sizes of groups that fall as 1, 1/2, 1/3, …, with about so many clips in all."""
    sizes = 1 / np.arange(1, groups + 1)
    return np.maximum(1, np.round(clips * sizes / sizes.sum())).astype(int)


def with_mean(rng, mean, alike, shape):
    """Rates in 0…1 whose clips correlate by `alike`."""
    if not alike:
        return np.full(shape, mean)
    return rng.beta(mean * (1 - alike) / alike, (1 - mean) * (1 - alike) / alike, shape)


def rows_of(sizes, counts_G):
    """For each row whether it is one of the first so many of its group; and the groups of rows."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place < counts_G[groups], groups


ONE_LARGE = np.append(60, np.ones(60, int))
FEW_LARGE = np.append(np.full(5, 20), np.full(50, 2))


@pytest.mark.parametrize(
    ("sizes", "rate", "alike"),
    [
        (np.full(5, 20), 0.8, 0.1),
        (np.full(8, 12), 0.85, 0.1),
        (np.full(20, 6), 0.8, 0.15),
        (np.full(40, 10), 0.95, 0.1),
        (np.full(30, 20), 0.7, 0.3),
        (np.full(120, 1), 0.95, 0),
        (ONE_LARGE, 0.8, 0.1),
        (ONE_LARGE, 0.8, 0.3),
        (np.append(30, np.ones(90, int)), 0.9, 0.1),
        (np.append(60, np.full(6, 10)), 0.7, 0.2),
        (FEW_LARGE, 0.7, 0.3),
        (zipf(10, 120), 0.8, 0.1),
        (zipf(20, 200), 0.9, 0.1),
        (zipf(60, 400), 0.8, 0.3),
        (zipf(200, 2000), 0.7, 0.3),
        (zipf(200, 2000), 0.95, 0.6),
    ],
)
def test_intervals_of_a_share_hold_the_truth_with_even_and_uneven_groups(sizes, rate, alike):
    rng, held, widths = np.random.default_rng(0), 0, []
    rates = with_mean(rng, rate, alike, (SIMULATIONS, len(sizes)))
    for right_G in rng.binomial(sizes, rates):
        low, high = interval_of_shares(*rows_of(sizes, right_G))
        held += low <= rate <= high
        widths.append(high - low)
    assert 0.925 <= held / SIMULATIONS <= 0.99
    shares = sizes / sizes.sum()
    known = 2 * 1.96 * np.sqrt(rate * (1 - rate) * (shares**2 * (alike + (1 - alike) / sizes)).sum())
    assert np.median(widths) < 1.6 * known  # of an interval that knew how alike clips are


def test_intervals_hold_the_truth_where_large_groups_are_harder():
    rng, held, sizes = np.random.default_rng(1), 0, zipf(30, 200)
    rate_G = 0.85 - 0.1 * (np.log(sizes) - np.log(sizes).mean())
    truth = (sizes * rate_G).sum() / sizes.sum()
    for _ in range(SIMULATIONS):
        low, high = interval_of_shares(*rows_of(sizes, rng.binomial(sizes, with_mean(rng, rate_G, 0.1, 30))))
        held += low <= truth <= high
    assert 0.925 <= held / SIMULATIONS <= 0.99


@pytest.mark.slow
def test_intervals_of_an_average_over_classes_hold_the_truth():
    from finetune.metrics.classification import score_multiclass

    rng, held, recalls = np.random.default_rng(1), 0, np.array([0.95, 0.8, 0.7])
    sizes = zipf(15, 90)
    groups = np.repeat(np.arange(15), sizes)
    for _ in range(150):
        labels = rng.integers(3, size=len(groups))
        skill = np.stack([with_mean(rng, recall, 0.15, 15) for recall in recalls])
        right = rng.random(len(groups)) < skill[labels, groups]
        probs = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
        low, high = score_multiclass(labels, probs, classes="abc", groups=groups)["macro_recall_ci"]
        held += low <= recalls.mean() <= high
    assert 0.91 <= held / 150 <= 1


@pytest.mark.parametrize(
    ("sizes", "differ", "to_other", "alike"),
    [
        (np.full(5, 20), 0.02, 1, 0.1),
        (np.full(20, 100), 0.01, 1, 0.1),
        (np.full(100, 1), 0.02, 1, 0),
        (np.full(100, 1), 0.005, 0.8, 0),
        (np.full(15, 8), 0.2, 0.8, 0.1),
        (np.full(40, 6), 0.3, 0.5, 0.2),
        (zipf(15, 120), 0.05, 1, 0.1),
        (ONE_LARGE, 0.05, 1, 0.1),
        (ONE_LARGE, 0.2, 0.5, 0.1),
    ],
)
def test_intervals_of_a_paired_difference_hold_the_truth_however_rarely_two_differ(sizes, differ, to_other, alike):
    rng, held, truth = np.random.default_rng(2), 0, differ * (2 * to_other - 1)
    for _ in range(SIMULATIONS):
        differing_G = rng.binomial(sizes, with_mean(rng, differ, alike, len(sizes)))
        differing, groups = rows_of(sizes, differing_G)
        other, _ = rows_of(sizes, rng.binomial(differing_G, to_other))
        low, high = paired_difference(other, differing & ~other, groups=groups)[1]
        held += low <= truth <= high
    assert held / SIMULATIONS >= 0.93


def test_two_that_agree_may_still_differ_by_three_in_as_many_clips():
    right = np.arange(300) % 7 > 0
    assert paired_difference(right, right, groups=None)[1] == pytest.approx((-0.01, 0.01), rel=0.01)
    low, high = paired_difference(right, right, groups=np.arange(300) // 10)[1]
    assert high == -low == pytest.approx(0.028, rel=0.02)  # as 107 clips, where those of a group correlate by 0.2
    stricter = paired_difference(right, right, groups=None, level=0.99)[1]
    assert stricter == pytest.approx((-0.0153, 0.0153), rel=0.01)
    assert paired_difference(right, right, groups=np.zeros(300))[1] == (-1, 1)


def test_six_clips_that_one_alone_has_right_are_evidence_and_five_are_not_as_with_mcnemars_test():
    right, low = np.arange(100) < 80, []
    for more in (5, 6):
        low.append(paired_difference(np.arange(100) < 80 + more, right, groups=None)[1][0])
    assert low[0] < 0 < low[1]


def test_where_two_differ_often_the_interval_is_the_usual_one():
    rng = np.random.default_rng(0)
    one, other = rng.random(2000) < 0.7, rng.random(2000) < 0.7
    difference, (low, high) = paired_difference(one, other, groups=None)
    usual = 1.96 * (one.astype(float) - other).std() / np.sqrt(2000)
    assert high - difference == difference - low == pytest.approx(usual, rel=0.02)


def fold_answers(rng, *, groups, size, numbers, folds):
    """Whether a linear classifier of each fold is right on rows that it did not learn from; their true accuracy."""
    group_N = np.repeat(np.arange(groups), size)
    signs = np.where(rng.random(len(group_N)) < 0.5, -1.0, 1.0)
    noise = np.sqrt(0.8) * rng.normal(size=(len(group_N), numbers))
    rows = noise + np.sqrt(0.2) * rng.normal(size=(groups, numbers))[group_N]
    rows[:, 0] += signs
    fold_N, right, truth = rng.permutation(np.arange(groups) % folds)[group_N], np.zeros(len(group_N), bool), []
    for fold in range(folds):
        learned = fold_N != fold
        inner = rows[learned].T @ rows[learned] + 10 * np.eye(numbers)
        weights = np.linalg.solve(inner, rows[learned].T @ signs[learned])
        right[~learned] = rows[~learned] @ weights * signs[~learned] > 0
        truth.append(norm.cdf(weights[0] / np.linalg.norm(weights)))
    return right, group_N, float(np.mean(truth))


@pytest.mark.slow
def test_intervals_of_pooled_folds_hold_what_such_models_reach_and_need_to_be_wider_for_it():
    rng = np.random.default_rng(0)
    answers = [fold_answers(rng, groups=30, size=4, numbers=50, folds=5) for _ in range(400)]
    expected = np.mean([truth for _, _, truth in answers])

    def held():
        ends = [interval_of_shares(right, groups) for right, groups, _ in answers]
        return np.mean([low <= expected <= high for low, high in ends])

    narrow = held()
    with widen_for_pooled_folds():
        assert 0.935 <= held() <= 0.99
    assert narrow < 0.935
    assert held() == narrow  # outside of it nothing has changed


def test_of_many_clips_the_interval_is_the_usual_one():
    values = np.random.default_rng(0).random(10_000)
    mean, (low, high) = mean_interval(values, None)
    assert mean == values.mean()
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 100, rel=0.05)
    assert (low + high) / 2 == pytest.approx(mean)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_an_interval_contains_its_share_and_stays_in_range(rows):
    groups, right = (np.array(column) for column in zip(*rows, strict=True))
    for units in (groups, None):
        low, high = interval_of_shares(right, units)
        assert 0 <= low <= right.mean() <= high <= 1
        assert interval_of_shares(~right, units) == pytest.approx([1 - high, 1 - low])
        difference, ends = paired_difference(right, np.roll(right, 1), groups=units)
        assert -1 <= ends[0] <= difference <= ends[1] <= 1


@given(st.integers(1, 30), st.integers(1, 8))
def test_the_order_and_the_names_of_groups_change_nothing(groups, size):
    rng = np.random.default_rng(groups)
    unit_of_row, right = rng.integers(groups, size=groups * size), rng.random(groups * size) < 0.8
    order = rng.permutation(len(right))
    names = np.array([f"group {90 - group}" for group in unit_of_row])
    assert interval_of_shares(right[order], names[order]) == pytest.approx(interval_of_shares(right, unit_of_row))


def test_the_lower_end_falls_gently_from_where_all_are_right_however_the_first_errors_are_spread():
    groups = np.arange(120) // 8

    def lows(rows_in_order):
        return [interval_of_shares(~np.isin(np.arange(120), rows_in_order[:wrong]), groups)[0] for wrong in range(9)]

    apart, together = lows(np.arange(15) * 8), lows(np.arange(120))
    assert apart == pytest.approx([0.906, 0.913, 0.910, 0.904, 0.897, 0.890, 0.883, 0.876, 0.869], abs=0.002)
    assert together[:5] == pytest.approx([0.906, 0.913, 0.891, 0.860, 0.826], abs=0.002)
    assert together[8] == pytest.approx(0.694, abs=0.002)  # a group that is wrong as a whole: others may be


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        (np.full(15, 8), 0.01),
        (np.full(40, 10), 0.01),
        (zipf(20, 200), 0.07),
        (zipf(200, 2000), 0.06),
        (ONE_LARGE, 0.12),
    ],
)
def test_a_better_result_hardly_has_a_lower_lower_end(sizes, most):
    rows, groups, falls = np.arange(sizes.sum()), np.repeat(np.arange(len(sizes)), sizes), []
    for seed in range(4):
        drawn = np.random.default_rng(seed).permutation(rows)
        lows = np.array([interval_of_shares(~np.isin(rows, drawn[:wrong]), groups)[0] for wrong in range(16)])
        falls.append((np.maximum.accumulate(lows[::-1])[::-1] - lows).max())
    assert max(falls) < most


def test_more_clips_and_more_even_groups_make_an_interval_narrower():
    def width(sizes):
        ends = interval_of_shares(*rows_of(sizes, np.round(0.75 * sizes + 0.2 * np.sin(np.arange(len(sizes)) * sizes))))
        return ends[1] - ends[0]

    assert width(np.full(40, 4)) < width(np.full(10, 16)) < width(np.full(5, 32))
    even = jackknife_units(np.arange(120) // 8, 120)
    uneven = jackknife_units(np.repeat(np.arange(61), ONE_LARGE), 120)
    assert (even.count, even.effective, uneven.count) == (15, pytest.approx(15), 61)
    assert uneven.effective == pytest.approx(120**2 / (60**2 + 60))
    assert even.trials == pytest.approx(120 / (1 + 7 * 0.2))


def test_a_single_group_leaves_nearly_all_open():
    low, high = interval_of_shares(np.arange(20) < 16, np.zeros(20))
    assert low < 0.2
    assert high > 0.95
    assert interval_of_shares(np.ones(20, bool), np.zeros(20)) == pytest.approx([0.2065, 1], abs=1e-3)
    assert interval_of_shares(np.ones(1, bool), None) == pytest.approx([0.2065, 1], abs=1e-3)


def test_a_figure_that_is_known_without_no_group_has_no_interval():
    assert proportion_interval(0.5, np.full(3, np.nan), jackknife_units(np.arange(3), 3)) is None


def test_very_many_rows_are_left_out_in_blocks_and_a_large_group_is_nearly_one():
    rng = np.random.default_rng(0)
    right = rng.random(50_000) < 0.9
    low, high = interval_of_shares(right, None)
    assert high - low == pytest.approx(2 * 1.96 * 0.3 / np.sqrt(50_000), rel=0.1)
    units = jackknife_units(np.append(np.zeros(20_000), np.arange(1, 20_001)), 40_000)
    assert units.count <= 2000 and units.effective == pytest.approx(4, rel=0.01)
    sizes = np.bincount(units.unit_of_row)
    assert sizes.max() < 20_200 and np.sort(sizes)[-2] <= 30
    assert (jackknife_units(None, 50_000).unit_of_row == jackknife_units(None, 50_000).unit_of_row).all()


def alike(rng, groups, *, share=0.2):
    """Normal numbers (N,) with mean 0 and deviation 1, alike within a group."""
    of_group = rng.normal(size=groups.max() + 1)[groups]
    return np.sqrt(share) * of_group + np.sqrt(1 - share) * rng.normal(size=len(groups))


@pytest.mark.parametrize(
    ("sizes", "slope", "noise"),
    [
        (np.full(8, 12), 0.8, 0.4),
        (np.full(20, 6), 0.3, 1.0),
        (zipf(20, 120), 1.0, 0.1),
        (np.full(60, 1), 0.6, 0.6),
        (np.append(30, np.ones(90, int)), 0.8, 0.4),
    ],
)
def test_intervals_of_correlation_r2_and_error_hold_the_truth(sizes, slope, noise):
    off = np.hypot(1 - slope, noise)  # the deviation of what is said from what is true, which is normal
    true = {"correlation": slope / np.hypot(slope, noise), "r2": 1 - off**2, "mae": off * np.sqrt(2 / np.pi)}
    rng, held, simulations = np.random.default_rng(3), dict.fromkeys(true, 0), 300
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(simulations):
        truth = alike(rng, groups)
        said = slope * truth + noise * alike(rng, groups)
        task = score_regression(truth[:, None], said[:, None], names=["a"], groups=groups, mean=None)
        for name, value in true.items():
            low, high = task[f"{name}_ci"]
            held[name] += low <= value <= high
    assert all(times / simulations >= 0.91 for times in held.values()), held


def test_intervals_of_skewed_errors_medians_and_shares_that_are_no_counts_hold_the_truth():
    rng, held, simulations = np.random.default_rng(4), np.zeros(3), 300
    groups = np.repeat(np.arange(20), zipf(20, 120))
    for _ in range(simulations):
        normal = alike(rng, groups)
        ends = (
            interval_of_errors(np.exp(0.7 * normal), groups),
            interval_of_shares(1 / (1 + np.exp(-normal)), groups),
            interval_of_median(np.exp(normal), groups),
        )
        held += [low <= value <= high for (low, high), value in zip(ends, (np.exp(0.245), 0.5, 1), strict=True)]
    assert (held / simulations >= 0.91).all(), held


def test_the_interval_of_a_median_is_of_values_that_there_are_and_unknown_for_a_single_group():
    values = np.arange(101.0)
    low, high = interval_of_median(values, None)
    assert (low + high) / 2 == pytest.approx(50, abs=1) and 8 < high - 50 < 14
    assert interval_of_median(values, np.zeros(101)) is None
    assert interval_of_median(np.full(50, 3.0), None) == [3, 3]


@pytest.mark.parametrize(
    ("scale", "value", "low", "high"),
    [("error", 0.01, 0, np.inf), ("correlation", 0.99, -1, 1), ("correlation", -0.99, -1, 1), ("r2", 0.99, -np.inf, 1)],
)
def test_an_interval_stays_where_its_figure_can_be(scale, value, low, high):
    left_out = value + np.random.default_rng(0).normal(0, 0.001, 10)
    ends = transformed_interval(scale, value, left_out, jackknife_units(np.arange(10), 10))
    assert low < ends[0] < value < ends[1] < high


@pytest.mark.parametrize("scale", ["error", "correlation", "r2"])
def test_where_leaving_out_tells_nothing_there_is_no_interval(scale):
    ten = jackknife_units(np.arange(10), 10)
    assert transformed_interval(scale, 0.5, np.full(10, 0.5), ten) is None
    assert transformed_interval(scale, 0.5, np.array([np.nan]), jackknife_units(np.zeros(5), 5)) is None
    assert transformed_interval(scale, 0.5, np.full(10, np.nan), ten) is None
    assert (
        transformed_interval(scale, 0.5, np.array([-9.0, 10.0]), jackknife_units(np.arange(2), 2)) is None
    )  # nothing to everything


def test_what_a_mean_is_without_a_group_is_the_mean_of_the_others():
    rng = np.random.default_rng(5)
    groups, values = rng.integers(6, size=40), rng.random(40)
    expected = [values[groups != group].mean() for group in np.unique(groups)]
    assert leave_one_out_means(values, jackknife_units(groups, 40)) == pytest.approx(expected)
