"""Compute the activations that are missing in the cache; each video is decoded once for all its views."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread

import numpy as np
from torch import Tensor

from finetune.feature_cache.cached_clips import CachedClips
from finetune.feature_cache.frozen_part import FORWARD_BATCH_SIZE, FrozenPart, cut_activations, rounding_error
from finetune.feature_cache.shard_store import MISSING, ShardWriter
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Data
from finetune.video.dataset import ClipDataset
from finetune.video.loader import ClipLoader
from finetune.video.row_loader import row_loader

ProgressCallback = Callable[[int, int], None]  # called with (rows done, rows); may raise to stop


@dataclass(frozen=True)
class FillTimings:
    """Measured on one row: seconds to decode it with all its views, and with one; seconds to compute one clip.

    `rounding` is the relative error of the cached activations, see `rounding_error`.
    """

    decode_row: float
    decode_clip: float
    compute_clip: float
    rounding: float


def fill_cache(
    model: VideoClassifier,
    frozen: FrozenPart,
    cached: CachedClips,
    data: Data,
    *,
    share: tuple[int, int] = (0, 1),
    watch: ProgressCallback = lambda done, rows: None,
) -> int:
    """Compute and store what is missing of this process's share of the rows; returns how many rows that were.

    `share` is (rank, world); a process sees what the others stored after `cached.refresh()`. When it is interrupted,
    finished shards stay. A row that cannot be read with all its views is tried with each view alone; what fails then is
    recorded in `cached.failed`.
    """
    rank, world = share
    positions = cached.missing()
    positions = positions[positions % world == rank]
    count = len(positions)
    if not count:
        return 0
    with cached.store.writer() as writer:
        filler = _Filler(model, frozen, cached, data, writer)
        failed = filler.compute(positions, cached.views, lambda done: watch(done, count))
        if failed and cached.dataset.augment is not None and len(cached.views) > 1:
            retried = positions[np.isin(cached.dataset.rows[positions], list(failed))]
            failed = {}
            for view in cached.views:
                failed |= filler.compute(retried, (view,), lambda done: watch(count, count))
    cached.failed.update(failed)
    cached.refresh()
    return count


@dataclass(frozen=True, eq=False)
class _Filler:
    """Computes clips of a data set, and writes their activations."""

    model: VideoClassifier
    frozen: FrozenPart
    cached: CachedClips
    data: Data
    writer: ShardWriter

    def compute(self, positions: np.ndarray, views: Sequence[int], watch: Callable[[int], None]) -> dict[int, str]:
        """Compute some views of the rows at some positions (M,); returns why rows could not be read, by row."""
        cached = self.cached
        dataset = cached.dataset.with_rows_and_draws(positions, tuple(views))
        position_of = dict(zip(dataset.rows.tolist(), positions.tolist(), strict=True))
        columns = [cached.views.index(view) for view in views]
        failed: dict[int, str] = {}
        with self._loader(dataset, len(views)) as loader:
            for batch in loader:
                failed.update(batch["skipped"])
                if batch["clips"] is not None:
                    cells = np.ix_([position_of[row] for row in batch["row"].tolist()], columns)
                    is_missing = (cached.places_NV["shard"][cells] == MISSING).reshape(-1)
                    clips = batch["clips"].flatten(0, 1)[is_missing]
                    if len(clips):
                        activations = cut_activations(self.model, clips, self.frozen).cpu()
                        self.writer.add(cached.keys_NV[cells].reshape(-1)[is_missing], activations)
                watch(len(batch["row"]) + len(batch["skipped"]))
        return failed

    def _loader(self, dataset: ClipDataset, views: int) -> ClipLoader:
        """A loader of rows with so many views; the time limit of a row counts for each of them."""
        data = self.data.model_copy(update={"decode_timeout": self.data.decode_timeout * views})
        is_augmented = self.cached.dataset.augment is not None
        batch_size = max(1, FORWARD_BATCH_SIZE // views)
        return row_loader(dataset, data, batch_size=batch_size, least_workers=int(is_augmented))


def measure_fill(
    model: VideoClassifier, frozen: FrozenPart, cached: CachedClips, *, time_limit: float
) -> FillTimings | None:
    """Timings of the first row with missing clips that can be read; None without such a row, or where it hangs."""
    for position in cached.missing()[:3].tolist():
        results: list[tuple[float, float, Tensor]] = []
        # A file may hang its decoder; the thread is then left behind.
        reader = Thread(target=_time_read, args=(cached, position, results), daemon=True)
        reader.start()
        reader.join(time_limit)
        if reader.is_alive():
            return None
        if results:
            decode_row, decode_clip, clips = results[0]
            started = time.perf_counter()
            cut_activations(model, clips, frozen).cpu()
            seconds = time.perf_counter() - started
            return FillTimings(decode_row, decode_clip, seconds, rounding_error(model, clips, frozen))
    return None


def _time_read(cached: CachedClips, position: int, results: list[tuple[float, float, Tensor]]) -> None:
    """Append the seconds to read a row with all its views, and with one, and its first clip (1, T, C, H, W).

    Appends nothing where the row cannot be read.
    """
    started = time.perf_counter()
    all_views = cached.dataset.with_rows_and_draws(np.array([position]), cached.views)[0, 0]
    middle = time.perf_counter()
    one_view = cached.dataset.with_rows_and_draws(np.array([position]), cached.views[:1])[0, 0]
    if "error" not in all_views and "error" not in one_view:
        results.append((middle - started, time.perf_counter() - middle, one_view["clips"][:1]))
