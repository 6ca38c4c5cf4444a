"""Clips of a manifest's rows as tensors, and the loader that hands out batches of them.

What an item is, is a function of (seed, epoch, row, view): the same for any number of workers and batch size.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from finetune.errors import VideoError
from finetune.manifest import Manifest
from finetune.recipe import Clip
from finetune.video.augment import augmentation, center_crop, read_size
from finetune.video.check import Facts, look_at_files
from finetune.video.decode import read_frames
from finetune.video.sampling import sample_indices


class ClipDataset(Dataset):
    """Rows of one split as {"clips": uint8 (V, T, C, H, W), "label": int, "row": int}.

    `augment` (none | light | strong) draws frames and pictures anew for each epoch; without it frames, crop and
    the `views` are those of evaluation. Items are asked for by position, or by (epoch, position). A file that
    cannot be read gives {"row": int, "error": str}. `facts` come from `look_at_files`; without them the files are
    looked at now, and bad ones raise VideoError.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        *,
        clip: Clip,
        augment: str | None = None,
        flip: bool = False,
        views: int = 1,
        seed: int = 0,
        facts: Facts | None = None,
    ) -> None:
        assert clip.size is not None, "the size in pixels has to be settled before clips are made"
        self.manifest = manifest
        self.clip = clip
        self.views = views
        self.seed = seed
        self.augment = augment
        self.facts = _without_bad(look_at_files(manifest)) if facts is None else facts
        rows = manifest.rows(split)
        self.rows = rows[~np.isin(rows, list(self.facts.bad))]
        self.transform = None if augment is None else augmentation(augment, size=clip.size, fit=clip.fit, flip=flip)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, position = key if isinstance(key, tuple) else (0, key)
        row = int(self.rows[position])
        try:
            clips_VTCHW = self._clips(epoch, row)
        except VideoError as error:
            return {"row": row, "error": str(error)}
        return {"clips": clips_VTCHW, "label": int(self.manifest.labels[row]), "row": row}

    def _clips(self, epoch: int, row: int) -> Tensor:
        assert self.clip.size is not None
        path, num_frames = self.manifest.path(row), int(self.facts.num_frames[row])
        video_size = int(self.facts.heights[row]), int(self.facts.widths[row])
        if self.augment is None or self.transform is None:
            return read_views(path, self.clip, views=self.views, num_frames=num_frames, video_size=video_size)
        draw = draw_of(self.seed, epoch, row, 0)
        indices = sample_indices(self.clip, num_frames, jitter=Random(draw))
        size = scaled_size(video_size, read_size(self.augment, self.clip.size), fit=self.clip.fit)
        return self.transform(_read(path, indices, size), draw).unsqueeze(0)


def read_views(path: Path, clip: Clip, *, views: int, num_frames: int, video_size: tuple[int, int]) -> Tensor:
    """All views of a video as evaluation and prediction see them, uint8 (V, T, C, H, W); each frame read once."""
    assert clip.size is not None
    indices = [sample_indices(clip, num_frames, view=view, views=views) for view in range(views)]
    frames_TCHW = _read(
        path, [index for view in indices for index in view], scaled_size(video_size, clip.size, fit=clip.fit)
    )
    return center_crop(frames_TCHW, clip.size).unflatten(0, (views, clip.num_frames)).contiguous()


def draw_of(seed: int, epoch: int, row: int, view: int) -> int:
    """The number that everything random about one item follows from; 32 bits."""
    return int(np.random.SeedSequence([seed, epoch, row, view]).generate_state(1)[0])


def scaled_size(video_size: tuple[int, int], side: int, *, fit: str) -> tuple[int, int]:
    """(height, width) at which frames are read: the short side at `side` pixels, or a square of it."""
    if fit == "squash":
        return side, side
    height, width = video_size
    short = min(height, width)
    return max(side, round(height * side / short)), max(side, round(width * side / short))


def _read(path: Path, indices: list[int], size: tuple[int, int]) -> Tensor:
    frames_TCHW, _ = read_frames(path, indices, size=size)
    return torch.from_numpy(frames_TCHW)


def _without_bad(facts: Facts) -> Facts:
    if facts.bad:
        raise VideoError("\n".join(facts.bad.values()))
    return facts


class EpochBatches(Sampler):
    """Batches of (epoch, position), shuffled by (seed, epoch); set `epoch` before each pass.

    Of every global batch of `batch_size` × `world` items a process takes its `rank`-th share, so that all have as
    many batches; a last global batch with fewer items than processes is left out.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(self.length, self.batch_size * self.world)
        return full + (rest >= self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        step = self.batch_size * self.world
        for start in range(0, self.length, step):
            share = order[start : start + step][self.rank :: self.world]
            if len(order) - start >= self.world:
                yield [(self.epoch, int(position)) for position in share]


def make_loader(dataset: ClipDataset, batches: EpochBatches, *, workers: int, pin: bool = False) -> DataLoader:
    """A DataLoader whose batches are {"clips", "label", "row", "skipped": [(row, reason)]}."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=_forkserver() if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=_begin_worker if workers else None,
        pin_memory=pin,
    )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the items that could be read; `clips` is None when none could."""
    good = [item for item in items if "error" not in item]
    return {
        "clips": torch.stack([item["clips"] for item in good]) if good else None,
        "label": torch.tensor([item["label"] for item in good]),
        "row": torch.tensor([item["row"] for item in good]),
        "skipped": [(item["row"], item["error"]) for item in items if "error" in item],
    }


def worker_count(setting: int | str) -> int:
    """Loading processes: as set, or one a core up to eight; without a GPU two cores are left to the network."""
    if setting != "auto":
        return int(setting)
    cores = len(os.sched_getaffinity(0))
    return min(8, cores if torch.cuda.is_available() else max(0, cores - 2))


def _forkserver() -> Any:
    # Not fork: a forked copy of a process whose threads hold locks can hang, and decoders must not be shared.
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finetune.video.dataset"])
    return context


def _begin_worker(worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains; it ends its workers
