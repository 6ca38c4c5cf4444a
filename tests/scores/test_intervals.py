"""Whether 95 % intervals hold the truth 95 times of 100, simulated with groups whose clips are alike."""

import numpy as np
import pytest

from finetune.scores.intervals import (
    interval_of,
    interval_of_errors,
    interval_of_shares,
    interval_on,
    mean_interval,
    paired_difference,
    resampled_counts,
    resampled_means,
    resampled_medians,
    resampled_sums,
)
from finetune.scores.numbers import score_numbers

SIMULATIONS, RESAMPLES = 2000, 200


def groups_drawn(rng, number, size, rate, alike):
    """How many clips of each group are right, and how many there are; `alike` is their correlation in a group."""
    rates = rng.beta(rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike, number)
    sizes = rng.poisson(size - 1, number) + 1
    return rng.binomial(sizes, rates), sizes


@pytest.mark.parametrize(
    ("groups", "size", "rate", "alike"),
    [
        (5, 20, 0.8, 0.1),
        (8, 12, 0.85, 0.1),
        (20, 6, 0.8, 0.15),
        (40, 6, 0.85, 0.1),
        (40, 10, 0.95, 0.1),
        (30, 20, 0.7, 0.3),
    ],
)
def test_intervals_of_a_share_hold_the_truth(groups, size, rate, alike):
    rng, held = np.random.default_rng(0), 0
    for simulation in range(SIMULATIONS):
        right, sizes = groups_drawn(rng, groups, size, rate, alike)
        means = resampled_means(right, sizes, resamples=RESAMPLES, seed=simulation)
        low, high = interval_of(right.sum() / sizes.sum(), means, groups)
        held += low <= rate <= high
    assert 0.93 <= held / SIMULATIONS <= 0.97


def test_intervals_of_an_average_over_classes_hold_the_truth():
    rng, held, rates = np.random.default_rng(1), 0, np.array([0.95, 0.8, 0.7, 0.5])
    for _ in range(SIMULATIONS):
        right_GK, sizes_GK = np.stack([groups_drawn(rng, 25, 3, rate, 0.15) for rate in rates], 2)
        weights_RG = rng.multinomial(25, np.full(25, 1 / 25), size=RESAMPLES)
        drawn = (weights_RG @ right_GK / (weights_RG @ sizes_GK)).mean(1)
        low, high = interval_of((right_GK.sum(0) / sizes_GK.sum(0)).mean(), drawn, 25)
        held += low <= rates.mean() <= high
    assert 0.93 <= held / SIMULATIONS <= 0.97


def test_intervals_of_a_paired_difference_hold_the_truth():
    rng, held = np.random.default_rng(2), 0
    for _ in range(SIMULATIONS):
        groups = np.repeat(np.arange(15), 6)
        skill = rng.normal(0.75, 0.1, 15)[groups]  # a hard group is hard for both
        one, other = (rng.random(90) < np.clip(skill + gain, 0, 1) for gain in (0.05, -0.05))
        low, high = paired_difference(one, other, groups=groups)[1]
        held += low <= 0.1 <= high
    assert 0.93 <= held / SIMULATIONS <= 0.97


def test_of_many_clips_the_interval_is_the_usual_one():
    values = np.random.default_rng(0).random(10_000)
    mean, (low, high) = mean_interval(values, None)
    assert mean == values.mean()
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 100, rel=0.05)
    assert (low + high) / 2 == pytest.approx(mean)


def test_a_single_group_leaves_nearly_all_open():
    low, high = interval_of(0.8, np.full(100, 0.8), 1)
    assert low < 0.2
    assert high > 0.95


def test_no_resample_no_interval():
    assert interval_of(0.0, np.full(10, np.nan), 3) is None


def alike(rng, groups, *, share=0.2):
    """Normal numbers (N,) with mean 0 and deviation 1, alike within a group."""
    of_group = rng.normal(size=groups.max() + 1)[groups]
    return np.sqrt(share) * of_group + np.sqrt(1 - share) * rng.normal(size=len(groups))


