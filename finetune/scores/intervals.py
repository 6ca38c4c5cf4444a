"""95 % intervals of figures, by a bootstrap over groups: clips of one group are alike, so they are drawn together."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t

RESAMPLES, FEWER = 2000, 200  # fewer give the deviation to a twentieth, which is enough where each takes long
MOST_NUMBERS = 20_000  # that a resample goes through where RESAMPLES are drawn
Z = 1.959964  # of 95 % of a normal distribution
WIDEST = 10.0  # steps of a logarithm to each side: an error that may be 20,000 times as large is not known

Scale = Literal["error", "correlation", "r2"]


class _Scale(NamedTuple):
    """Where a figure can be, and how it gets onto a scale without ends, the slope there, and back."""

    low: float
    high: float
    onto: Callable[[float], float]
    slope: Callable[[float], float]
    back: Callable[[float], float]


_SCALES: dict[Scale, _Scale] = {
    "error": _Scale(0, math.inf, math.log, lambda value: 1 / value, math.exp),
    "correlation": _Scale(-1, 1, math.atanh, lambda value: 1 / (1 - value**2), math.tanh),  # Fisher's z
    "r2": _Scale(
        -math.inf, 1, lambda value: -math.log(1 - value), lambda value: 1 / (1 - value), lambda z: 1 - math.exp(-z)
    ),
}


def units_of(groups: np.ndarray | None, rows: int) -> tuple[np.ndarray, int]:
    """The unit of each row that a resample draws as a whole, numbered from 0, and how many there are."""
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    return units, int(units.max()) + 1


def interval_of(value: float, drawn: np.ndarray, num_units: int) -> list[float] | None:
    """The interval of a figure in 0…1, from what it was in resamples of so many units; None where it was in none.

    Its ends are `reach_of` the figure on the scale of log odds, on which a share near 0 or 1 is as uncertain upwards as
    downwards. Percentiles of the resamples would be too narrow: with 5 groups they hold the truth 83 times of 100,
    these 96, and in seven designs 94 to 97 (benchmarks/intervals.py). Where all resamples are alike, Wilson's interval
    for as many trials as there are units.
    """
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None
    reach = reach_of(drawn, num_units)
    if not reach or not 0 < value < 1:
        return _wilson(value, num_units)
    odds, steps = math.log(value / (1 - value)), reach / (value * (1 - value))
    return [_share(odds - steps), _share(odds + steps)]


def interval_on(scale: Scale, value: float, drawn: np.ndarray, num_units: int) -> list[float] | None:
    """The interval of a figure that is no share: an error above 0, a correlation in -1…1, or R² below 1.

    Its ends are `reach_of` the figure on a scale without ends: the logarithm of an error, Fisher's z of a correlation,
    the logarithm of 1 - R², so that none lies where the figure cannot be. They hold the truth 92 to 96 times of 100 in
    simulations with 5 to 100 groups. None where resamples are all alike, as those of one group are, or tell nothing.
    """
    drawn, on = drawn[~np.isnan(drawn)], _SCALES[scale]
    if not len(drawn) or not on.low < value < on.high:
        return None
    place, steps = on.onto(value), reach_of(drawn, num_units) * on.slope(value)
    return [on.back(place - steps), on.back(place + steps)] if 0 < steps < WIDEST else None


def interval_of_shares(shares_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the mean of what is in 0…1 for each row, or is true or not."""
    units, num_units = units_of(groups, len(shares_N))
    drawn = resampled_means(np.bincount(units, shares_N), np.bincount(units))
    return interval_of(float(shares_N.mean()), drawn, num_units)


