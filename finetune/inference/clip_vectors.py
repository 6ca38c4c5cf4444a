"""Vectors of clips in a temporary file, as they are computed, so that memory does not grow with their number."""

from collections.abc import Sequence
from tempfile import TemporaryFile

import numpy as np


class ClipVectors:
    """The vectors that a model passes to its head, scaled to length 1, of rows in the order in which they are added."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 (it lives as long as this object)
        self._rows: list[int] = []
        self._dim = 0

    def add(self, rows: Sequence[int], vectors_BD: np.ndarray) -> None:
        """Add the vectors of B rows; a vector of zeros stays one, and is equally far from all."""
        lengths_B1 = np.linalg.norm(vectors_BD.astype(np.float64), axis=1, keepdims=True)
        unit_BD = (vectors_BD / np.maximum(lengths_B1, 1e-12)).astype(np.float32)
        self._file.write(unit_BD.tobytes())
        self._rows.extend(rows)
        self._dim = vectors_BD.shape[1]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows (N,) and their vectors (N, D), float32, mapped from the file; at least one must have been added.

        Nothing can be added afterwards: the file is closed, and goes with the vectors.
        """
        with self._file as file:
            file.flush()
            shape = (len(self._rows), self._dim)
            return np.array(self._rows, dtype=int), np.memmap(file, np.float32, mode="r", shape=shape)
