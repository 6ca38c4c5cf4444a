"""95 % intervals of figures, by a jackknife over groups: clips of one group are alike, so they are left out together.

The truth that an interval is for is what the figure would be on endlessly many groups like the tested ones, large and
small ones as often as here; for an accuracy, the share of right clips among all clips of such groups.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t

MAX_UNITS, MAX_UNITS_MANY_NUMBERS = 2000, 200  # that are left out one by one; fewer where each takes long
MAX_NUMBERS = 200_000  # that a figure is made of where MOST_UNITS are left out
ASSUMED_ICC = 0.2  # correlation of clips within a group that is assumed for differences of which none was seen
# Of a share: the correlation that is assumed before looking, as how many groups that counts, and as how many degrees of
# freedom; the weight of the jackknife's squared error, at most. They held in most of the designs that were simulated.
PRIOR_ICC, PRIOR_GROUPS, PRIOR_DEGREES, JACKKNIFE = 0.25, 2, 6, 0.8
FOLD_ERROR_FACTOR = 1.3  # times as large is the error of pooled folds, by simulation with logistic regression
FOLD_ERROR_NOTE = (
    f"for standard errors {FOLD_ERROR_FACTOR:g} times as large, as the models of the folds share training clips"
)
Z = 1.959964  # of 95 % of a normal distribution
WIDEST = 10.0  # steps of a logarithm to each side: an error that may be 20,000 times as large is not known

TransformName = Literal["error", "correlation", "r2"]
_error_factor: ContextVar[float] = ContextVar("_widening", default=1.0)


class _Transform(NamedTuple):
    """Where a figure can be, and how it gets onto a scale without ends, the slope there, and back."""

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
    """Within it, intervals are those of answers that models of several folds gave.

    The models share most of what they learned from, and every row is tested and learned from, so that the rows'
    answers are not independent: standard errors are `FOLD_ERROR_FACTOR` times as large as the rows alone say (Bates,
    Hastie and Tibshirani 2021, arXiv:2104.00673).
    """
    before = _error_factor.set(FOLD_ERROR_FACTOR)
    try:
        yield
    finally:
        _error_factor.reset(before)


@dataclass(frozen=True, eq=False)
class JackknifeUnits:
    """Groups, or rows where there are no groups, that are left out one by one; very many are put together in blocks.

    `unit_of_row` (N,) has the unit of each row, numbered from 0. `effective` is how many groups of equal size count as
    much as these: 1 / Σ share² (Kish 1965). `trials` is how many independent rows tell as much as these do where rows
    of a group correlate by `ASSUMED_ICC`. `sizes_U` and `squares_U` are sums over the rows of each unit, of their
    weights and of their squares. `prior_icc` is the correlation within a unit: `PRIOR_ICC`, less within blocks of
    groups.
    """

    unit_of_row: np.ndarray
    count: int
    effective: float
    trials: float
    sizes_U: np.ndarray
    squares_U: np.ndarray
    prior_icc: float

    def leave_one_out_masks(self) -> Iterator[np.ndarray]:
        """Of each unit, which rows (N,) remain without it."""
        return (self.unit_of_row != unit for unit in range(self.count))


def jackknife_units(
    groups: np.ndarray | None, rows: int, *, weights_N: np.ndarray | None = None, most: int = MAX_UNITS
) -> JackknifeUnits:
    """The units of rows, at most so many; `weights_N` is how much each row counts in the figure, by default alike."""
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
    """How many units are left out one by one where a figure is made of so many numbers."""
    return MAX_UNITS if numbers <= MAX_NUMBERS else MAX_UNITS_MANY_NUMBERS


def leave_one_out_means(values_N: np.ndarray, units: JackknifeUnits) -> np.ndarray:
    """The mean without each unit (U,); NaN where no row remains."""
    sums, sizes = np.bincount(units.unit_of_row, values_N), np.bincount(units.unit_of_row)
    rest = len(values_N) - sizes
    return np.divide(sums.sum() - sums, rest, out=np.full(len(sums), np.nan), where=rest > 0)


def proportion_interval(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, variance: float | None = None
) -> list[float] | None:
    """The interval of a figure in 0…1, from what it is without each unit; None where it is never known.

    It is Wilson's interval for as many independent trials as the units count for, with a quantile of Student's t as
    that number is estimated. `variance` is that of a single row, by default that of one that is right or wrong.
    Source: Franco, Little, Louis and Slud (2019), Journal of Survey Statistics and Methodology 7.
    """
    if np.isnan(leave_one_out_U).all() and units.count > 1:
        return None
    if units.count < 2:
        return _wilson(value, 1, Z)
    trials, degrees = _trials(value, leave_one_out_U, units, variance=variance)
    return _wilson(value, trials, float(t.ppf(0.975, degrees)))


def _trials(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, variance: float | None
) -> tuple[float, float]:
    """How many independent trials the units count for, and the degrees of freedom of that number.

    The squared error is between that of a model in which rows of a unit correlate, and the jackknife's: the nearer to
    the jackknife, the more units tell anything. The model knows that a large unit that did well might have done badly;
    the jackknife, where one did worse than that.
    """
    of_one = max(value * (1 - value), 1e-12)
    variance = variance or of_one
    alone = float(units.squares_U.sum() / units.sizes_U.sum() ** 2)  # the squared error if rows did not correlate
    added = units.prior_icc * (1 / _effective(units.sizes_U) - alone)  # if they did as guessed
    alike = _estimate_icc(value, leave_one_out_U, units, of_one=of_one, variance=variance)
    modelled = (alone + alike.ratio * added) * _error_factor.get() ** 2
    seen = jackknife(value, leave_one_out_U, units).error ** 2 / variance
    squared = modelled + (seen - modelled) * JACKKNIFE * alike.evidence / (alike.evidence + 1)
    return of_one / variance / squared, (alike.groups + PRIOR_DEGREES) * (1 + alone / max(added, 1e-9)) ** 2


class _IccEstimate(NamedTuple):
    """How much rows of a unit correlate.

    `ratio` is the correlation ÷ the first guess, `groups` how many groups tell of it. `evidence` is how many units tell
    anything.
    """

    ratio: float
    groups: float
    evidence: float


def _estimate_icc(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, of_one: float, variance: float
) -> _IccEstimate:
    """Estimate the correlation from how far the share of each unit is off from that of the others.

    The square of that is `alone_U` + ratio * `added_U` variances of a row on average, and varies the more, the fewer
    errors there are. So where the share is near 0 or 1 a unit counts little, and the first guess stays.
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
    """The interval of a figure that is no share: an error above 0, a correlation in -1…1, or R² below 1.

    Its ends are `half_width_from_jackknife` the figure on a scale without ends: the logarithm of an error, Fisher's z
    of a correlation, the logarithm of 1 - R², so that none lies where the figure cannot be. None where the figure is
    the same without each unit, where there is one unit, and where the interval would tell nothing.
    """
    on = _TRANSFORMS[scale]
    if not on.low < value < on.high:
        return None
    place, steps = on.onto(value), half_width_from_jackknife(value, leave_one_out_U, units) * on.slope(value)
    return [on.back(place - steps), on.back(place + steps)] if 0 < steps < WIDEST else None


