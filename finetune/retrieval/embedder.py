"""What an embedder is: it computes a vector of length 1 for each clip, so that like clips have near vectors."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Clip
from finetune.retrieval.build_plan import WindowLengths
from finetune.vector_index.entry import EmbeddingSource
from finetune.video.dataset import ClipDataset
from finetune.video.probe_files import scan_files

Progress = Callable[[int, int], None]


class Embedded(NamedTuple):
    """The vector (D,) of a row of a manifest, float32 of length 1, or why there is none: `PATH: reason`."""

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

    def embed(
        self, clips: Manifest, rows: np.ndarray | None = None, *, progress: Progress | None = None
    ) -> Iterator[Embedded]:
        """The vectors of `rows` (R,), by default of all, in any order; each clip is seen once, as in evaluation.

        A picture is a video of one frame. `progress` is called with (rows done, rows).
        """
        ...

    def embed_windows(
        self,
        recording: Path,
        lengths: WindowLengths,
        *,
        first_window: int = 0,
        progress: Callable[[float, float], None] | None = None,
    ) -> Iterator[WindowVector]:
        """The vector of each window of a recording from `first_window` on, in order, in one pass and constant memory.

        It is that of a row with this start and end. `progress` is called with (seconds done, seconds). Raises
        VideoError for a file that cannot be read.
        """
        ...


def embedded(row: int, features_D: np.ndarray, name: str) -> Embedded:
    """The row `name` with its features (D,) scaled to length 1, or with the reason why they have no direction."""
    features_D = features_D.astype(np.float32, copy=False)
    length = float(np.linalg.norm(features_D.astype(np.float64)))
    if not np.isfinite(length):
        return Embedded(row, None, f"{name}: its features are not finite; compute with train.precision=fp32")
    if length == 0:
        return Embedded(row, None, f"{name}: all its features are 0, so it is like no other clip")
    return Embedded(row, (features_D / length).astype(np.float32))


def open_rows(clips: Manifest, clip: Clip, rows: np.ndarray | None) -> tuple[ClipDataset, dict[int, str]]:
    """The `rows` (R,) of a manifest as one clip each, by default all, and why some cannot be read, by row."""
    manifest = replace(clips, splits=np.full(len(clips), "test", dtype="U5"), tasks={})
    facts = scan_files(manifest)
    dataset = ClipDataset(manifest, "test", clip=clip, views=1, facts=facts)
    wanted = set(range(len(clips)) if rows is None else rows.tolist())
    bad = {row: reason for row, reason in facts.bad.items() if row in wanted}
    return dataset.with_rows_and_draws(np.flatnonzero([row in wanted for row in dataset.rows.tolist()])), bad
