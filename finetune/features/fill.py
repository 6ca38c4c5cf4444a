"""Compute what is wanted of a data set and not kept yet: each video is decoded once for all its views."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.evaluation import row_loader
from finetune.features.frozen import FrozenPart, entering
from finetune.features.kept import KeptClips
from finetune.features.store import MISSING
from finetune.model.model import VideoClassifier
from finetune.recipe import Data

CLIPS_AT_ONCE = 8  # that are computed together, where that is done
Watch = Callable[[int, int], None]  # is called with the rows done and all, and may raise to end it


@dataclass
class Measured:
    """Seconds that one row took to decode with all its views, one to decode with one, and one clip to compute."""

    decode_row: float
    decode_clip: float
    compute_clip: float


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
    is whole when something ends it stays. Rows that cannot be read are noted in `kept.failed`.
    """
    rank, world = share
    positions = kept.missing()
    positions = positions[positions % world == rank]
    if not len(positions):
        return 0
    dataset = kept.dataset.at_once(positions, kept.views)
    place_of = dict(zip(dataset.rows.tolist(), positions.tolist(), strict=True))
    done = 0
    with (
        row_loader(dataset, data, batch_size=max(1, CLIPS_AT_ONCE // len(kept.views))) as loader,
        kept.store.writer() as writer,
    ):
        for batch in loader:
            kept.failed.update(batch["skipped"])
            if batch["clips"] is not None:
                places = [place_of[row] for row in batch["row"].tolist()]
                wanted = (kept.places_NV["shard"][places] == MISSING).reshape(-1)
                clips = batch["clips"].flatten(0, 1)[wanted]
                writer.add(kept.keys_NV[places].reshape(-1)[wanted], entering(model, clips, frozen).cpu())
            done += len(batch["row"]) + len(batch["skipped"])
            watch(done, len(positions))
    kept.refresh()
    return len(positions)


def measured(model: VideoClassifier, frozen: FrozenPart, kept: KeptClips) -> Measured | None:
    """On the first missing row that can be read, in this process; None where there is none."""
    for position in kept.missing()[:3].tolist():
        row = kept.dataset.at_once(np.array([position]), kept.views)
        single = kept.dataset.at_once(np.array([position]), kept.views[:1])
        started = time.perf_counter()
        every = row[0]
        decode_row = time.perf_counter() - started
        if "error" in every:
            continue
        started = time.perf_counter()
        clips = single[0]["clips"][:1]
        decode_clip = time.perf_counter() - started
        started = time.perf_counter()
        entering(model, clips, frozen).cpu()
        return Measured(decode_row, decode_clip, time.perf_counter() - started)
    return None
