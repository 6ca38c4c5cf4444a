"""A set of kept activations on the disk: shards that are there whole or not at all, found by the keys of their items.

A set is a folder named by all that its items depend on (`set.json` tells it). Any number of processes may fill it at
once; what two of them computed is read from one. Items are read, not mapped: memory does not grow with them.
"""

import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from finetune.errors import RunError
from finetune.feature_cache.cache_folder import remove_cache_entry
from finetune.storage.atomic import atomic_file, shared_lock

FORMAT = 1  # of the files; one more when they change
SHARD_BYTES = 2**25
SHARD_SECONDS = 60.0  # what an interrupted fill loses at most
KEY_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8")])
LOCATION_DTYPE = np.dtype([("shard", "<i4"), ("position", "<i4")])
MISSING = -1
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def item_keys(items: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """A key (N,) for what each item depends on beside its set: strings and numbers."""
    digests = b"".join(
        blake2b(repr(item).encode("utf-8", "surrogateescape"), digest_size=16).digest() for item in items
    )
    return np.frombuffer(digests, dtype=KEY_DTYPE)


class ShardStore:
    """The items of one set: tensors of one shape and type. Hold it open while it is used; others do not remove it."""

    def __init__(self, root: Path, cache_key: Mapping[str, Any], *, item: tuple[int, ...], storage_dtype: str) -> None:
        described = json.dumps({"format": FORMAT, "item": item, "kept_as": storage_dtype, **cache_key}, sort_keys=True)
        self.folder = root / sha256(described.encode()).hexdigest()[:24]
        self.item = item
        self.dtype = DTYPES[storage_dtype]
        self.shards: list[Path] = []
        self.keys = np.zeros(0, dtype=KEY_DTYPE)  # sorted
        self.places = np.zeros(0, dtype=LOCATION_DTYPE)
        self._held = ExitStack()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "set.json").exists():
                with atomic_file(self.folder / "set.json", concurrent_writers=True) as partial:
                    partial.write_text(json.dumps(json.loads(described), indent=1) + "\n", encoding="utf-8")
            self._held.enter_context(shared_lock(self.folder / "set.json"))
            with suppress(OSError):  # another user's, which may be read
                os.utime(self.folder / "set.json")
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be used: {error.strerror}; set train.cache_dir") from None
        self.refresh()

    def close(self) -> None:
        """Let others remove the set; one that is empty goes now."""
        self._held.close()
        if not self.shards and not any(self.folder.glob("*.shard*")):
            remove_cache_entry(self.folder)

    def __enter__(self) -> "ShardStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def item_bytes(self) -> int:
        return int(np.prod(self.item)) * self.dtype.itemsize

    def refresh(self) -> None:
        """Learn of all whole shards that are there; damaged ones are left out, and removed."""
        known = set(self.shards)
        found = []
        for path in sorted(set(self.folder.glob("*.shard")) - known):
            with suppress(OSError):  # one that cannot be read now is not used now
                try:
                    found.append((path, _Header.of(path, self.record).keys))
                except ValueError:
                    path.unlink(missing_ok=True)
        if not found:
            return
        first = len(self.shards)
        self.shards += [path for path, _ in found]
        keys = np.concatenate([self.keys, *(keys for _, keys in found)])
        places = [
            np.array([(first + number, position) for position in range(len(keys))], dtype=LOCATION_DTYPE)
            for number, (_, keys) in enumerate(found)
        ]
        order = np.argsort(keys, kind="stable", order=("high", "low"))
        self.keys, self.places = keys[order], np.concatenate([self.places, *places])[order]

    @property
    def record(self) -> int:
        """Bytes of an item with its checksum."""
        return self.item_bytes + 4

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The place of each key (N,), its `shard` MISSING where it is not there."""
        places = np.full(len(keys), MISSING, dtype=LOCATION_DTYPE)
        if not len(self.keys):
            return places
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        there = self.keys[found] == keys
        places[there] = self.places[found[there]]
        return places

    def read(self, places: np.ndarray) -> Tensor:
        """The items at some places, (N, *item). Raises RunError where one has gone, or is damaged."""
        items = torch.empty((len(places), *self.item), dtype=self.dtype)
        for buffer, place in zip(items.flatten(1).view(torch.uint8).numpy(), places, strict=True):
            assert place["shard"] != MISSING, "an item that is not there was asked for"
            path = self.shards[int(place["shard"])]
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(_Header.SIZE + int(place["position"]) * self.record)
                    whole = file.readinto(buffer.data) == self.item_bytes
                    checksum = int.from_bytes(file.read(4), "little")
            except OSError as error:
                raise RunError(f"{path}: cannot be read: {error.strerror}; run the command again, or go on") from None
            if not whole or zlib.crc32(buffer.data) != checksum:
                path.unlink(missing_ok=True)
                raise RunError(f"{path}: was damaged, and has been removed; run the command again, or --resume the run")
        return items

    def writer(self) -> "ShardWriter":
        return ShardWriter(self)


@dataclass(frozen=True)
class _Header:
    """What a shard begins with, and the keys that it ends with; between them are the items."""

    keys: np.ndarray
    SIZE = 64

    @staticmethod
    def of(path: Path, record: int) -> "_Header":
        """Raises ValueError where the shard is not whole."""
        with path.open("rb") as file:
            begin = json.loads(file.read(_Header.SIZE))
            count = int(begin["items"])
            size = _Header.SIZE + count * (record + KEY_DTYPE.itemsize)
            if begin["record"] != record or path.stat().st_size != size:
                raise ValueError(f"{path}: is not whole")
            file.seek(_Header.SIZE + count * record)
            return _Header(np.frombuffer(file.read(count * KEY_DTYPE.itemsize), dtype=KEY_DTYPE))

    @staticmethod
    def to_bytes(items: int, record: int) -> bytes:
        return json.dumps({"items": items, "record": record}).encode().ljust(_Header.SIZE)


class ShardWriter:
    """Collects items and writes them in shards; what has been collected is written at the end, whatever ends it."""

    def __init__(self, store: ShardStore) -> None:
        self.store = store
        self.keys: list[np.ndarray] = []
        self.items: list[Tensor] = []
        self.began = time.monotonic()
        self.bytes = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not issubclass(kind, OSError | RunError):
            self.write()

    def add(self, keys: np.ndarray, items: Tensor) -> None:
        """Items (N, *item) under their keys (N,)."""
        assert tuple(items.shape[1:]) == self.store.item and items.dtype == self.store.dtype
        self.keys.append(keys)
        self.items.append(items.contiguous())
        self.bytes += items.numel() * items.element_size()
        if self.bytes >= SHARD_BYTES or time.monotonic() - self.began > SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        """Write a shard. Raises RunError where that cannot be done."""
        if not self.keys:
            return
        path = self.store.folder / f"{uuid4().hex}.shard"
        try:
            with atomic_file(path) as partial, partial.open("wb") as file:
                file.write(_Header.to_bytes(sum(map(len, self.keys)), self.store.record))
                for items in self.items:
                    for item in items.flatten(1).view(torch.uint8).numpy():
                        file.write(item.data)
                        file.write(zlib.crc32(item.data).to_bytes(4, "little"))
                file.write(np.concatenate(self.keys).tobytes())
        except OSError as error:
            raise RunError(
                f"{self.store.folder}: could not be written: {error.strerror}; make room, or set train.cache_dir"
            ) from None
        self.keys, self.items, self.bytes, self.began = [], [], 0, time.monotonic()
