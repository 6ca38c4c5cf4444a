"""Choose the pieces of a recording that represent it best within a length: facility location, chosen greedily.

The value of a choice is how similar each moment of the recording is to the chosen piece that shows it best: that has
the highest similarity times activity. Another piece that looks like a chosen one adds little, so that chosen pieces are
near to all others and far from each other. Of pieces that look alike, the one with most activity is chosen. The value
is submodular: the better of two greedy choices, by what a piece adds and by what it adds per second, reaches at least
0.31 of the best value (Leskovec et al. 2007, KDD; facility location for summaries: Lin and Bilmes 2010, NAACL).

Suffixes: C pieces, D features, N moments.
"""

from collections.abc import Collection
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Pieces:
    """C pieces of a recording, in order, by moments: from `borders[c]` to before `borders[c + 1]`.

    `similarity_CC` is how similar two pieces look, in 0…1; `weights_C` is how much each counts in a choice's value, and
    `activity_C`, in 0…1, how much happens in it.
    """

    borders: list[int]
    similarity_CC: np.ndarray
    weights_C: np.ndarray
    activity_C: np.ndarray

    def shown_by(self, piece: int) -> np.ndarray:
        """How well a piece shows each other piece (C,), in 0…1."""
        shown: np.ndarray = self.similarity_CC[piece] * self.activity_C[piece]
        return shown

    def __len__(self) -> int:
        return len(self.weights_C)


def divide(borders: list[int], longest: int, *, shortest: int = 1) -> list[int]:
    """The borders, and others that divide segments longer than `longest` evenly, in pieces of at least `shortest`."""
    parts = []
    for start, end in pairwise(borders):
        number = max(1, min(-(-(end - start) // longest), (end - start) // shortest))
        parts.append(np.linspace(start, end, number + 1)[:-1])
    return [*np.rint(np.concatenate(parts)).astype(int).tolist(), borders[-1]]


def build_pieces(features_ND: np.ndarray, borders: list[int], shots: Collection[int] = ()) -> Pieces:
    """The pieces between borders; each counts by its length.

    Two are similar by the squared distance d of their mean features: exp(-d / v), where v is the mean squared distance
    of all features to their mean. The activity of a piece is the mean change of features from moment to moment, without
    the changes at `shots`, divided by that of the most active piece; 1 for all in a still recording.
    """
    firsts_C = np.array(borders[:-1])
    centred_ND = features_ND - features_ND.mean(0)
    means_CD = np.add.reduceat(centred_ND, firsts_C) / np.diff(borders)[:, None].astype(np.float32)
    norms_C = (means_CD**2).sum(1)
    distances_CC = np.maximum(norms_C + norms_C[:, None] - 2 * means_CD @ means_CD.T, 0.0)
    variance = max(float((centred_ND**2).sum(1).mean()), ROUNDING)
    similarity_CC = np.exp(-distances_CC / variance, dtype=np.float32)
    activity_C = np.add.reduceat(_changes(features_ND, shots), firsts_C) / np.diff(borders)
    most = float(activity_C.max())
    activity_C = activity_C / most if most > ROUNDING else np.ones(len(firsts_C))
    weights_C = np.diff(borders).astype(np.float32)
    return Pieces(borders, similarity_CC, weights_C, activity_C.astype(np.float32))


def _changes(features_ND: np.ndarray, shots: Collection[int]) -> np.ndarray:
    """The mean distance of each moment (N,) to those before and after it in its shot; 0 of a moment alone."""
    number = len(features_ND)
    inside = np.ones(number - 1)
    inside[np.array(sorted(shots), dtype=int) - 1] = 0
    steps = np.linalg.norm(np.diff(features_ND, axis=0), axis=1) * inside
    neighbours_N = np.append(inside, 0) + np.append(0, inside)
    changes_N: np.ndarray = (np.append(steps, 0) + np.append(0, steps)) / np.maximum(neighbours_N, 1)
    return changes_N


def rank_pieces(pieces: Pieces, costs_C: np.ndarray, *, shown: np.ndarray | None = None) -> list[int]:
    """All pieces, in the order in which the greedy algorithm takes them by what they add per cost.

    `shown` (C,) is how similar each piece is to what is already shown.
    """
    return _greedy(pieces, costs_C, float("inf"), shown, per_cost=True)


def choose_pieces(pieces: Pieces, costs_C: np.ndarray, budget: float, *, shown: np.ndarray | None = None) -> list[int]:
    """The chosen pieces, in the order of choice, whose costs sum up to `budget` at most.

    A piece of infinite cost is never chosen. `shown` is that of `rank_pieces`.
    """
    choices = [_greedy(pieces, costs_C, budget, shown, per_cost=per_cost) for per_cost in (True, False)]
    values = [_value(pieces, chosen, shown) for chosen in choices]
    return choices[int(values[1] > values[0] + ROUNDING)]


def _value(pieces: Pieces, chosen: list[int], shown: np.ndarray | None) -> float:
    best_C = np.zeros(len(pieces)) if shown is None else shown
    for piece in chosen:
        best_C = np.maximum(best_C, pieces.shown_by(piece))
    return float(pieces.weights_C @ best_C)


def _greedy(
    pieces: Pieces, costs_C: np.ndarray, budget: float, shown: np.ndarray | None, *, per_cost: bool
) -> list[int]:
    """Lazy greedy choice: what a piece adds only falls, so most pieces need not be computed anew in each step."""
    best_C = np.zeros(len(pieces), np.float32) if shown is None else shown.astype(np.float32)
    chosen: list[int] = []

    def value_of(piece: int) -> float:
        gain = float(pieces.weights_C @ np.maximum(pieces.shown_by(piece) - best_C, 0))
        return gain / (float(costs_C[piece]) if per_cost else 1.0)

    heap = [(-value_of(piece), piece) for piece in range(len(pieces))]
    heapify(heap)
    while heap:
        _, piece = heappop(heap)
        if costs_C[piece] > budget + ROUNDING:
            continue
        value = value_of(piece)
        if heap and value < -heap[0][0] - ROUNDING:
            heappush(heap, (-value, piece))
            continue
        chosen.append(piece)
        budget -= float(costs_C[piece])
        best_C = np.maximum(best_C, pieces.shown_by(piece))
    return chosen
