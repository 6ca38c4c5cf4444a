"""Compute what is wanted of a data set and not kept yet: each video is decoded once for all its views."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread

import numpy as np
from torch import Tensor

from finetune.feature_cache.cached_clips import KeptClips
from finetune.feature_cache.frozen_part import CLIPS_AT_ONCE, FrozenPart, entering, rounding_error
from finetune.feature_cache.shard_store import MISSING, Writer
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Data
from finetune.video.row_loader import row_loader

Watch = Callable[[int, int], None]  # is called with the rows done and all, and may raise to end it


@dataclass(frozen=True)
class Measured:
    """Seconds that one row took to decode with all its views, and with one; that one clip took to compute.

    `rounding` is how far what is kept of it is from what was computed, as a share of its norm.
    """

    decode_row: float
    decode_clip: float
    compute_clip: float
    rounding: float


def fill(
    model: VideoClassifier,
    frozen: FrozenPart,
    kept: KeptClips,
    data: Data,
    *,
    share: tuple[int, int] = (0, 1),
    watch: Watch = lambda done, rows: None,
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
    kept: KeptClips,
    data: Data,
    positions: np.ndarray,
    views: Sequence[int],
    writer: Writer,
    watch: Callable[[int], None],
) -> dict[int, str]:
    """Write some views of the rows at some positions; the reason for each row that could not be read."""
    dataset = kept.dataset.at_once(positions, tuple(views))
    place_of = dict(zip(dataset.rows.tolist(), positions.tolist(), strict=True))
    columns = [kept.views.index(view) for view in views]
    patient = data.model_copy(update={"time_limit": data.time_limit * len(views)})
    failed: dict[int, str] = {}
    drawn = kept.dataset.augment is not None
    size = max(1, CLIPS_AT_ONCE // len(views))
    with row_loader(dataset, patient, batch_size=size, least_workers=int(drawn)) as loader:
        for batch in loader:
            failed.update(batch["skipped"])
            if batch["clips"] is not None:
                places = np.ix_([place_of[row] for row in batch["row"].tolist()], columns)
                wanted = (kept.places_NV["shard"][places] == MISSING).reshape(-1)
                clips = batch["clips"].flatten(0, 1)[wanted]
                if len(clips):
                    writer.add(kept.keys_NV[places].reshape(-1)[wanted], entering(model, clips, frozen).cpu())
            watch(len(batch["row"]) + len(batch["skipped"]))
    return failed


def measured(model: VideoClassifier, frozen: FrozenPart, kept: KeptClips, *, time_limit: float) -> Measured | None:
    """On the first missing row that can be read, in this process; None where there is none, or it takes too long."""
    for position in kept.missing()[:3].tolist():
        found: list[tuple[float, float, Tensor]] = []
        # A file may hang its decoder: nobody waits for that thread.
        reader = Thread(target=_read_once, args=(kept, position, found), daemon=True)
        reader.start()
        reader.join(time_limit)
        if reader.is_alive():
            return None
        if found:
            decode_row, decode_clip, clips = found[0]
            started = time.perf_counter()
            entering(model, clips, frozen).cpu()
            seconds = time.perf_counter() - started
            return Measured(decode_row, decode_clip, seconds, rounding_error(model, clips, frozen))
    return None


def _read_once(kept: KeptClips, position: int, found: list[tuple[float, float, Tensor]]) -> None:
    """Add the seconds to read a row with all its views, with one, and that clip; nothing where it cannot be read."""
    started = time.perf_counter()
    every = kept.dataset.at_once(np.array([position]), kept.views)[0]
    middle = time.perf_counter()
    one = kept.dataset.at_once(np.array([position]), kept.views[:1])[0]
    if "error" not in every and "error" not in one:
        found.append((middle - started, time.perf_counter() - middle, one["clips"][:1]))
