"""Compute what is wanted of a data set and not kept yet: each video is decoded once for all its views."""

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
from finetune.video.row_loader import row_loader

ProgressCallback = Callable[[int, int], None]  # is called with the rows done and all, and may raise to end it


@dataclass(frozen=True)
class FillTimings:
    """Seconds that one row took to decode with all its views, and with one; that one clip took to compute.

    `rounding` is how far what is kept of it is from what was computed, as a share of its norm.
    """

    decode_row: float
    decode_clip: float
    compute_clip: float
    rounding: float


def fill_cache(
    model: VideoClassifier,
    frozen: FrozenPart,
    kept: CachedClips,
    data: Data,
    *,
    share: tuple[int, int] = (0, 1),
    watch: ProgressCallback = lambda done, rows: None,
) -> int:
    """Keep what is missing of this process's share of the rows; how many rows that were.

    `share` says which of how many processes this is; each sees what the others kept once it asks by `refresh`. What
    is whole when something ends it stays. Of a row that cannot be read with all its draws each is tried alone; what
    cannot be read then is noted in `kept.failed`.
    """
    rank, world = share
    positions = kept.missing()
    positions = positions[positions % world == rank]
    count = len(positions)
    if not count:
        return 0
    with kept.store.writer() as writer:
        failed = _compute(model, frozen, kept, data, positions, kept.views, writer, lambda done: watch(done, count))
        if failed and kept.dataset.augment is not None and len(kept.views) > 1:
            again = positions[np.isin(kept.dataset.rows[positions], list(failed))]
            failed = {}
            for view in kept.views:
                failed |= _compute(model, frozen, kept, data, again, (view,), writer, lambda done: watch(count, count))
    kept.failed.update(failed)
    kept.refresh()
    return count


def _compute(
    model: VideoClassifier,
    frozen: FrozenPart,
    kept: CachedClips,
    data: Data,
    positions: np.ndarray,
    views: Sequence[int],
    writer: ShardWriter,
    watch: Callable[[int], None],
) -> dict[int, str]:
    """Write some views of the rows at some positions; the reason for each row that could not be read."""
    dataset = kept.dataset.with_rows_and_draws(positions, tuple(views))
    place_of = dict(zip(dataset.rows.tolist(), positions.tolist(), strict=True))
    columns = [kept.views.index(view) for view in views]
    patient = data.model_copy(update={"decode_timeout": data.decode_timeout * len(views)})
    failed: dict[int, str] = {}
    drawn = kept.dataset.augment is not None
    size = max(1, FORWARD_BATCH_SIZE // len(views))
    with row_loader(dataset, patient, batch_size=size, least_workers=int(drawn)) as loader:
        for batch in loader:
            failed.update(batch["skipped"])
            if batch["clips"] is not None:
                places = np.ix_([place_of[row] for row in batch["row"].tolist()], columns)
                wanted = (kept.places_NV["shard"][places] == MISSING).reshape(-1)
                clips = batch["clips"].flatten(0, 1)[wanted]
                if len(clips):
                    writer.add(kept.keys_NV[places].reshape(-1)[wanted], cut_activations(model, clips, frozen).cpu())
            watch(len(batch["row"]) + len(batch["skipped"]))
    return failed


def measure_fill(
    model: VideoClassifier, frozen: FrozenPart, kept: CachedClips, *, time_limit: float
) -> FillTimings | None:
    """On the first missing row that can be read, in this process; None where there is none, or it takes too long."""
    for position in kept.missing()[:3].tolist():
        found: list[tuple[float, float, Tensor]] = []
        # A file may hang its decoder: nobody waits for that thread.
        reader = Thread(target=_time_read, args=(kept, position, found), daemon=True)
        reader.start()
        reader.join(time_limit)
        if reader.is_alive():
            return None
        if found:
            decode_row, decode_clip, clips = found[0]
            started = time.perf_counter()
            cut_activations(model, clips, frozen).cpu()
            seconds = time.perf_counter() - started
            return FillTimings(decode_row, decode_clip, seconds, rounding_error(model, clips, frozen))
    return None


def _time_read(kept: CachedClips, position: int, found: list[tuple[float, float, Tensor]]) -> None:
    """Add the seconds to read a row with all its views, with one, and that clip; nothing where it cannot be read."""
    started = time.perf_counter()
    every = kept.dataset.with_rows_and_draws(np.array([position]), kept.views)[0]
    middle = time.perf_counter()
    one = kept.dataset.with_rows_and_draws(np.array([position]), kept.views[:1])[0]
    if "error" not in every and "error" not in one:
        found.append((middle - started, time.perf_counter() - middle, one["clips"][:1]))
