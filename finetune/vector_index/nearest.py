"""The nearest vectors to some queries: exact search by matrix products, one shard at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finetune.errors import IndexFolderError
from finetune.vector_index.entry import NO_UNIT
from finetune.vector_index.index import VectorIndex

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Neighbours:
    """The rows (Q, K) that are nearest to Q queries, best first, and their scores (Q, K): cosines, from -1 to 1.

    Where a query has fewer than K of them, the rest has the row -1 and the score -inf.
    """

    scores_QK: np.ndarray  # float32
    rows_QK: np.ndarray  # int64


def nearest(
    index: VectorIndex | np.ndarray,
    queries_QD: np.ndarray,
    *,
    top_k: int,
    allowed: np.ndarray | None = None,
    unit_ids: np.ndarray | None = None,
    query_units: np.ndarray | None = None,
) -> Neighbours:
    """The `top_k` nearest rows to each query (Q, D), by cosine; of equal scores the lower row comes first.

    `index` is an index, or vectors (N, D) of length 1. `allowed` (N,) bool: rows that may be found. `unit_ids` (N,) or
    (N, U), as by `VectorIndex.units`, with `query_units` (Q,) or (Q, U): rows that share a unit with a query are left
    out for it; NO_UNIT (-1) is shared with nothing. Memory does not grow with N, except for these two arrays.
    """
    if not len(index):
        where = f"{index.folder}: the index is empty" if isinstance(index, VectorIndex) else "there are no vectors"
        raise IndexFolderError(f"{where}; add videos to it with: finetune index SOURCE --out DIR --add")
    queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
    best = _Best.empty(len(queries_QD), min(top_k, len(index)))
    for first, vectors_ND in _blocks(index):
        with np.errstate(all="ignore"):  # damaged vectors are reported by _check_cosines
            scores_QN = queries_QD @ vectors_ND.T
        _check_cosines(index, scores_QN)
        rows = slice(first, first + len(vectors_ND))
        if allowed is not None:
            scores_QN[:, ~allowed[rows]] = -np.inf
        if unit_ids is not None and query_units is not None:
            scores_QN[shares_unit(unit_ids[rows], query_units)] = -np.inf
        best = best.merged(scores_QN, first)
    missing = ((0, 0), (0, top_k - best.scores_QK.shape[1]))
    return Neighbours(
        np.pad(best.scores_QK, missing, constant_values=-np.inf), np.pad(best.rows_QK, missing, constant_values=-1)
    )


def shares_unit(unit_ids: np.ndarray, query_units: np.ndarray) -> np.ndarray:
    """Whether each of Q queries shares a unit with each of N rows, (Q, N); ids are (N,) or (N, U), (Q,) or (Q, U)."""
    ids_NU, wanted_QU = (np.reshape(ids, (len(ids), -1)) for ids in (unit_ids, query_units))
    shared_QN = np.zeros((len(wanted_QU), len(ids_NU)), dtype=bool)
    for ids_N, wanted_Q in zip(ids_NU.T, wanted_QU.T, strict=True):
        shared_QN |= (wanted_Q[:, None] == ids_N) & (wanted_Q[:, None] != NO_UNIT)
    return shared_QN


def _check_cosines(index: VectorIndex | np.ndarray, scores_QN: np.ndarray) -> None:
    """Raise IndexFolderError where a score is no cosine."""
    if scores_QN.size and not scores_QN.max() < 1.01:  # NaN is refused as well
        where = index.folder if isinstance(index, VectorIndex) else "vectors"
        raise IndexFolderError(f"{where}: has vectors whose length is not 1: it is damaged; index the videos again")


def _blocks(index: VectorIndex | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    if isinstance(index, VectorIndex):
        yield from index.shards()
    else:
        for first in range(0, len(index), BLOCK_ROWS):
            yield first, np.asarray(index[first : first + BLOCK_ROWS], dtype=np.float32)


@dataclass(frozen=True)
class _Best:
    """The best rows so far, sorted by score, then by row."""

    scores_QK: np.ndarray
    rows_QK: np.ndarray

    @staticmethod
    def empty(queries: int, top_k: int) -> "_Best":
        return _Best(np.full((queries, top_k), -np.inf, np.float32), np.full((queries, top_k), -1, np.int64))

    def merged(self, scores_QN: np.ndarray, first: int) -> "_Best":
        """With a block of scores; its rows start at `first` and are higher than those so far."""
        queries, top_k = self.scores_QK.shape
        least_Q1 = self.scores_QK[:, -1:]
        candidates_QN = scores_QN > least_Q1
        if candidates_QN.sum() > 4 * queries * top_k:
            least_of_block = max(scores_QN.shape[1] - top_k, 0)
            candidates_QN &= scores_QN >= np.partition(scores_QN, least_of_block)[:, least_of_block, None]
        query, column = np.nonzero(candidates_QN)
        if not len(query):
            return self
        scores = np.concatenate([self.scores_QK.ravel(), scores_QN[query, column]])
        rows = np.concatenate([self.rows_QK.ravel(), column + first])
        query = np.concatenate([np.repeat(np.arange(queries), top_k), query])
        order = np.lexsort((rows, -scores, query))
        starts = np.searchsorted(query[order], np.arange(queries))
        chosen_QK = order[starts[:, None] + np.arange(top_k)]
        return _Best(scores[chosen_QK], rows[chosen_QK])
