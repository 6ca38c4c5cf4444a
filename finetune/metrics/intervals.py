"""95 % confidence intervals of metrics, by a jackknife over groups: clips of a group correlate, so a group is one unit.

An interval is for the metric's value on an infinite population of groups like the tested ones, with the same
distribution of sizes; for accuracy, the share of correct clips among all clips of such groups.

`interval_of_shares` is for means of values in 0…1, such as top-1; `proportion_interval` for other metrics in 0…1;
`transformed_interval` for errors, correlations and R²; `paired_difference` for differences. All of them take the units
of `jackknife_units`. Suffixes: N rows, U units.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

MAX_UNITS, MAX_UNITS_MANY_NUMBERS = (
    2000,
    200,
)  # at most so many units are left out one by one; fewer where each takes long
MAX_NUMBERS = 200_000  # of values in a metric, up to which MAX_UNITS are left out
ASSUMED_ICC = 0.2  # intraclass correlation (ICC) that is assumed for differences that were not observed
# For proportions: the prior intraclass correlation, its weight in groups and in degrees of freedom, and the largest
# weight of the jackknife's variance. With these values, coverage held in most of the simulated designs.
PRIOR_ICC, PRIOR_GROUPS, PRIOR_DEGREES, JACKKNIFE = 0.25, 2, 6, 0.8
FOLD_ERROR_FACTOR = (
    1.3  # standard errors of pooled folds are larger by this factor, by simulation with logistic regression
)
FOLD_ERROR_NOTE = (
    f"for standard errors {FOLD_ERROR_FACTOR:g} times as large, as the models of the folds share training clips"
)
Z = 1.959964  # quantile of a normal distribution for a 95 % interval
WIDEST = 10.0  # half-width on a log scale: an error that may be 20,000 times as large is unknown

TransformName = Literal["error", "correlation", "r2"]
_error_factor: ContextVar[float] = ContextVar("_widening", default=1.0)


class _Transform(NamedTuple):
    """The range of a metric, a map onto an unbounded scale, its slope, and its inverse."""

    low: float
    high: float
    onto: Callable[[float], float]
    slope: Callable[[float], float]
    back: Callable[[float], float]


_TRANSFORMS: dict[TransformName, _Transform] = {
    "error": _Transform(0, math.inf, math.log, lambda value: 1 / value, math.exp),
    "correlation": _Transform(-1, 1, math.atanh, lambda value: 1 / (1 - value**2), math.tanh),  # Fisher's z
    "r2": _Transform(
        -math.inf, 1, lambda value: -math.log(1 - value), lambda value: 1 / (1 - value), lambda z: 1 - math.exp(-z)
    ),
}


@contextmanager
def widen_for_pooled_folds() -> Iterator[None]:
    """Inside this context, intervals are for pooled predictions of the models of several folds.

    The models share most training rows, and every row is both tested and trained on, so predictions of rows are not
    independent: standard errors are multiplied by `FOLD_ERROR_FACTOR` (Bates, Hastie and Tibshirani 2021,
    arXiv:2104.00673).
    """
    before = _error_factor.set(FOLD_ERROR_FACTOR)
    try:
        yield
    finally:
        _error_factor.reset(before)


@dataclass(frozen=True, eq=False)
class JackknifeUnits:
    """Groups, or rows without groups, that the jackknife leaves out one by one; too many are joined to blocks.

    `unit_of_row` (N,) is the unit of each row, numbered from 0. `effective` is the effective number of groups, 1 / Σ
    share² (Kish 1965). `trials` is the effective number of independent rows, with an intraclass correlation of
    `ASSUMED_ICC`. `sizes_U` and `squares_U` are sums of the weights of each unit's rows, and of their squares.
    `prior_icc` is the prior correlation within a unit: `PRIOR_ICC`, less within blocks of groups.
    """

    unit_of_row: np.ndarray
    count: int
    effective: float
    trials: float
    sizes_U: np.ndarray
    squares_U: np.ndarray
    prior_icc: float

    def leave_one_out_masks(self) -> Iterator[np.ndarray]:
        """For each unit, bool (N,): the rows without it."""
        return (self.unit_of_row != unit for unit in range(self.count))


def jackknife_units(
    groups: np.ndarray | None, rows: int, *, weights_N: np.ndarray | None = None, most: int = MAX_UNITS
) -> JackknifeUnits:
    """At most `most` units of `rows` rows; `weights_N` are the weights of rows in the metric, by default 1."""
    unit_of_row = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    weights_N = np.ones(rows) if weights_N is None else weights_N
    sizes_U = np.bincount(unit_of_row, weights_N)
    effective, alone = _effective(sizes_U), _effective(weights_N)
    trials = alone / (1 + (alone / effective - 1) * ASSUMED_ICC) / _error_factor.get() ** 2
    prior_icc = PRIOR_ICC
    if len(sizes_U) > most:
        unit_of_row = _assign_blocks(sizes_U, most)[unit_of_row]
        sizes_U = np.bincount(unit_of_row, weights_N)
        prior_icc *= (1 / effective - 1 / alone) / (1 / _effective(sizes_U) - 1 / alone)
    squares_U = np.bincount(unit_of_row, weights_N**2)
    return JackknifeUnits(unit_of_row, len(sizes_U), effective, trials, sizes_U, squares_U, prior_icc)


def max_units(numbers: int) -> int:
    """The largest number of units for a metric computed from so many values."""
    return MAX_UNITS if numbers <= MAX_NUMBERS else MAX_UNITS_MANY_NUMBERS


def leave_one_out_means(values_N: np.ndarray, units: JackknifeUnits) -> np.ndarray:
    """The mean of `values_N` without each unit (U,); NaN where no row remains."""
    sums, sizes = np.bincount(units.unit_of_row, values_N), np.bincount(units.unit_of_row)
    rest = len(values_N) - sizes
    return np.divide(sums.sum() - sums, rest, out=np.full(len(sums), np.nan), where=rest > 0)


def proportion_interval(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, variance: float | None = None
) -> list[float] | None:
    """The interval of a metric in 0…1, from its values without each unit (U,); None where all of them are NaN.

    It is Wilson's interval for the effective number of independent trials, with a quantile of Student's t, as that
    number is estimated. `variance` is that of a single row, by default value · (1 - value), of a row that is 0 or 1.
    Source: Franco, Little, Louis and Slud (2019), Journal of Survey Statistics and Methodology 7.
    """
    if np.isnan(leave_one_out_U).all() and units.count > 1:
        return None
    if units.count < 2:
        return _wilson(value, 1, Z)
    trials, degrees = _trials(value, leave_one_out_U, units, variance=variance)
    return _wilson(value, trials, float(stdtrit(degrees, 0.975)))


def _trials(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, variance: float | None
) -> tuple[float, float]:
    """The effective number of independent trials, and its degrees of freedom.

    The variance of the metric is a weighted mean of that of a model in which rows of a unit correlate, and the
    jackknife's, which weighs more the more units are informative. The model accounts for large units that happened to
    do well; the jackknife accounts for units that did worse than the model expects.
    """
    of_one = max(value * (1 - value), 1e-12)
    variance = variance or of_one
    alone = float(units.squares_U.sum() / units.sizes_U.sum() ** 2)  # the variance if rows did not correlate
    added = units.prior_icc * (1 / _effective(units.sizes_U) - alone)  # added by the prior correlation
    alike = _estimate_icc(value, leave_one_out_U, units, of_one=of_one, variance=variance)
    modelled = (alone + alike.ratio * added) * _error_factor.get() ** 2
    seen = jackknife(value, leave_one_out_U, units).error ** 2 / variance
    squared = modelled + (seen - modelled) * JACKKNIFE * alike.evidence / (alike.evidence + 1)
    return of_one / variance / squared, (alike.groups + PRIOR_DEGREES) * (1 + alone / max(added, 1e-9)) ** 2


class _IccEstimate(NamedTuple):
    """Estimate of the intraclass correlation.

    `ratio` is the correlation ÷ its prior, `groups` the effective number of groups in the estimate, `evidence` the
    number of informative units.
    """

    ratio: float
    groups: float
    evidence: float


def _estimate_icc(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, of_one: float, variance: float
) -> _IccEstimate:
    """Estimate the correlation from the squared difference between each unit's share and that of the other units.

    Its expectation is `alone_U` + ratio · `added_U`, in variances of a row. It is noisier where errors are rare: where
    the share is near 0 or 1, a unit weighs little, and the estimate stays near the prior.
    """
    use = ~np.isnan(leave_one_out_U) & (units.sizes_U > 0) & (units.sizes_U < units.sizes_U.sum())
    leave_one_out_U, sizes_U, squares_U = leave_one_out_U[use], units.sizes_U[use], units.squares_U[use]
    rest_U = units.sizes_U.sum() - sizes_U
    alone_U = squares_U / sizes_U**2 + (units.squares_U.sum() - squares_U) / rest_U**2
    together_U = 1 + ((units.sizes_U**2).sum() - sizes_U**2) / rest_U**2
    added_U = units.prior_icc * (together_U - alone_U)
    expected_U = alone_U + added_U
    off_U = np.minimum(1, (leave_one_out_U - value) ** 2 * (units.sizes_U.sum() / sizes_U) ** 2) / variance
    counts_U = 1 / (1 + expected_U / (2 * of_one))
    groups = float((counts_U * (added_U / expected_U) ** 2).sum())
    further = float((counts_U * added_U * (off_U - expected_U) / expected_U**2).sum())
    ratio = min(1 / PRIOR_ICC, max(0.0, 1 + further / (PRIOR_GROUPS + groups)))
    return _IccEstimate(ratio, groups, float(counts_U.sum()))


def transformed_interval(
    scale: TransformName, value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits
) -> list[float] | None:
    """The interval of an error above 0, a correlation in -1…1, or R² below 1, from its values without each unit (U,).

    It is symmetric, with `half_width_from_jackknife`, on an unbounded scale: the logarithm of an error, Fisher's z of a
    correlation, the logarithm of 1 - R²; so no end lies outside the metric's range. None where the metric is the same
    without each unit, where there is one unit, and where the interval would be too wide to be of use (WIDEST).
    """
    on = _TRANSFORMS[scale]
    if not on.low < value < on.high:
        return None
    place, steps = on.onto(value), half_width_from_jackknife(value, leave_one_out_U, units) * on.slope(value)
    return [on.back(place - steps), on.back(place + steps)] if 0 < steps < WIDEST else None


def interval_of_shares(shares_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the mean of values (N,) in 0…1 or bool, such as whether each row is correct."""
    units = jackknife_units(groups, len(shares_N))
    variance = float(np.var(shares_N))
    return proportion_interval(float(shares_N.mean()), leave_one_out_means(shares_N, units), units, variance=variance)


