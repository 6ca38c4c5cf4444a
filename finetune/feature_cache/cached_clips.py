"""Which clips of a data set are kept, and batches of them that are read instead of decoded and computed."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.feature_cache.shard_store import MISSING, ShardStore, item_keys
from finetune.video.augment import augmentation_cache_key
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset, fixed_draw_of_epoch
from finetune.video.decode.read import DECODING_VERSION
from finetune.video.loader import Batch, collate


def open_cached_clips(
    root: Path, basis: Mapping[str, Any], frozen: FrozenPart, dataset: ClipDataset, views: Sequence[int] | None = None
) -> "CachedClips":
    """A data set's clips in the set of `root` that is for them and a frozen part; `basis` is what that depends on.

    All views of evaluation, or those fixed draws that are named. Close it after use.
    """
    store = ShardStore(
        root, {**basis, **_clip_cache_key(dataset)}, item=frozen.cut.item, storage_dtype=frozen.storage_dtype
    )
    return CachedClips(dataset, store, range(dataset.views) if views is None else views)


def _clip_cache_key(dataset: ClipDataset) -> dict[str, Any]:
    """All that a data set's clips depend on beside their files and draws."""
    clip, augment, pack = dataset.clip, dataset.augment, dataset.pack
    assert clip.size is not None
    return {
        "clip": clip.model_dump(),
        "pictures": DECODING_VERSION,
        "drawn": None if augment is None else augmentation_cache_key(augment, size=clip.size, fit=clip.fit),
        "frames": "videos" if pack is None else f"{pack.folder.absolute()} {pack.settings}",
    }


class CachedClips:
    """The clips of a data set's rows in a store: of training rows their fixed draws, of others their views.

    `views` are the numbers of those that are wanted, the same for all rows. `failed` has the reason for each row of
    which something cannot be read.
    """

    def __init__(self, dataset: ClipDataset, store: ShardStore, views: Sequence[int]) -> None:
        self.dataset = dataset
        self.store = store
        self.views = tuple(views)
        self.failed: dict[int, str] = {}
        names: list[tuple[str | int, ...]] = [("drawn", view) for view in self.views]
        if dataset.augment is None:
            names = [("view", view, dataset.views) for view in self.views]
        stamps = [self._stamp(int(row)) for row in dataset.rows]
        keys = item_keys([(*stamp, *name) for stamp in stamps for name in names])
        self.keys_NV = keys.reshape(len(stamps), len(names))
        self.refresh()

    def _stamp(self, row: int) -> tuple[str, int, int]:
        try:
            return self.dataset.stamp(row)
        except OSError as error:  # it has gone since all files were looked at
            path = self.dataset.manifest.path(row)
            self.failed[row] = f"{path}: {error.strerror}"
            return str(path), -1, -1

    def __enter__(self) -> "CachedClips":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def refresh(self) -> None:
        """Learn of what has been kept since, by whichever process."""
        self.store.refresh()
        self.places_NV = self.store.find(self.keys_NV.reshape(-1)).reshape(self.keys_NV.shape)

    def lacking(self) -> int:
        """How many clips are wanted and not kept."""
        return int((self.places_NV["shard"] == MISSING).sum())

    def missing(self) -> np.ndarray:
        """Positions of the rows of which something is wanted, and neither kept nor known to fail."""
        lacks = (self.places_NV["shard"] == MISSING).any(1)
        return np.flatnonzero(lacks & ~np.isin(self.dataset.rows, list(self.failed)))


class CachedClipLoader:
    """Batches as `ClipLoader` gives them, with activations (B, V, *item) for clips; one is read ahead."""

    def __init__(self, kept: CachedClips, batches: EpochBatchSampler) -> None:
        self.kept = kept
        self.dataset = kept.dataset
        self.batches = batches
        self.targets: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for keys in self.batches:
                # What is right is found here: to draw it anew PyTorch's one generator is seeded, which no other
                # thread may do while the network learns.
                following = reader.submit(self._batch, [self._wanted(*key) for key in keys])
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def close(self) -> None:
        """Nothing is held open here."""

    def _batch(self, wanted: list[tuple[dict[str, Any], np.ndarray]]) -> Batch:
        read = self.kept.store.read
        return collate([item if "error" in item else item | {"clips": read(places)} for item, places in wanted])

    def _wanted(self, epoch: int, position: int) -> tuple[dict[str, Any], np.ndarray]:
        """An item less its clips, and where these are."""
        row = int(self.dataset.rows[position])
        places = self.kept.places_NV[position]
        if self.dataset.drawn_views is not None:
            places = places[[self.kept.views.index(fixed_draw_of_epoch(epoch, self.dataset.drawn_views))]]
        if (places["shard"] == MISSING).any():
            if row in self.kept.failed:
                return {"row": row, "error": self.kept.failed[row]}, places
            manifest: Manifest = self.dataset.manifest
            raise RunError(f"{manifest.path(row)}: what was kept of it has gone; run the command again, or --resume")
        return {"label": self._target(epoch, position), "row": row}, places

    def _target(self, epoch: int, position: int) -> Any:
        """What is right of a clip; where that follows from how it was drawn it is found out once for each draw."""
        if self.dataset.layout is None or self.dataset.drawn_views is None:
            return self.dataset.target(epoch, position)
        key = fixed_draw_of_epoch(epoch, self.dataset.drawn_views), position
        if key not in self.targets:
            self.targets[key] = self.dataset.target(epoch, position)
        return self.targets[key]
