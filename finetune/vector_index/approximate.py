"""Approximate search: a graph of near vectors (HNSW, arXiv:1603.09320) by usearch, then exact scores of what it finds.

The graph lies in the user's cache folder, not in the index: an index may come from somebody else, and a damaged graph
can crash the program that reads it. It is built once for the rows of an index, and anew when they change. Its vectors
have 8 bits a number; scores are computed from the vectors of the index.

How many candidates a search compares is measured when the graph is built: as many as find at least 95 % of the true
neighbours of a sample of rows. Vectors of clips lie on few dimensions, and need few; random ones need a large part of
all, and are then found faster by exact search.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.errors import IndexFolderError
from finetune.runtime.extras import import_extra
from finetune.storage.atomic import atomic_folder, current_version, user_cache_dir
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.nearest import Neighbours, nearest, shares_unit

FORMAT = 1  # increase when the graph is built otherwise: kept ones are then built anew
CONNECTIVITY, EXPANSION_ADD = 16, 64
EXPANSIONS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # candidates of a search, tried in this order
WANTED_RECALL = 0.95
SAMPLE_QUERIES, SAMPLE_TOP_K = 100, 10
ROWS_AT_ONCE = 1024  # added between two calls of `progress`, and until Ctrl-C is noticed
Progress = Callable[[int, int], None]


class Graph(NamedTuple):
    """A usearch index, and the share of the ten true neighbours that it finds of a sample of the index's rows."""

    search: Any
    recall: float


@dataclass(frozen=True)
class _Wanted:
    """Which rows a search may give; see `nearest`."""

    allowed: np.ndarray | None
    unit_ids: np.ndarray | None
    query_units: np.ndarray | None