def interval_of_errors(errors_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the mean of an error of each row, of any size."""
    units, num_units = units_of(groups, len(errors_N))
    drawn = resampled_means(np.bincount(units, errors_N), np.bincount(units))
    return interval_on("error", float(errors_N.mean()), drawn, num_units)


def reach_of(drawn: np.ndarray, num_units: int, *, level: float = 0.95) -> float:
    """How far an interval reaches to each side, from a figure's resamples; 0 where they are all alike.

    Their standard deviation, times √(n/(n-1)) as a resample of n units varies too little, times the quantile of
    Student's t with n-1 degrees. Source: Hesterberg (2015), arXiv:1411.5279.
    """
    deviation = float(drawn.std())
    if num_units < 2 or deviation < 1e-12:
        return 0.0
    return deviation * math.sqrt(num_units / (num_units - 1)) * float(t.ppf(0.5 + level / 2, num_units - 1))


def resamples_of(numbers: int) -> int:
    """How many resamples are drawn where each goes through so many numbers."""
    return RESAMPLES if numbers <= MOST_NUMBERS else FEWER


def mean_interval(
    values_N: np.ndarray, groups: np.ndarray | None, *, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The mean of a number of each row, of any size, with its interval; without bounds where that is not known.

    Of a number that is the same in all rows there is nothing to learn but that others are rare: at most 3 of as many
    (the rule of three), unless it is 0, as where two models gave the same answers.
    """
    units, num_units = units_of(groups, len(values_N))
    sums, sizes = np.bincount(units, values_N), np.bincount(units)
    mean = float(values_N.mean())
    if not values_N.any():
        return 0.0, (0.0, 0.0)
    if num_units < 2:
        return mean, (-math.inf, math.inf)
    reach = reach_of(resampled_means(sums, sizes), num_units, level=level) or 3 / num_units
    return mean, (mean - reach, mean + reach)


def resampled_means(sums: np.ndarray, sizes: np.ndarray, *, resamples: int | None = None, seed: int = 0) -> np.ndarray:
    """The mean in each resample of units, of which the sum and the number of rows are given."""
    rng, num_units = np.random.default_rng(seed), len(sums)
    resamples = resamples or resamples_of(num_units)
    means = np.empty(resamples)
    at_once = max(1, 2_000_000 // num_units)
    for start in range(0, resamples, at_once):
        drawn = rng.integers(num_units, size=(min(at_once, resamples - start), num_units))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return means


def resampled_counts(num_units: int, *, numbers: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each resample has each unit, (some resamples, units) at a time; `numbers` as in `resamples_of`."""
    rng, resamples = np.random.default_rng(seed), resamples_of(numbers)
    at_once = max(1, 2_000_000 // num_units)
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        drawn = rng.integers(num_units, size=(some, num_units)) + num_units * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * num_units).reshape(some, num_units)


def resampled_sums(sums_UF: np.ndarray) -> np.ndarray:
    """The sums over the rows of each resample (R, F), from those over the rows of each unit."""
    return np.concatenate([counts @ sums_UF for counts in resampled_counts(len(sums_UF), numbers=len(sums_UF))])


def resampled_medians(values_N: np.ndarray, units: np.ndarray, num_units: int) -> np.ndarray:
    """The median of the rows of each resample of units."""
    order = np.argsort(values_N)
    rising, units, medians = values_N[order], units[order], []
    for some in resampled_counts(num_units, numbers=len(values_N)):
        for counts in some:
            upto = np.cumsum(counts[units])
            middle = [np.searchsorted(upto, upto[-1] / 2, side=side) for side in ("left", "right")]
            medians.append(rising[middle].mean())
    return np.array(medians)


def paired_difference(
    right_N: np.ndarray, other_N: np.ndarray, *, groups: np.ndarray | None, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """How much more often one is right than another on the same rows, with its interval.

    `right_N` and `other_N` are true where a row was right. Units are groups, or rows where there are none.
    """
    difference, (low, high) = mean_interval(right_N.astype(float) - other_N, groups, level=level)
    return difference, (max(-1.0, low), min(1.0, high))


def _share(odds: float) -> float:
    """From log odds."""
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


def _wilson(share: float, trials: int) -> list[float]:
    """Wilson's interval (1927), for a share that need not be a whole number of trials."""
    center = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return [float(max(0.0, min(share, center - half))), float(min(1.0, max(share, center + half)))]
