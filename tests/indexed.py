"""Indexes made by the tests, of given entries and of vectors that no model has computed."""

import numpy as np

from finetune.vector_index.entry import EmbeddingSource, Entry
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.writer import IndexWriter


def unit_vectors(count, dim=8, *, seed=0):
    """Random vectors of length 1, float32 (N, D)."""
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(folder, entries, vectors=None, *, kind="backbone"):
    """An index of entries, or of as many files of two classes; without `vectors` they are random."""
    if isinstance(entries, int):
        entries = [
            Entry(f"/clips/{row}.mp4", labels={"label": ["wave" if row % 2 else "kick"]}, group=f"p{row // 4}", row=row)
            for row in range(entries)
        ]
    vectors = unit_vectors(len(entries)) if vectors is None else np.asarray(vectors, dtype=np.float32)
    with IndexWriter(folder, EmbeddingSource(kind, "tiny", "0" * 64, vectors.shape[1], {})) as writer:
        writer.add(entries, vectors)
    return VectorIndex.open(folder)