def interval_of_shares(shares_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the mean of what is in 0…1 for each row, or is true or not."""
    units = jackknife_units(groups, len(shares_N))
    variance = float(np.var(shares_N))
    return proportion_interval(float(shares_N.mean()), leave_one_out_means(shares_N, units), units, variance=variance)


def interval_of_errors(errors_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the mean of an error of each row, of any size."""
    units = jackknife_units(groups, len(errors_N))
    return transformed_interval("error", float(errors_N.mean()), leave_one_out_means(errors_N, units), units)


def interval_of_median(values_N: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    """The interval of the median of rows: the values between which one half may lie. None where that is any.

    Source: Woodruff (1952), Journal of the American Statistical Association 47.
    """
    _, (low, high) = mean_interval(values_N <= np.median(values_N), groups)
    half = (high - low) / 2
    return [float(end) for end in np.quantile(values_N, [0.5 - half, 0.5 + half])] if half < 0.5 else None


def half_width_from_jackknife(
    value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, level: float = 0.95
) -> float:
    """How far an interval reaches to each side, from the figure without each unit; 0 where that is always the same."""
    return half_width(jackknife(value, leave_one_out_U, units), level=level)


class StandardError(NamedTuple):
    """Of a figure; the fewer degrees of freedom, the less it is known itself."""

    error: float
    degrees: float


def jackknife(value: float, leave_one_out_U: np.ndarray, units: JackknifeUnits) -> StandardError:
    """The standard error of a figure from what it is without each unit; 0 where that is always the same.

    Its degrees of freedom are one less than the effective number of units, by their size or by what they add to the
    squared error (and two more, as squares of even ones are uneven), whichever is less: of one large group and many
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
    """That of a sum of figures that chance moves independently (Welch 1947, Satterthwaite 1946)."""
    squares = sum(each.error**2 for each in errors)
    if not squares:
        return StandardError(0.0, 1.0)
    return StandardError(math.sqrt(squares), squares**2 / sum(each.error**4 / each.degrees for each in errors))


def half_width(of: StandardError, *, level: float = 0.95) -> float:
    """How far an interval reaches to each side: the error, times a quantile of Student's t."""
    return of.error * float(t.ppf(0.5 + level / 2, of.degrees))


def mean_interval(
    values_N: np.ndarray, groups: np.ndarray | None, *, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The mean of a number of each row, of any size, with its interval; without bounds where there is one unit.

    Rows that are off by 1 may be rare, so that few or none are among these: the error is joined with
    `max_unseen_share`, in place of fewer degrees of freedom where few groups add to it.
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
    """How frequent rows may be of which there are none here: 3 of as many `trials` (the rule of three)."""
    return -math.log(1 - level) / units.trials


def paired_difference(
    correct_N: np.ndarray, other_N: np.ndarray, *, groups: np.ndarray | None, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """How much more often one is right than another on the same rows, with its interval.

    `correct_N` and `other_N` are true where a row was right. Units are groups, or rows where there are none. Two that
    agree on all rows may still differ on others: see `mean_interval`.
    """
    difference, (low, high) = mean_interval(correct_N.astype(float) - other_N, groups, level=level)
    return difference, (max(-1.0, low), min(1.0, high))


def _assign_blocks(sizes_U: np.ndarray, most: int) -> np.ndarray:
    """The block of each unit (U,), of about equal size, units drawn by lot; a large unit is nearly one by itself."""
    order = np.random.default_rng(0).permutation(len(sizes_U))
    middle = np.cumsum(sizes_U[order]) - sizes_U[order] / 2
    block = np.empty(len(sizes_U), dtype=int)
    block[order] = np.floor(most * middle / sizes_U.sum())
    return np.unique(block, return_inverse=True)[1]


def _effective(weights: np.ndarray) -> float:
    """How many of equal weight count as much as these (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _wilson(share: float, trials: float, quantile: float) -> list[float]:
    """Wilson's interval (1927), for a share that need not be a whole number of trials."""
    spread = quantile**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return [float(max(0.0, min(share, center - half))), float(min(1.0, max(share, center + half)))]
