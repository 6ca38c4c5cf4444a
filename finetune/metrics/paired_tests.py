"""Whether one classifier is better than another on the same rows, or only luckier.

The verdict rests on an interval over groups, whose clips are alike. McNemar's exact test stands beside it: it is the
usual one, but takes every row for independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from finetune.metrics.intervals import paired_difference

MIN_TEST_UNITS = 6  # that 5 coins fall alike happens 6 times of 100, so 5 groups can agree by chance
SIGNIFICANCE_LEVEL = 0.05

Verdict = Literal["first", "other", "none", "unsettled"]


@dataclass(frozen=True)
class PairedTest:
    """`other` against `first` on rows that both were tested on.

    `difference` is how much more often the other is right, in -1…1, with its 95 % interval over `num_units` groups, or
    rows where there are none; `only_first` and `only_other` count the rows that one alone has right.
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
        """Which is better: one of them only where the interval excludes 0."""
        if self.num_units < MIN_TEST_UNITS:
            return "unsettled"
        low, high = self.interval
        return "other" if low > 0 else "first" if high < 0 else "none"

    def disagrees(self, adjusted_p: float) -> bool:
        """Whether McNemar's test, with its p value after `holm`, says otherwise than the interval."""
        return self.verdict != "unsettled" and (self.verdict == "none") == (adjusted_p < SIGNIFICANCE_LEVEL)


def paired_test(
    first_N: np.ndarray, other_N: np.ndarray, *, groups: np.ndarray | None, comparisons: int = 1
) -> PairedTest:
    """Compare two classifiers by whether each was right on a row, (N,) of bool; rows of a group are drawn together.

    Of several `comparisons` the intervals are wider, so that all of them together hold 95 times of 100 (Bonferroni).
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
    """The exact p value: how likely so uneven a split of the rows is, were each a fair coin; 1 where there are none.

    Source: McNemar (1947), Psychometrika 12; two-sided, without the approximation by chi-squared.
    """
    differing = only_first + only_other
    return float(binomtest(only_other, differing).pvalue) if differing else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests, adjusted so that one of them is below 0.05 by chance 5 times of 100 at most.

    Source: Holm (1979), Scandinavian Journal of Statistics 6.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def format_verdict(paired: PairedTest, *, first: str, other: str, unit: str) -> str:
    """The verdict as a sentence without its end; `unit` is what the interval is over: group or clip."""
    if paired.verdict == "unsettled":
        return f"no verdict: {too_few_units_text(paired.num_units, unit)}"
    if paired.verdict == "none":
        return "no evidence of a difference"
    better = other if paired.verdict == "other" else first
    return f"{better} is better by {format_points(abs(paired.difference))}"


def too_few_units_text(num_units: int, unit: str) -> str:
    """That so many groups or clips settle nothing, as words; empty where they are enough."""
    if num_units >= MIN_TEST_UNITS:
        return ""
    return f"{num_units} {unit} is too few" if num_units == 1 else f"{num_units} {unit}s are too few"


def format_points(share: float, *, signed: bool = False) -> str:
    """A difference of shares, in points of a hundred, to a tenth."""
    number = f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
    number = number.replace("-", "\u2212") if float(number) else "0.0"
    return f"{number} point" + "s" * (number.lstrip("+\u2212") != "1.0")
