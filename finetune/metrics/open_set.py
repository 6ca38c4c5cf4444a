"""How well clips of unknown classes are told from those of known classes, by scores of a classifier's logits.

A score is higher for clips that look like the classes that the model was trained on. A clip is accepted if its score is
at least a threshold, and else rejected as none of these classes. Suffixes: N known clips, M clips of unknown classes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.special import logsumexp

from finetune.metrics.intervals import interval_of_shares, jackknife_units, max_units, proportion_interval

ScoreName = Literal["max_probability", "max_logit", "energy"]
SCORES: dict[ScoreName, Callable[[np.ndarray], np.ndarray]] = {
    "max_probability": lambda logits: np.exp(logits.max(-1) - logsumexp(logits, axis=-1)),
    "max_logit": lambda logits: logits.max(-1),
    "energy": lambda logits: logsumexp(logits, axis=-1),
}
ACCEPTED_KNOWN = 0.95  # share of known clips that is accepted where the accepted share of the unknown ones is stated
USUAL_SHARE = 0.05  # of val clips that may be rejected, where the user does not choose
MAX_QUANTILES = 1000
REJECTION_SCORE: ScoreName = "max_probability"  # of predict; compared with the others in docs/report.md


def known_scores(logits: np.ndarray) -> dict[ScoreName, np.ndarray]:
    """Each score (N,) by its name, from logits (N, K), or (N, V, K) of V views: then the mean of the views' scores.

    `max_probability` is the largest softmax probability (Hendrycks and Gimpel 2017, arXiv:1610.02136), `max_logit` the
    largest logit (Hendrycks et al. 2022, arXiv:1911.11132), `energy` the negative free energy at temperature 1, which
    is the logarithm of Σ exp(logit) (Liu et al. 2020, arXiv:2010.03759).
    """
    logits_NVK = logits.astype(np.float64).reshape(len(logits), -1, logits.shape[-1])
    return {name: score(logits_NVK).mean(1) for name, score in SCORES.items()}


def acceptance_threshold(known_N: np.ndarray, share: float) -> float:
    """The largest threshold at which at least a `share`, above 0, of the known clips with scores (N,) is accepted."""
    accepted = max(1, math.ceil(share * len(known_N) - 1e-9))
    return float(np.sort(known_N)[len(known_N) - accepted])


def score_quantiles(known_N: np.ndarray) -> list[float]:
    """The scores (N,) in rising order; of more than MAX_QUANTILES, so many of them at even distances."""
    chosen = np.arange(min(len(known_N), MAX_QUANTILES)) * len(known_N) // min(len(known_N), MAX_QUANTILES)
    return [float(value) for value in np.sort(known_N)[chosen]]


def auroc(known_N: np.ndarray, unknown_M: np.ndarray) -> float:
    """The probability that a known clip has a higher score than an unknown one; ties count half. NaN without clips."""
    if not len(known_N) or not len(unknown_M):
        return math.nan
    rising = np.sort(known_N)
    not_above_M = (np.searchsorted(rising, unknown_M, "left") + np.searchsorted(rising, unknown_M, "right")) / 2
    return float(1 - not_above_M.mean() / len(known_N))


def accepted_unknown(known_N: np.ndarray, unknown_M: np.ndarray, share: float = ACCEPTED_KNOWN) -> float:
    """The share of unknown clips that is accepted where at least a `share` of the known ones is.

    With 0.95 it is the false positive rate at 95 % true positive rate, known clips being the positive ones.
    """
    return float((unknown_M >= acceptance_threshold(known_N, share)).mean())


def score_open_set(
    known: Mapping[ScoreName, np.ndarray],
    unknown: Mapping[ScoreName, np.ndarray],
    groups: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, dict[str, Any]]:
    """By score: AUROC, and the accepted share of unknown clips where 95 % of the known are accepted, with intervals.

    `known` has the scores (N,) of known clips, `unknown` those (M,) of unknown ones, at least one each; `groups` are
    those of both, (N,) and (M,), or None where clips are independent.
    """
    return {
        name: {
            "auroc": auroc(known[name], unknown[name]),
            "auroc_ci": auroc_interval(known[name], unknown[name], groups),
            "accepted": accepted_unknown(known[name], unknown[name]),
            "accepted_ci": accepted_interval(known[name], unknown[name], groups),
        }
        for name in SCORES
    }


def auroc_interval(
    known_N: np.ndarray, unknown_M: np.ndarray, groups: tuple[np.ndarray, np.ndarray] | None
) -> list[float] | None:
    """The 95 % interval of `auroc`, by `proportion_interval`: groups of known and unknown clips are left out in turn.

    The variance of independent clips is that of Hanley and McNeil (1982), Radiology 143, but at least that of a share
    of twice as many clips as the smaller of the two sets has: theirs is 0 for an AUROC of 1.
    """
    rows, count = len(known_N) + len(unknown_M), len(known_N)
    weights = np.repeat([1 / len(known_N), 1 / len(unknown_M)], [len(known_N), len(unknown_M)])
    joined = None if groups is None else np.concatenate(groups)
    units = jackknife_units(joined, rows, weights_N=weights, most=max_units(10 * rows))
    value = auroc(known_N, unknown_M)
    left_out = [auroc(known_N[mask[:count]], unknown_M[mask[count:]]) for mask in units.leave_one_out_masks()]
    trials = 4 / (1 / len(known_N) + 1 / len(unknown_M))  # the weights' effective number of clips
    variance = max(_auroc_variance(value, len(known_N), len(unknown_M)), _share_variance(value, known_N, unknown_M))
    return proportion_interval(value, np.array(left_out), units, variance=variance * trials)


def _share_variance(value: float, known_N: np.ndarray, unknown_M: np.ndarray) -> float:
    return max(value * (1 - value), 1e-12) / (2 * min(len(known_N), len(unknown_M)))


def _auroc_variance(value: float, known: int, unknown: int) -> float:
    two_unknown, two_known = value / (2 - value), 2 * value**2 / (1 + value)
    added = (unknown - 1) * (two_unknown - value**2) + (known - 1) * (two_known - value**2)
    return (value * (1 - value) + added) / (known * unknown)


def accepted_interval(
    known_N: np.ndarray, unknown_M: np.ndarray, groups: tuple[np.ndarray, np.ndarray] | None
) -> list[float] | None:
    """The 95 % interval of `accepted_unknown`: that of a share of unknown clips, and that of the threshold.

    The threshold may be any at which the accepted share of known clips has the interval of that share (Woodruff 1952).
    The distances of both kinds of ends are added in quadrature (Zou and Donner 2008, Statistics in Medicine 27).
    """
    threshold = acceptance_threshold(known_N, ACCEPTED_KNOWN)
    known_groups, unknown_groups = (None, None) if groups is None else groups
    ends = interval_of_shares(unknown_M >= threshold, unknown_groups)
    shares = interval_of_shares(known_N >= threshold, known_groups)
    if ends is None or shares is None:
        return None
    value = accepted_unknown(known_N, unknown_M)
    moved = [accepted_unknown(known_N, unknown_M, max(share, 1e-9)) for share in shares]
    low, high = (math.hypot(end - value, other - value) for end, other in zip(ends, moved, strict=True))
    return [max(0.0, value - low), min(1.0, value + high)]