def interval_of_errors(errors_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the mean of errors (N,), 0 or larger."""
    units = jackknife_units(groups, len(errors_N))
    return transformed_interval("error", float(errors_N.mean()), leave_one_out_means(errors_N, units), units)


def interval_of_median(values_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the median of values (N,), from the interval of the share below it; None where that is 0…1.

    Source: Woodruff (1952), Journal of the American Statistical Association 47.
    """
    _, (low, high) = mean_interval(values_N <= np.median(values_N), groups)
    half = (high - low) / 2
    return [float(end) for end in np.quantile(values_N, [0.5 - half, 0.5 + half])] if half < 0.5 else None


def half_width_from_jackknife(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, level: float = 0.95
) -> float:
    """Half the width of an interval, from the metric's values without each unit (U,); 0 where all are the same."""
    return half_width(jackknife(value, leave_one_out_U, units), level=level)


class StandardError(NamedTuple):
    """The standard error of a metric, and the degrees of freedom of that estimate."""

    error: float
    degrees: float


def jackknife(value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits) -> StandardError:
    """The jackknife standard error, from the metric's values without each unit (U,); 0 where all are the same.

    Its degrees of freedom are one less than the effective number of units, by their sizes or by their contributions to
    the variance (plus two, as squares of equal contributions vary), whichever is smaller: with one large group and many
    small ones, the large one decides. Sources: Efron (1982), The jackknife, the bootstrap and other resampling plans;
    Kish (1965), Survey sampling; Satterthwaite (1946), Biometrics Bulletin 2.
    """
    squares_U = (leave_one_out_U[~np.isnan(leave_one_out_U)] - value) ** 2
    total = float(squares_U.sum())
    error = math.sqrt(total * (1 - 1 / units.effective)) * _error_factor.get()
    if error < 1e-12:
        return StandardError(0.0, 1.0)
    adding = total**2 / float((squares_U**2).sum())
    return StandardError(error, max(1.0, min(units.effective, adding + 2) - 1))


def combine_standard_errors(errors: Sequence[StandardError]) -> StandardError:
    """The standard error of a sum of independent estimates (Welch 1947, Satterthwaite 1946)."""
    variance = sum(item.error**2 for item in errors)
    if not variance:
        return StandardError(0.0, 1.0)
    return StandardError(math.sqrt(variance), variance**2 / sum(item.error**4 / item.degrees for item in errors))


def half_width(of: StandardError, *, level: float = 0.95) -> float:
    """Half the width of an interval: the standard error times a quantile of Student's t."""
    return of.error * float(stdtrit(of.degrees, 0.5 + level / 2))


def mean_interval(
    values_N: np.ndarray, groups: np.ndarray | None, *, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The mean of values (N,) of any size, with its interval; infinite where there is one unit.

    Rows that differ by 1 may be so rare that few or none are observed: `max_unseen_share` is added to the half-width in
    quadrature, instead of lowering the degrees of freedom where few groups contribute to the variance.
    """
    units = jackknife_units(groups, len(values_N))
    mean = float(values_N.mean())
    if units.count < 2:
        return mean, (-math.inf, math.inf)
    error, _ = jackknife(mean, leave_one_out_means(values_N, units), units)
    of_seen = half_width(StandardError(error, max(1.0, units.effective - 1)), level=level)
    whole = math.hypot(of_seen, max_unseen_share(units, level=level))
    return mean, (mean - whole, mean + whole)


def max_unseen_share(units: JackknifeUnits, *, level: float = 0.95) -> float:
    """Upper bound of the frequency of rows that were not observed: about 3 / `trials` (the rule of three)."""
    return -math.log(1 - level) / units.trials


def paired_difference(
    correct_N: np.ndarray, other_N: np.ndarray, *, groups: np.ndarray | None, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The difference of the accuracies of two classifiers on the same rows, in -1…1, with its interval.

    `correct_N` and `other_N`, bool (N,), are the rows that each has correct. `groups` (N,) are the units, else rows.
    Two classifiers that agree on all rows may still differ on others: see `mean_interval`.
    """
    difference, (low, high) = mean_interval(correct_N.astype(float) - other_N, groups, level=level)
    return difference, (max(-1.0, low), min(1.0, high))


def _assign_blocks(sizes_U: np.ndarray, most: int) -> np.ndarray:
    """The block of each unit (U,): random blocks of about equal size; a large unit is almost a block of its own."""
    order = np.random.default_rng(0).permutation(len(sizes_U))
    middle = np.cumsum(sizes_U[order]) - sizes_U[order] / 2
    block = np.empty(len(sizes_U), dtype=int)
    block[order] = np.floor(most * middle / sizes_U.sum())
    return np.unique(block, return_inverse=True)[1]


def _effective(weights: np.ndarray) -> float:
    """Effective number of items with these weights: (Σ w)² / Σ w² (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _wilson(share: float, trials: float, quantile: float) -> list[float]:
    """Wilson's score interval (1927); `trials` and share · trials need not be integers."""
    spread = quantile**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return [float(max(0.0, min(share, center - half))), float(min(1.0, max(share, center + half)))]
