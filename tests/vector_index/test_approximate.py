"""Approximate search finds nearly what exact search finds, and keeps to the same exclusions."""

import sys

import numpy as np
import pytest

from finetune.errors import IndexFolderError, RunError
from finetune.vector_index.approximate import nearest_approximate, open_graph, recall_of
from finetune.vector_index.entry import EmbeddingSource, Entry
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.nearest import nearest
from finetune.vector_index.writer import IndexWriter

SOURCE = EmbeddingSource("backbone", "resnet18", "ab" * 32, 24, {})
ROWS = 1000


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "finetune/graphs"


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 24)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def add(folder, vectors):
    with IndexWriter(folder, SOURCE) as writer:
        writer.add([Entry(f"/{n}.mp4", row=n) for n in range(len(vectors))], vectors)
    return VectorIndex.open(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return add(tmp_path_factory.mktemp("made") / "index", unit_vectors(ROWS))


def test_it_finds_what_exact_search_finds_and_says_how_much(index):
    queries = unit_vectors(50, seed=1)
    graph = open_graph(index)
    found = nearest_approximate(index, queries, graph, top_k=10)
    exact = nearest(index, queries, top_k=10)
    assert graph.recall >= 0.95
    assert recall_of(found, exact) >= 0.93
    scores = np.einsum("qkd,qd->qk", unit_vectors(ROWS)[found.rows_QK], queries)
    assert found.scores_QK == pytest.approx(scores, abs=1e-6), "scores are exact"
    assert (np.diff(found.scores_QK, axis=1) <= 0).all()


def test_recall_counts_the_true_rows_that_were_found(index):
    exact = nearest(index, unit_vectors(3, seed=1), top_k=4)
    found = nearest(index, unit_vectors(3, seed=1), top_k=3)
    assert recall_of(exact, exact) == 1 and recall_of(found, exact) == 0.75


def test_rows_of_the_same_unit_and_rows_that_are_not_allowed_are_left_out(index):
    queries, graph = unit_vectors(20, seed=2), open_graph(index)
    allowed = np.arange(ROWS) % 3 > 0
    units = np.arange(ROWS) % 7, np.arange(20) % 7
    found = nearest_approximate(index, queries, graph, top_k=10, allowed=allowed, units=units)
    exact = nearest(index, queries, top_k=10, allowed=allowed, unit_ids=units[0], query_units=units[1])
    assert allowed[found.rows_QK].all() and not (found.rows_QK % 7 == units[1][:, None]).any()
    assert recall_of(found, exact) >= 0.93


def test_where_few_rows_are_allowed_the_search_is_exact(index):
    queries, graph = unit_vectors(5, seed=3), open_graph(index)
    allowed = np.arange(ROWS) < 6
    units = np.zeros(ROWS, int), np.full(5, -1)
    found = nearest_approximate(index, queries, graph, top_k=10, allowed=allowed, units=units)
    exact = nearest(index, queries, top_k=10, allowed=allowed)
    assert (found.rows_QK == exact.rows_QK).all() and (found.rows_QK[:, 6:] == -1).all()
    many = nearest_approximate(index, queries, graph, top_k=ROWS + 5)
    assert (np.sort(many.rows_QK) == np.sort(nearest(index, queries, top_k=ROWS + 5).rows_QK)).all()


def test_the_graph_is_kept_until_rows_change(tmp_path, cache):
    index, counts = add(tmp_path / "index", unit_vectors(30)), []
    open_graph(index, progress=lambda *count: counts.append(count))
    open_graph(index, progress=lambda *count: counts.append(count))
    assert counts == [(30, 30)], "the second time it was read"
    index = add(tmp_path / "index", unit_vectors(5, seed=4))
    graph = open_graph(index, progress=lambda *count: counts.append(count))
    assert counts == [(30, 30), (35, 35)] and len(graph.search) == 35
    assert len(list(cache.iterdir())) == 1


def test_graphs_of_folders_that_are_gone_are_deleted(tmp_path, cache):
    open_graph(add(tmp_path / "gone", unit_vectors(5)))
    (tmp_path / "gone").rename(tmp_path / "moved")
    open_graph(add(tmp_path / "other", unit_vectors(5)))
    assert len(list(cache.iterdir())) == 1


def test_a_kept_graph_with_damaged_facts_is_built_again(tmp_path, cache):
    index = add(tmp_path / "index", unit_vectors(5))
    open_graph(index)
    (facts,) = cache.glob("*/facts.json")
    facts.write_text("{")
    assert len(open_graph(index).search) == 5


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_kept_graph_that_cannot_be_read_is_built_again(tmp_path, cache, content):
    index = add(tmp_path / "index", unit_vectors(50))
    open_graph(index)
    (file,) = cache.glob("*/graph.usearch")
    file.write_bytes(content)
    assert len(open_graph(index).search) == 50 and len(file.read_bytes()) > 1000


def test_without_a_cache_folder_that_can_be_written_the_graph_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    index = add(tmp_path / "index", unit_vectors(50))
    assert open_graph(index).recall >= 0.95


def test_nothing_in_the_index_folder_is_read_as_a_graph(tmp_path):
    index = add(tmp_path / "index", unit_vectors(5))
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    open_graph(index)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before


def test_an_empty_index_and_a_missing_library_are_named(tmp_path, monkeypatch):
    with pytest.raises(IndexFolderError, match="the index is empty"):
        open_graph(add(tmp_path / "index", unit_vectors(0)))
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(RunError, match=r'pip install "finetune-video\[search\]"'):
        open_graph(add(tmp_path / "index", unit_vectors(5)))
