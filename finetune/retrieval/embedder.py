"""What an embedder is: it computes a vector of length 1 for each clip, so that like clips have near vectors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from finetune.data.manifest import Manifest
from finetune.vector_index.entry import EmbeddingSource

Progress = Callable[[int, int], None]


class Embedded(NamedTuple):
    """The vector (D,) of a row of a manifest, float32 of length 1, or the reason why there is none."""

    row: int
    vector_D: np.ndarray | None
    reason: str | None = None


class WindowVector(NamedTuple):
    """The vector (D,) of the part of a recording from `start` to `end`, in seconds."""

    start: float
    end: float
    vector_D: np.ndarray


class Embedder(Protocol):
    """Embeds the clips of a manifest, and windows of recordings. Equal sources give equal vectors."""

    @property
    def source(self) -> EmbeddingSource: ...

    def embed(self, clips: Manifest, *, progress: Progress | None = None) -> Iterator[Embedded]:
        """The vector of each row, in any order, as rows are computed; each clip is seen once, as in evaluation.

        A picture is a video of one frame. `progress` is called with (rows done, rows).
        """
        ...

    def embed_windows(
        self,
        recording: Path,
        *,
        window_seconds: float,
        step_seconds: float | None = None,
        progress: Callable[[float, float], None] | None = None,
    ) -> Iterator[WindowVector]:
        """The vector of each window of a recording, in order, in one pass and constant memory.

        It is that of a row with this start and end. `progress` is called with (seconds done, seconds). Raises
        VideoError for a file that cannot be read.
        """
        ...


def embedded(row: int, features_D: np.ndarray) -> Embedded:
    """A row with its features (D,) scaled to length 1, or with the reason why they have no direction."""
    features_D = features_D.astype(np.float32, copy=False)
    length = float(np.linalg.norm(features_D.astype(np.float64)))
    if not np.isfinite(length):
        return Embedded(row, None, "its features are not finite numbers; compute with train.precision=fp32")
    if length == 0:
        return Embedded(row, None, "all its features are 0, so it is like no other clip")
    return Embedded(row, (features_D / length).astype(np.float32))