@pytest.mark.parametrize(
    ("num_groups", "size", "slope", "noise"),
    [(8, 12, 0.8, 0.4), (20, 6, 0.3, 1.0), (20, 6, 1.0, 0.1), (60, 1, 0.6, 0.6)],
)
def test_intervals_of_correlation_r2_and_error_hold_the_truth(num_groups, size, slope, noise):
    off = np.hypot(1 - slope, noise)  # the deviation of what is said from what is true, which is normal
    true = {"correlation": slope / np.hypot(slope, noise), "r2": 1 - off**2, "mae": off * np.sqrt(2 / np.pi)}
    rng, held, simulations = np.random.default_rng(3), dict.fromkeys(true, 0), 200
    for _ in range(simulations):
        groups = np.repeat(np.arange(num_groups), rng.poisson(size - 1, num_groups) + 1)
        truth = alike(rng, groups)
        said = slope * truth + noise * alike(rng, groups)
        task = score_numbers(truth[:, None], said[:, None], names=["a"], groups=groups, mean=None)
        for name, value in true.items():
            low, high = task[f"{name}_ci"]
            held[name] += low <= value <= high
    assert all(0.90 <= times / simulations <= 0.985 for times in held.values()), held


def test_intervals_of_skewed_errors_and_of_shares_that_are_no_counts_hold_the_truth():
    rng, held, simulations = np.random.default_rng(4), np.zeros(2), 250
    for _ in range(simulations):
        groups = np.repeat(np.arange(20), rng.poisson(5, 20) + 1)
        normal = alike(rng, groups)
        ends = interval_of_errors(np.exp(0.7 * normal), groups), interval_of_shares(1 / (1 + np.exp(-normal)), groups)
        held += [low <= value <= high for (low, high), value in zip(ends, (np.exp(0.245), 0.5), strict=True)]
    assert (held / simulations >= 0.90).all() and (held / simulations <= 0.985).all()


@pytest.mark.parametrize(
    ("scale", "value", "low", "high"),
    [("error", 0.01, 0, np.inf), ("correlation", 0.99, -1, 1), ("correlation", -0.99, -1, 1), ("r2", 0.99, -np.inf, 1)],
)
def test_an_interval_stays_where_its_figure_can_be(scale, value, low, high):
    drawn = value + np.random.default_rng(0).normal(0, 0.004, 200)
    found = interval_on(scale, value, drawn, 10)
    assert low < found[0] < value < found[1] < high


@pytest.mark.parametrize("scale", ["error", "correlation", "r2"])
def test_where_resamples_tell_nothing_there_is_no_interval(scale):
    assert interval_on(scale, 0.5, np.full(10, 0.5), 10) is None
    assert interval_on(scale, 0.5, np.array([0.4, 0.6]), 1) is None
    assert interval_on(scale, 0.5, np.full(10, np.nan), 10) is None
    assert interval_on(scale, 0.5, np.array([-9.0, 10.0]), 2) is None  # anything between nothing and everything


def test_sums_and_medians_of_a_resample_are_those_of_its_rows():
    rng = np.random.default_rng(5)
    units, values = rng.integers(6, size=40), rng.random(40)
    units[:6] = np.arange(6)
    sums = np.column_stack([np.bincount(units, values), np.bincount(units)])
    (counts,) = resampled_counts(6, numbers=6)
    assert counts.shape == (2000, 6) and (counts.sum(1) == 6).all()
    assert resampled_sums(sums) == pytest.approx(counts @ sums)
    assert (resampled_sums(sums)[:, 0] / resampled_sums(sums)[:, 1]) == pytest.approx(resampled_means(*sums.T))
    (same,) = resampled_counts(6, numbers=40)
    for each, median in zip(same[:50], resampled_medians(values, units, 6), strict=False):
        assert median == pytest.approx(np.median(np.repeat(values, each[units])))
