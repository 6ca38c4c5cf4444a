"""The rows of an index that are most like a query: without its own file and group, one of overlapping windows each."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.retrieval.query import Query, entry_interval, overlaps
from finetune.vector_index.approximate import Graph, nearest_approximate
from finetune.vector_index.entry import NO_UNIT, Entry, unit_ids
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.nearest import Neighbours, nearest

CANDIDATES = 4  # that are asked for at first, for each hit: windows that overlap a better one are left out
READ_AT_ONCE = 64  # entries


@dataclass(frozen=True)
class Hit:
    """A row of the index with its score: the cosine with the query's vector, from -1 to 1."""

    row: int
    score: float
    entry: Entry


@dataclass(frozen=True)
class Hits:
    """A query and its hits, the best first."""

    query: Query
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class SearchOptions:
    """How many hits a query gets, and which rows may be hits; `allowed` (N,) is a bool for each row."""

    top_k: int = 10
    allowed: np.ndarray | None = None
    same_group: bool = False  # whether rows of the query's own file and group may be hits
    graph: Graph | None = None  # of the index, for approximate search; without it the search is exact


def search(index: VectorIndex, queries: Sequence[Query], vectors_QD: np.ndarray, options: SearchOptions) -> list[Hits]:
    """The hits of each query, whose vectors (Q, D) have length 1.

    Hits of one file never overlap in time: of those that do, the best is kept (non-maximum suppression), except where
    they follow different objects. A row that is the query, or overlaps it, is no hit.
    """
    units = None if options.same_group else (index.units(), _query_units(queries))
    found: dict[int, list[Hit]] = {}
    pending, count = list(range(len(queries))), CANDIDATES * options.top_k
    while pending:
        of_pending = None if units is None else (units[0], units[1][pending])
        neighbours = _neighbours(index, vectors_QD[pending], count, options, of_pending)
        for place, number in enumerate(pending):
            candidates = _candidates(index, neighbours, place)
            found[number] = _choose(queries[number], candidates, options)
        is_full = neighbours.rows_QK[:, -1] >= 0  # there may be more
        pending = [
            number for number, more in zip(pending, is_full, strict=True) if more and len(found[number]) < options.top_k
        ]
        count *= CANDIDATES
    return [Hits(query, tuple(found[number])) for number, query in enumerate(queries)]


def _neighbours(
    index: VectorIndex,
    queries_QD: np.ndarray,
    count: int,
    options: SearchOptions,
    units: tuple[np.ndarray, np.ndarray] | None,
) -> Neighbours:
    """The `count` nearest rows to each query; `units` are those of rows and of queries that must not be shared."""
    if options.graph is not None:
        return nearest_approximate(index, queries_QD, options.graph, top_k=count, allowed=options.allowed, units=units)
    unit_ids, query_units = units or (None, None)
    return nearest(index, queries_QD, top_k=count, allowed=options.allowed, unit_ids=unit_ids, query_units=query_units)


def _query_units(queries: Sequence[Query]) -> np.ndarray:
    """Ids (Q, 2) of the file and the group of each query; words have none."""
    entries = [Entry("") if query.entry is None else query.entry for query in queries]
    units_Q2 = unit_ids(entries)
    units_Q2[[query.entry is None for query in queries]] = NO_UNIT
    return units_Q2


def _candidates(index: VectorIndex, neighbours: Neighbours, place: int) -> Iterator[Hit]:
    """The nearest rows to a query, with their entries, which are read as they are needed."""
    rows = neighbours.rows_QK[place]
    rows, scores = rows[rows >= 0].tolist(), neighbours.scores_QK[place].tolist()
    for first in range(0, len(rows), READ_AT_ONCE):
        some = rows[first : first + READ_AT_ONCE]
        for row, score, entry in zip(some, scores[first:], index.entries_at(some), strict=False):
            yield Hit(row, min(1.0, score), entry)


def _choose(query: Query, candidates: Iterator[Hit], options: SearchOptions) -> list[Hit]:
    """The first `top_k` candidates that may be hits, and overlap no better one."""
    hits: list[Hit] = []
    taken: dict[tuple[str, str | None], list[tuple[float, float]]] = {}
    own = None if query.entry is None else os.path.realpath(query.entry.path)
    own_boxes = None if query.entry is None else query.entry.boxes
    for hit in candidates:
        interval = entry_interval(hit.entry)
        is_own_file = own is not None and os.path.realpath(hit.entry.path) == own
        if hit.row == query.row or (is_own_file and not options.same_group):
            continue
        if is_own_file and hit.entry.boxes == own_boxes and overlaps(interval, query.interval):
            continue
        of_file = taken.setdefault((hit.entry.path, hit.entry.boxes), [])
        if any(overlaps(interval, other) for other in of_file):
            continue
        of_file.append(interval)
        hits.append(hit)
        if len(hits) == options.top_k:
            break
    return hits
