"""The vectors of queries: those of rows are in the index, others are computed by the model that made it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import DataError
from finetune.retrieval.query import Query, entry_interval
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.vector_index.index import VectorIndex

if TYPE_CHECKING:
    from finetune.retrieval.embedder import Embedder


def query_vectors(
    index: VectorIndex,
    queries: Sequence[Query],
    embedder: "Embedder | None" = None,
    *,
    image_rate: float = DEFAULT_IMAGE_FPS,
) -> np.ndarray:
    """The vector of each query (Q, D), float32 of length 1; `embedder` may be None if all are rows.

    Folders of numbered images have `image_rate` images per second. Raises DataError with all queries that cannot be
    embedded.
    """
    vectors_QD = np.empty((len(queries), index.source.dim), dtype=np.float32)
    files: list[int] = []
    words: list[int] = []
    for place, query in enumerate(queries):
        if query.row is not None:
            vectors_QD[place] = index.vector(query.row)
        else:
            (files if query.words is None else words).append(place)
    if files or words:
        assert embedder is not None, "queries that are no rows need an embedder"
        if files:
            vectors_QD[files] = _embed_files(embedder, [queries[place] for place in files], image_rate)
        if words:
            vectors_QD[words] = embedder.embed_text([queries[place].words for place in words])  # type: ignore[attr-defined]
    return vectors_QD


def _embed_files(embedder: "Embedder", queries: Sequence[Query], image_rate: float) -> np.ndarray:
    """The vectors (Q, D) of videos, parts of videos and pictures. Raises DataError."""
    from finetune.data.rows_without_labels import rows_without_labels

    entries = [query.entry for query in queries if query.entry is not None]
    vectors: dict[int, np.ndarray] = {}
    reasons: dict[int, str] = {}
    with TemporaryDirectory(prefix="finetune-queries-") as folder:  # of the facts about the files
        clips = rows_without_labels(
            Path(folder) / "queries",
            [Path(entry.path) for entry in entries],
            [entry_interval(entry) for entry in entries],
            image_rate=image_rate,
        )
        for row, vector_D, reason in embedder.embed(clips):
            if vector_D is None:
                reasons[row] = reason or "cannot be read"
            else:
                vectors[row] = vector_D
    if reasons:
        problems = [f"{queries[row].name}: {reason}" for row, reason in sorted(reasons.items())]
        raise DataError("\n".join(dict.fromkeys(problems)))
    return np.stack([vectors[row] for row in range(len(entries))])
