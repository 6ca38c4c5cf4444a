"""Metrics of summaries: events that they show, and rank correlation with the scores of people.

Suffixes: R recordings, E events, P people (annotators), N moments of a recording, equally long.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata

from finetune.metrics.intervals import interval_of_shares, mean_interval

Span = tuple[float, float]  # start and end in seconds
COVERED_SHARE = 0.5  # of an event that has to be shown


class Correlation(NamedTuple):
    """Rank correlations in -1…1: Kendall's tau-b and Spearman's rho. NaN where one side does not vary."""

    kendall: float
    spearman: float


def shown_shares(events: Sequence[Span], parts: Sequence[Span]) -> np.ndarray:
    """The share of each event (E,), in 0…1, that parts show; parts do not overlap each other."""
    events_E2, parts_N2 = np.reshape(events, (-1, 2)), np.reshape(parts, (-1, 2))
    ends_EN = np.minimum(events_E2[:, 1:], parts_N2[:, 1])
    starts_EN = np.maximum(events_E2[:, :1], parts_N2[:, 0])
    seconds_E = np.maximum(events_E2[:, 1] - events_E2[:, 0], np.finfo(float).tiny)
    return np.minimum(np.clip(ends_EN - starts_EN, 0, None).sum(1) / seconds_E, 1.0)


def event_coverage(shares: Sequence[np.ndarray]) -> dict[str, Any]:
    """The share of all events that summaries cover, from `shown_shares` of each recording, with 95 % intervals.

    `half` is the share of events of which at least half is shown: who watches the summary sees what happens. `any` is
    the share of which any part is shown; many short parts raise it, even if they show too little of each event.
    Intervals, under `half_ci` and `any_ci`, are over recordings. Values are None without an event.
    """
    recordings = np.repeat(np.arange(len(shares)), [len(shares_E) for shares_E in shares])
    shares_E = np.concatenate([*shares, np.empty(0)])
    result: dict[str, Any] = {"events": len(shares_E), "recordings": len(np.unique(recordings))}
    for name, covered_E in (("half", shares_E >= COVERED_SHARE - 1e-9), ("any", shares_E > 0)):
        result[name] = float(covered_E.mean()) if len(shares_E) else None
        result[f"{name}_ci"] = interval_of_shares(covered_E.astype(float), recordings) if len(shares_E) else None
    return result


def rank_correlation(scores_N: np.ndarray, people_PN: np.ndarray) -> Correlation:
    """The mean over people of the rank correlation of scores with those of each person.

    As in Otani, Nakashima, Rahtu and Heikkilä 2019 (arXiv:1903.11328). A person whose scores do not vary is left out.
    """
    return _mean([_correlation(scores_N, person_N) for person_N in people_PN])


def people_correlation(people_PN: np.ndarray) -> Correlation:
    """The mean rank correlation of each person's scores with those of each other person: what people reach."""
    pairs = [(one, two) for one in range(len(people_PN)) for two in range(one)]
    return _mean([_correlation(people_PN[one], people_PN[two]) for one, two in pairs])


def mean_correlation(correlations: Sequence[Correlation]) -> dict[str, Any]:
    """Means over recordings, with 95 % intervals under `<name>_ci`; None where no recording has a correlation."""
    result: dict[str, Any] = {}
    for name, values in zip(Correlation._fields, np.reshape(correlations, (-1, 2)).T, strict=True):
        known = values[~np.isnan(values)]
        result |= {name: None, f"{name}_ci": None}
        if len(known):
            mean, interval = mean_interval(known, None)
            result |= {name: mean, f"{name}_ci": list(interval)}
    return result


def stretched(scores: Sequence[float], number: int) -> np.ndarray:
    """Scores of equally long moments as scores of `number` moments (N,): each that of the moment in its middle."""
    places_N = ((np.arange(number) + 0.5) * len(scores) / number).astype(int)
    return np.asarray(scores, dtype=float)[places_N]


def _correlation(one_N: np.ndarray, two_N: np.ndarray) -> Correlation:
    if len(one_N) < 2 or np.ptp(one_N) == 0 or np.ptp(two_N) == 0:
        return Correlation(float("nan"), float("nan"))
    spearman = np.corrcoef(rankdata(one_N), rankdata(two_N))[0, 1]
    return Correlation(float(kendalltau(one_N, two_N).statistic), float(spearman))


def _mean(correlations: Sequence[Correlation]) -> Correlation:
    known = [correlation for correlation in correlations if not np.isnan(correlation.kendall)]
    if not known:
        return Correlation(float("nan"), float("nan"))
    return Correlation(*np.mean(known, axis=0).tolist())
