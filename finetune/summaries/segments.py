"""Divide a recording into segments of like frames: kernel change points inside its shots.

Kernel temporal segmentation (KTS; Potapov, Douze, Harchaoui and Schmid, ECCV 2014) with the linear kernel: the cost of
a segment is the scatter of its features, their summed squared distance to their mean. Dynamic programming finds the
borders of least cost for each number of segments, and a penalty decides how many there are.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

PENALTY = 0.5  # of a change point, in mean squared distances of all features to their mean
BLOCK = 600  # features that are divided together, five minutes: time grows with its cube
MIN_VARIANCE = 1e-6  # of features of length 1: a recording with less is still


def segment_borders(features_ND: np.ndarray, shots: tuple[int, ...], *, shortest: int) -> list[int]:
    """The first feature of each segment, rising, and N at the end; (N, D) features are in order of time.

    `shots` are the first features of the shots but the first one. A segment has at least `shortest` features unless
    its shot has fewer.
    """
    number = len(features_ND)
    variance = float(((features_ND - features_ND.mean(0)) ** 2).sum(1).mean())
    starts = sorted({0, *shots, number} | set(_blocks((0, *shots, number))))
    borders = [0]
    for start, end in pairwise(starts):
        if variance > MIN_VARIANCE:
            borders += [start + change for change in _changes(features_ND[start:end], PENALTY * variance, shortest)]
        borders.append(end)
    return borders


def _blocks(starts: tuple[int, ...]) -> list[int]:
    """Borders inside shots longer than BLOCK, that divide them evenly."""
    return [
        border
        for start, end in pairwise(starts)
        for border in np.linspace(start, end, -(-(end - start) // BLOCK) + 1)[1:-1].astype(int).tolist()
    ]


def _changes(features_ND: np.ndarray, unit: float, shortest: int) -> list[int]:
    """The change points of one shot: those of the number m that has the least cost and penalty together.

    The penalty is that of the paper, m (log(n / m) + 1), in units of `unit`.
    """
    number, best, least = len(features_ND), 0, float("inf")
    befores: list[np.ndarray] = []
    for changes, (cost, before_M) in enumerate(divisions(scatter(features_ND), shortest)):
        penalty = unit * changes * (np.log(number / max(changes, 1)) + 1)
        if penalty >= least:  # it grows with the number of changes, so no later sum is smaller
            break
        befores.append(before_M)
        if cost + penalty < least:
            best, least = changes, cost + penalty
    return trace_back(befores[: best + 1])


def scatter(features_ND: np.ndarray) -> np.ndarray:
    """The summed squared distances to their mean, (N + 1, N + 1), of features i to before j; infinite for j <= i."""
    sums_MD = np.concatenate([np.zeros((1, features_ND.shape[1])), np.cumsum(features_ND, 0, dtype=float)])
    squares_M = np.concatenate([[0.0], np.cumsum((features_ND.astype(float) ** 2).sum(1))])
    gram_MM = sums_MD @ sums_MD.T
    norms_M = gram_MM.diagonal()
    place_M = np.arange(len(sums_MD))
    counts_MM = place_M - place_M[:, None]
    of_mean_MM = (norms_M + norms_M[:, None] - 2 * gram_MM) / np.maximum(counts_MM, 1)
    return np.where(counts_MM > 0, np.maximum(squares_M - squares_M[:, None] - of_mean_MM, 0.0), np.inf)


def divisions(scatter_MM: np.ndarray, shortest: int) -> Iterator[tuple[float, np.ndarray]]:
    """For 1, 2, … segments of at least `shortest` features: the least cost, and where the last segment begins.

    The second, (N + 1,), has for each end the beginning of the last segment of the best division up to there.
    """
    place_M = np.arange(len(scatter_MM))
    cost_MM = np.where(place_M - place_M[:, None] >= shortest, scatter_MM, np.inf)
    best_M = scatter_MM[0]
    yield float(best_M[-1]), np.zeros(len(place_M), np.intp)
    best_M = cost_MM[0]
    for _ in range((len(place_M) - 1) // shortest - 1):
        totals_MM = best_M[:, None] + cost_MM
        before_M = totals_MM.argmin(0)
        best_M = totals_MM[before_M, place_M]
        yield float(best_M[-1]), before_M


def trace_back(befores: list[np.ndarray]) -> list[int]:
    """The change points, rising, of the last division that `divisions` gave."""
    found, end = [], len(befores[0]) - 1
    for before_M in befores[:0:-1]:
        end = int(before_M[end])
        found.append(end)
    return found[::-1]
