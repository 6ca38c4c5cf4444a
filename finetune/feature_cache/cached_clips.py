"""Which clips of a data set are cached, and a loader that reads their activations instead of decoding videos."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

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
    """A data set's clips in the cache entry for them and a frozen part, below `root`.

    `basis` is the frozen part's `cache_key`. `views` are the numbers of fixed augmentations, by default all views of
    evaluation. Close it after use.
    """
    store = ShardStore(
        root, {**basis, **_clip_cache_key(dataset)}, item=frozen.cut.item, storage_dtype=frozen.storage_dtype
    )
    return CachedClips(dataset, store, range(dataset.views) if views is None else views)


def _clip_cache_key(dataset: ClipDataset) -> dict[str, Any]:
    """All that the clips of a data set depend on, apart from their files and the numbers of their views."""
    clip, augment, pack = dataset.clip, dataset.augment, dataset.pack
    assert clip.size is not None
    return {
        "clip": clip.model_dump(),
        "pictures": DECODING_VERSION,
        "drawn": None if augment is None else augmentation_cache_key(augment, size=clip.size, fit=clip.fit),
        **({} if dataset.window_seconds is None else {"window": dataset.window_seconds}),
        "frames": "videos" if pack is None else f"{pack.folder.absolute()} {pack.settings}",
    }


class CachedClips:
    """Where the clips of a data set's N rows are in a store: V fixed augmentations of each training row, or V views.

    `views` are the numbers of the wanted ones, the same for all rows. `keys_NV` identifies each clip and `places_NV` is
    its location in the store. `failed` has the reason for each row that cannot be read completely.
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

    def _stamp(self, row: int) -> tuple[str | int, ...]:
        try:
            return self.dataset.stamp(row)
        except OSError as error:  # it was deleted after all files were examined
            path = self.dataset.manifest.path(row)
            self.failed[row] = f"{path}: {error.strerror}"
            return str(path), -1, -1

    def __enter__(self) -> "CachedClips":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def refresh(self) -> None:
        """Look up again what is in the store, as other processes may have added clips."""
        self.store.refresh()
        self.places_NV = self.store.find(self.keys_NV.reshape(-1)).reshape(self.keys_NV.shape)

    def lacking(self) -> int:
        """The number of wanted clips that are not in the store."""
        return int((self.places_NV["shard"] == MISSING).sum())

    def missing(self) -> np.ndarray:
        """Positions (M,) of rows with clips that are not in the store, without rows that are known to fail."""
        is_incomplete = (self.places_NV["shard"] == MISSING).any(1)
        return np.flatnonzero(is_incomplete & ~np.isin(self.dataset.rows, list(self.failed)))


class CachedClipLoader:
    """Batches as `ClipLoader` gives them, with activations (B, V, *item) as "clips"; reads one batch ahead."""

    def __init__(self, cached: CachedClips, batches: EpochBatchSampler) -> None:
        self.cached = cached
        self.dataset = cached.dataset
        self.batches = batches
        self.targets: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for keys in self.batches:
                # Targets are computed in this thread: placing boxes seeds PyTorch's global generator, which another
                # thread must not do while the network trains.
                next_batch = reader.submit(self._batch, [self._wanted(*key) for key in keys])
                if ahead is not None:
                    yield ahead.result()
                ahead = next_batch
            if ahead is not None:
                yield ahead.result()

    def close(self) -> None:
        """Nothing to close; the store belongs to the `CachedClips`."""

    def _batch(self, wanted: list[tuple[dict[str, Any], np.ndarray]]) -> Batch:
        read = self.cached.store.read
        return collate([item if "error" in item else item | {"clips": read(places)} for item, places in wanted])

    def _wanted(self, epoch: int, position: int) -> tuple[dict[str, Any], np.ndarray]:
        """An item without its clips, and their places (V,) in the store."""
        row = int(self.dataset.rows[position])
        places = self.cached.places_NV[position]
        if self.dataset.drawn_views is not None:
            places = places[[self.cached.views.index(fixed_draw_of_epoch(epoch, self.dataset.drawn_views))]]
        if (places["shard"] == MISSING).any():
            if row in self.cached.failed:
                return {"row": row, "error": self.cached.failed[row]}, places
            path = self.dataset.manifest.path(row)
            raise RunError(f"{path}: its cached features were deleted; run the command again, or --resume the run")
        return {"label": self._target(epoch, position), "row": row}, places

    def _target(self, epoch: int, position: int) -> Any:
        """The target of a clip; one that depends on the augmentation is computed once for each fixed augmentation."""
        if self.dataset.layout is None or self.dataset.drawn_views is None:
            return self.dataset.target(epoch, position)
        key = fixed_draw_of_epoch(epoch, self.dataset.drawn_views), position
        if key not in self.targets:
            self.targets[key] = self.dataset.target(epoch, position)
        return self.targets[key]