def open_graph(index: VectorIndex, *, progress: Progress | None = None) -> Graph:
    """The graph of an index: the kept one, memory-mapped, or a new one, which is kept if the cache can be written.

    Building takes about 2 ms a row, and memory of about 700 bytes a row of 512 numbers; `progress` is called with (rows
    done, rows). Raises RunError where usearch is not installed, and IndexFolderError for an empty index.
    """
    usearch = import_extra("usearch.index", extra="search")
    if not len(index):
        raise IndexFolderError(f"{index.folder}: the index is empty; add videos to it with: finetune index --add")
    folder = user_cache_dir("graphs") / sha256(str(index.folder.resolve()).encode(errors="surrogateescape")).hexdigest()
    content = {"format": FORMAT, "content": index.content_id, "folder": str(index.folder.resolve())}
    facts = _read_facts(current_version(folder))
    search = _open_kept(usearch, folder, facts) if facts.items() >= content.items() else None
    if search is None:
        _remove_stale(folder.parent)
        search = _build(usearch, index, progress)
        facts = content | _tune(search, index)
        # usearch raises RuntimeError where it cannot write.
        with suppress(OSError, RuntimeError), atomic_folder(folder) as partial:
            search.save(str(partial / "graph.usearch"))
            (partial / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    search.expansion_search = int(facts["expansion"])
    return Graph(search, float(facts["recall"]))


def _open_kept(usearch: Any, folder: Path, facts: dict[str, Any]) -> Any:
    """The graph with these facts, memory-mapped; None where it cannot be read, or is being replaced by another."""
    try:
        search = usearch.Index.restore(str(current_version(folder) / "graph.usearch"), view=True)
    except (OSError, RuntimeError, ValueError):
        return None
    return search if _read_facts(current_version(folder)) == facts else None


def nearest_approximate(
    index: VectorIndex,
    queries_QD: np.ndarray,
    graph: Graph,
    *,
    top_k: int,
    allowed: np.ndarray | None = None,
    units: tuple[np.ndarray, np.ndarray] | None = None,
) -> Neighbours:
    """What `nearest` gives, but some neighbours may be missing; `units` are its `unit_ids` and `query_units`.

    More and more candidates are taken until enough of them are allowed; where few rows are allowed at all, or a query
    finds too few among a tenth of all rows, the search is exact.
    """
    unit_ids, query_units = units or (None, None)
    wanted = _Wanted(allowed, unit_ids, query_units)
    queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
    scores_QK = np.full((len(queries_QD), top_k), -np.inf, np.float32)
    rows_QK = np.full((len(queries_QD), top_k), -1, np.int64)
    most = max(top_k, len(index) // 10)
    for number, query_D in enumerate(queries_QD):
        rows = _candidates(graph.search, query_D, number, wanted, top_k=top_k, most=most)
        if rows is None:
            only = slice(number, number + 1)
            exact = nearest(
                index,
                query_D[None],
                top_k=top_k,
                allowed=allowed,
                unit_ids=unit_ids,
                query_units=None if query_units is None else query_units[only],
            )
            scores_QK[number], rows_QK[number] = exact.scores_QK[0], exact.rows_QK[0]
            continue
        scores = np.array([index.vector(row) @ query_D for row in rows.tolist()], dtype=np.float32)
        best = np.lexsort((rows, -scores))[:top_k]
        scores_QK[number, : len(best)], rows_QK[number, : len(best)] = scores[best], rows[best]
    return Neighbours(scores_QK, rows_QK)


def recall_of(found: Neighbours, exact: Neighbours) -> float:
    """The share of the rows (Q, K) of an exact search that are among the rows found (Q, K)."""
    pairs = zip(found.rows_QK, exact.rows_QK, strict=True)
    hits = [(np.isin(true[true >= 0], rows).sum(), (true >= 0).sum()) for rows, true in pairs]
    hit, number = np.sum(hits, axis=0)
    return float(hit / number) if number else 1.0


def _candidates(
    search: Any, query_D: np.ndarray, number: int, wanted: _Wanted, *, top_k: int, most: int
) -> np.ndarray | None:
    """Rows (C,) that the graph finds for a query and that it may have, at least 2 `top_k`; None if they are too few."""
    count = 4 * top_k
    while count <= max(most, 4 * top_k):
        rows = search.search(query_D, min(count, len(search))).keys.astype(np.int64)
        is_wanted = np.ones(len(rows), bool) if wanted.allowed is None else wanted.allowed[rows]
        if wanted.unit_ids is not None and wanted.query_units is not None:
            is_wanted &= ~shares_unit(wanted.unit_ids[rows], wanted.query_units[number : number + 1])[0]
        if is_wanted.sum() >= 2 * top_k or len(rows) >= len(search):
            return rows[is_wanted]
        count *= 4
    return None


def _build(usearch: Any, index: VectorIndex, progress: Progress | None) -> Any:
    graph = usearch.Index(
        ndim=index.source.dim,
        metric="cos",
        dtype="i8",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
    )
    for first, vectors_ND in index.shards():
        for begin in range(0, len(vectors_ND), ROWS_AT_ONCE):
            part_ND = vectors_ND[begin : begin + ROWS_AT_ONCE]
            done = first + begin + len(part_ND)
            graph.add(np.arange(first + begin, done), part_ND)
            if progress is not None:
                progress(done, len(index))
    return graph


def _tune(graph: Any, index: VectorIndex) -> dict[str, float]:
    """The lowest expansion of EXPANSIONS with the wanted recall on a sample of rows, and this recall."""
    sample = np.random.default_rng(0).choice(len(index), min(SAMPLE_QUERIES, len(index)), replace=False)
    queries_QD = np.stack([index.vector(row) for row in sample.tolist()])
    rows_N = np.arange(len(index))  # as unit ids: a row is not its own neighbour
    exact = nearest(index, queries_QD, top_k=SAMPLE_TOP_K, unit_ids=rows_N, query_units=sample)
    recall, expansion = 0.0, 0
    for expansion in EXPANSIONS:
        graph.expansion_search = expansion
        found = nearest_approximate(index, queries_QD, Graph(graph, recall), top_k=SAMPLE_TOP_K, units=(rows_N, sample))
        recall = recall_of(found, exact)
        if recall >= WANTED_RECALL:
            break
    return {"expansion": expansion, "recall": recall}


def _read_facts(folder: Path) -> dict[str, Any]:
    """What was written beside a graph; empty where there is none."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) and {"expansion", "recall"} <= facts.keys() else {}
    except (OSError, ValueError):
        return {}


def _remove_stale(root: Path) -> None:
    """Delete the graphs of index folders that are gone."""
    for folder in _folders(root):
        kept_for = _read_facts(folder).get("folder")
        if isinstance(kept_for, str) and not Path(kept_for).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _folders(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from [path for path in root.iterdir() if path.is_dir()]
