"""Calibration: whether confidence equals accuracy, and temperature scaling, which brings them closer together.

One temperature for all classes changes no predicted class, only the confidence (Guo et al. 2017, arXiv:1706.04599).
"""

import math
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, logit

from finetune.metrics.intervals import mean_interval

NUM_CONFIDENCE_BINS = 10
MIN_PROBABILITY = 1e-7  # probabilities are clipped to this distance from 0 and 1
SIMULATIONS = 500
MAX_FIT_ROWS = 5000  # a random subset: more rows do not change the temperature noticeably


def fit_temperature(truth: np.ndarray, probs_NK: np.ndarray) -> float:
    """The temperature, in e**-3 to e**3, that minimizes the log loss of rows that the model was not trained on.

    `truth` are labels (N,), or classes that are present, bool (N, K); `probs_NK` are probabilities. A penalty
    0.5 · ln(T)² on the summed loss keeps it near 1: without it, a few rows that are all correct would give T = 0.
    """

    from scipy.optimize import minimize_scalar  # slow to import

    chosen = np.random.default_rng(0).permutation(len(truth))[:MAX_FIT_ROWS]
    truth, probs_NK = truth[chosen], probs_NK[chosen]

    def loss(log_temperature: float) -> float:
        cooled_NK = apply_temperature(probs_NK, float(np.exp(log_temperature)), multilabel=truth.ndim == 2)
        return len(truth) * log_loss(truth, cooled_NK) + 0.5 * log_temperature**2

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(found.x)), 4)


def apply_temperature(probs_NK: np.ndarray, temperature: float, *, multilabel: bool = False) -> np.ndarray:
    """Probabilities (…, K) of logits divided by the temperature; a temperature above 1 lowers the confidence."""
    probs = np.clip(probs_NK.astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY if multilabel else 1)
    if multilabel:
        return expit(logit(probs) / temperature)
    return np.exp(log_softmax(np.log(probs) / temperature, axis=-1))


def log_loss(truth: np.ndarray, probs_NK: np.ndarray) -> float:
    """The mean of -ln p(truth) over rows; over rows and classes where `truth` is bool (N, K), with p or 1 - p."""
    right_NK = truth if truth.ndim == 2 else truth[:, None] == np.arange(probs_NK.shape[1])
    likelihood = np.where(right_NK, probs_NK, 1 - probs_NK) if truth.ndim == 2 else probs_NK[right_NK]
    return float(-np.log(np.maximum(likelihood, MIN_PROBABILITY)).mean())


def calibration_metrics(truth: np.ndarray, probs_NK: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    """Confidence against accuracy, of each row's predicted class, or of every class where `truth` is bool (N, K).

    `ece` is the expected calibration error, Σ count/N · |confidence - accuracy| over ten bins of equal width (Guo et
    al. 2017). `ece_by_chance` is the 95th percentile of the ECE that perfectly calibrated models would have on these
    rows, by simulation. `brier` is the squared error summed over classes, in 0…2 for labels (N,) (Brier 1950). `gap`
    is mean confidence minus accuracy, in -1…1: above 0 the model is overconfident.
    """
    sure, right = _confidence_and_correctness(truth, probs_NK)
    targets_NK = np.eye(probs_NK.shape[1])[truth] if truth.ndim == 1 else truth
    gap, gap_ci = mean_interval((sure - right).reshape(len(truth), -1).mean(1), groups)
    squared, squared_ci = mean_interval(((probs_NK - targets_NK) ** 2).sum(1), groups)
    return {
        "bins": _bins(sure, right),
        "ece": _ece(sure, right),
        "ece_by_chance": _ece_by_chance(sure),
        "brier": squared,
        "brier_ci": [max(0.0, squared_ci[0]), min(2.0 if truth.ndim == 1 else float(probs_NK.shape[1]), squared_ci[1])],
        "log_loss": log_loss(truth, probs_NK),
        "gap": gap,
        "gap_ci": [max(-1.0, gap_ci[0]), min(1.0, gap_ci[1])],
    }


def _confidence_and_correctness(truth: np.ndarray, probs_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if truth.ndim == 2:
        return probs_NK.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    return probs_NK.max(1).astype(np.float64), (probs_NK.argmax(1) == truth).astype(np.float64)


def _bins(sure: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """The bins that have rows: their bounds, counts, mean confidence (`sure`) and accuracy (`right`)."""
    place, counts = _bin_indices(sure)
    sums = (np.bincount(place, values, NUM_CONFIDENCE_BINS) for values in (sure, right))
    means = (np.divide(total, counts, out=np.zeros(NUM_CONFIDENCE_BINS), where=counts > 0) for total in sums)
    return [
        {
            "low": index / NUM_CONFIDENCE_BINS,
            "high": (index + 1) / NUM_CONFIDENCE_BINS,
            "count": int(number),
            "sure": float(is_sure),
            "right": float(of),
        }
        for index, (number, is_sure, of) in enumerate(zip(counts, *means, strict=True))
        if number
    ]


def _ece(sure: np.ndarray, right: np.ndarray) -> float:
    place, _ = _bin_indices(sure)
    return float(np.abs(np.bincount(place, sure - right, NUM_CONFIDENCE_BINS)).sum() / len(sure))


def _ece_by_chance(sure: np.ndarray) -> float:
    rng, most = np.random.default_rng(0), min(len(sure), 20_000)
    some = sure if most == len(sure) else rng.choice(sure, most, replace=False)
    drawn = [_ece(some, rng.random(most) < some) for _ in range(SIMULATIONS)]
    return float(np.percentile(drawn, 95)) * math.sqrt(
        most / len(sure)
    )  # ECE by chance falls with the square root of the count


def _bin_indices(sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bin of each confidence, and the count of each bin."""
    place = np.minimum((sure * NUM_CONFIDENCE_BINS).astype(int), NUM_CONFIDENCE_BINS - 1)
    return place, np.bincount(place, minlength=NUM_CONFIDENCE_BINS)
