"""Exact search against a plain sort of all scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import IndexFolderError
from finetune.vector_index.nearest import nearest


def sorted_rows(vectors, queries, top_k, allowed, unit_ids, query_units):
    """Of each query: (score, row) of the rows that it may have, best first."""
    found = []
    for query, unit in zip(queries, query_units, strict=True):
        scores = vectors @ query
        rows = [row for row in np.lexsort((np.arange(len(vectors)), -scores)) if allowed[row]]
        rows = [row for row in rows if not any(a == b != -1 for a, b in zip(unit_ids[row], unit, strict=True))]
        found.append([(scores[row], row) for row in rows[:top_k]])
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    top_k=st.integers(1, 70),
    units=st.integers(1, 2),
    block=st.sampled_from([1, 7, 8192]),
)
def test_it_gives_what_a_sort_of_all_scores_gives(seed, rows, top_k, units, block):
    rng = np.random.default_rng(seed)
    vectors = np.eye(4, dtype=np.float32)[rng.integers(0, 4, rows)] * rng.choice([-1, 1], (rows, 1))  # many ties
    queries = rng.integers(-1, 2, (5, 4)).astype(np.float32) / 4
    allowed = rng.random(rows) < 0.8
    unit_ids, query_units = rng.integers(-1, 3, (rows, units)), rng.integers(-1, 3, (5, units))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finetune.vector_index.nearest.BLOCK_ROWS", block)
        found = nearest(vectors, queries, top_k=top_k, allowed=allowed, unit_ids=unit_ids, query_units=query_units)
    expected = sorted_rows(vectors, queries, top_k, allowed, unit_ids, query_units)
    assert found.rows_QK.shape == found.scores_QK.shape == (5, top_k)
    for scores, rows_K, pairs in zip(found.scores_QK, found.rows_QK, expected, strict=True):
        assert [(score, row) for score, row in zip(scores, rows_K, strict=True) if row >= 0] == pairs
        assert (rows_K[len(pairs) :] == -1).all() and (scores[len(pairs) :] == -np.inf).all()


def test_random_vectors_are_ordered_by_cosine_over_many_blocks(monkeypatch):
    monkeypatch.setattr("finetune.vector_index.nearest.BLOCK_ROWS", 100)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = nearest(vectors, vectors[:20], top_k=10)
    expected = np.argsort(-(vectors[:20] @ vectors.T), axis=1)[:, :10]
    assert (found.rows_QK == expected).all()
    assert found.rows_QK[:, 0].tolist() == list(range(20)) and found.scores_QK[:, 0] == pytest.approx(1)


def test_no_vectors_are_refused():
    with pytest.raises(IndexFolderError, match="no vectors; add videos to it with: finetune index"):
        nearest(np.zeros((0, 3), np.float32), np.ones((1, 3), np.float32), top_k=1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 3e5])
def test_vectors_of_another_length_are_damage(wrong):
    vectors = np.eye(3, dtype=np.float32)
    vectors[1] = wrong
    with pytest.raises(IndexFolderError, match="whose length is not 1: it is damaged"):
        nearest(vectors, np.full((1, 3), 0.5, np.float32), top_k=1)
