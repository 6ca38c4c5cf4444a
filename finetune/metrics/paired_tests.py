"""Paired tests of two classifiers on the same rows: whether they differ significantly.

The verdict rests on a 95 % interval of the difference over groups, as clips of a group correlate. McNemar's exact test
is given as well: it is the usual test, but assumes independent rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetune.metrics.intervals import paired_difference

MIN_TEST_UNITS = 6  # 5 groups all agree by chance in 6 % of cases (2 · 0.5⁵)
SIGNIFICANCE_LEVEL = 0.05

Verdict = Literal["first", "other", "none", "unsettled"]


@dataclass(frozen=True)
class PairedTest:
    """The comparison of classifier `other` with `first` on rows on which both were tested.

    `difference` is the accuracy of `other` minus that of `first`, in -1…1, with its 95 % interval over `num_units`
    groups, or rows without groups. `only_first` and `only_other` count rows that only one of them has correct.
    """

    num_rows: int
    num_units: int
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_other: int
    mcnemar_p: float

    @property
    def verdict(self) -> Verdict:
        """Which is better: `none` unless the interval excludes 0; `unsettled` with fewer than MIN_TEST_UNITS units."""
        if self.num_units < MIN_TEST_UNITS:
            return "unsettled"
        low, high = self.interval
        return "other" if low > 0 else "first" if high < 0 else "none"

    def disagrees(self, adjusted_p: float) -> bool:
        """Whether McNemar's test, with its p value adjusted by `holm`, contradicts the interval."""
        return self.verdict != "unsettled" and (self.verdict == "none") == (adjusted_p < SIGNIFICANCE_LEVEL)


def paired_test(
    first_N: np.ndarray, other_N: np.ndarray, *, groups: np.ndarray | None, comparisons: int = 1
) -> PairedTest:
    """Compare two classifiers by which rows each has correct, bool (N,); `groups` (N,) are the units, else rows.

    With several `comparisons` intervals are widened, so that all of them together hold with 95 % (Bonferroni).
    """
    level = 1 - SIGNIFICANCE_LEVEL / comparisons
    difference, interval = paired_difference(other_N, first_N, groups=groups, level=level)
    only_first, only_other = int((first_N & ~other_N).sum()), int((other_N & ~first_N).sum())
    return PairedTest(
        num_rows=len(first_N),
        num_units=len(first_N) if groups is None else len(np.unique(groups)),
        difference=difference,
        interval=interval,
        only_first=only_first,
        only_other=only_other,
        mcnemar_p=mcnemar(only_first, only_other),
    )


def mcnemar(only_first: int, only_other: int) -> float:
    """Exact two-sided p value of the binomial test that discordant rows split evenly; 1 where there are none.

    Source: McNemar (1947), Psychometrika 12; exact, without the chi-squared approximation.
    """
    from scipy.stats import binomtest  # slow to import

    differing = only_first + only_other
    return float(binomtest(only_other, differing).pvalue) if differing else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests, adjusted by Holm's method: the family-wise error rate at 0.05 is at most 5 %.

    Source: Holm (1979), Scandinavian Journal of Statistics 6.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def format_verdict(paired: PairedTest, *, first: str, other: str, unit: str) -> str:
    """The verdict as a sentence without a full stop; `unit` is what the interval is over: group or clip."""
    if paired.verdict == "unsettled":
        return f"no verdict: {too_few_units_text(paired.num_units, unit)}"
    if paired.verdict == "none":
        return "no evidence of a difference"
    better = other if paired.verdict == "other" else first
    return f"{better} is better by {format_points(abs(paired.difference))}"


def too_few_units_text(num_units: int, unit: str) -> str:
    """That there are too few groups or clips for a test, as text; empty where there are enough."""
    if num_units >= MIN_TEST_UNITS:
        return ""
    return f"{num_units} {unit} is too few" if num_units == 1 else f"{num_units} {unit}s are too few"


def format_points(share: float, *, signed: bool = False) -> str:
    """A difference of shares in percentage points, to a tenth."""
    number = f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
    number = number.replace("-", "\u2212") if float(number) else "0.0"
    return f"{number} point" + "s" * (number.lstrip("+\u2212") != "1.0")
