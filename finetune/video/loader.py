"""Batches of clips from worker processes that read ahead.

Pixels are in shared memory, not sent through pipes. A file that hangs or crashes its worker costs that file alone.
"""

import mmap
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from itertools import islice
from math import ceil
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch

from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.worker_pool import WorkerFailure, WorkerPool

Batch = dict[str, Any]


class ClipLoader:
    """Batches {"clips": uint8 (B, V, T, C, H, W) or None, "label", "row", "skipped": [(row, reason)]}, in order.

    The batches are the same for any number of `workers`; 0 reads in this process. Workers live through all epochs, and
    read `ahead` batches ahead: two, or enough for two items for each worker. They share (ahead + 1) × batch size × V ×
    T × 3 × size² bytes of memory, whatever the size of the data set. A row that takes longer than `time_limit` seconds,
    or crashes its worker, is skipped and not tried again. Close the loader after use.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batches: EpochBatchSampler,
        *,
        workers: int,
        time_limit: float = 60,
        pin: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.pin = pin
        self.failed: dict[int, str] = {}  # by row: the reason, for those that hung or crashed a worker
        self.ahead = max(2, ceil(2 * workers / batches.batch_size))
        self.abandoned: list[Future] = []  # of an iteration that did not end; they may still write into their slots
        self.workers: WorkerPool | None = None
        if workers:
            self.slots = SharedClipSlots((self.ahead + 1) * batches.batch_size, dataset.shape)
            reader = _ReadIntoSlot(dataset, self.slots)
            self.workers = WorkerPool(reader, count=workers, time_limit=time_limit, begin=_limit_torch_threads)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.workers is None:
            for keys in self.batches:
                yield collate([self.dataset[key] for key in keys], pin=self.pin)
            return
        wait(self.abandoned)
        pending: deque[list[tuple[int, int, Future | None]]] = deque()
        size = self.batches.batch_size
        blocks = (range(first, first + size) for first in _cycle_slots(size, self.ahead + 1))
        remaining = iter(self.batches)
        try:
            for keys in islice(remaining, self.ahead):
                pending.append(self._submit(keys, next(blocks)))
            while pending:
                for keys in islice(remaining, 1):
                    pending.append(self._submit(keys, next(blocks)))
                yield self._gather(pending.popleft())
        finally:  # without waiting: after Ctrl-C too, and a file may hang
            futures = [future for items in pending for *_, future in items if future is not None]
            self.abandoned = [future for future in futures if not future.cancel()]

    def close(self) -> None:
        """End the workers."""
        if self.workers is not None:
            self.workers.close()

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, keys: list[tuple[int, int]], slots: range) -> list[tuple[int, int, Future | None]]:
        """(row, slot, future) of each item; no future for a row that has hung or crashed a worker before."""
        assert self.workers is not None
        items = []
        for key, slot in zip(keys, slots, strict=False):
            row = int(self.dataset.rows[key[1]])
            items.append((row, slot, None if row in self.failed else self.workers.submit((key, slot))))
        return items

    def _gather(self, items: list[tuple[int, int, Future | None]]) -> Batch:
        gathered = []
        for row, slot, future in items:
            item = WorkerFailure(self.failed[row]) if future is None else future.result()
            if isinstance(item, WorkerFailure):
                self.failed[row] = item.reason
                item = {"row": row, "error": f"{self.dataset.manifest.path(row)}: {item.reason}"}
            elif "error" not in item:
                item["clips"] = torch.from_numpy(self.slots.array[slot])
            gathered.append(item)
        return collate(gathered, pin=self.pin)


def collate(items: list[dict[str, Any]], *, pin: bool = False) -> Batch:
    """Stack the items that could be read; `clips` is None when none could."""
    good = [item for item in items if "error" not in item]
    clips = torch.stack([item["clips"] for item in good]) if good else None
    return {
        "clips": clips.pin_memory() if pin and clips is not None else clips,
        "label": torch.as_tensor(np.array([item["label"] for item in good])),
        "row": torch.tensor([item["row"] for item in good]),
        "skipped": [(item["row"], item["error"]) for item in items if "error" in item],
    }


def worker_count(setting: int | str) -> int:
    """Loading processes: as set, or one a core up to eight; without a GPU two cores are left to the network.

    At least one, also where the network takes all cores: it is no slower, and a process of ours cannot be replaced.
    """
    if setting != "auto":
        return int(setting)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores if torch.cuda.is_available() else max(1, cores - 2))


class SharedClipSlots:
    """Slots for `count` clips, uint8 of `shape` each, in memory that processes share; freed with its last user.

    Not in /dev/shm, which has 64 MB in many containers, but an anonymous file in memory, or else on the disk.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self.shape = (count, *shape)
        if hasattr(os, "memfd_create"):
            self.file = os.memfd_create("clips")
        else:
            with tempfile.TemporaryFile() as file:
                self.file = os.dup(file.fileno())
        os.ftruncate(self.file, int(np.prod(self.shape)))
        self._map()

    def _map(self) -> None:
        memory = mmap.mmap(self.file, int(np.prod(self.shape)))
        self.array = np.frombuffer(memory, dtype=np.uint8).reshape(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "file": DupFd(self.file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shape, self.file = state["shape"], state["file"].detach()
        self._map()

    def __del__(self) -> None:
        os.close(self.file)


class _ReadIntoSlot:
    """Called in a worker: puts an item's pixels into its slot, and returns the rest of the item."""

    def __init__(self, dataset: ClipDataset, slots: SharedClipSlots) -> None:
        self.dataset = dataset
        self.slots = slots

    def __call__(self, key_and_slot: tuple[tuple[int, int], int]) -> dict[str, Any]:
        key, slot = key_and_slot
        item = self.dataset[key]
        if "clips" in item:
            self.slots.array[slot] = item.pop("clips").numpy()
        return item


def _limit_torch_threads() -> None:
    torch.set_num_threads(1)


def _cycle_slots(size: int, count: int) -> Iterator[int]:
    """The first slot of each of `count` blocks of `size` slots, in an endless cycle."""
    while True:
        yield from range(0, size * count, size)
