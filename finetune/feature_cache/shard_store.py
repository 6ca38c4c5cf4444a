"""One cache entry on disk: activations in shards, found by the key of each item.

An entry is a folder named by a hash of all that its items depend on, which `set.json` lists. Shards are written
atomically. Any number of processes may fill an entry at once; an item that two of them computed is read from one shard.
Items are read, not memory-mapped, so that memory use does not grow with them.
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

FORMAT = 1  # increase when the file format changes
SHARD_BYTES = 2**25
SHARD_SECONDS = 60.0  # of work that an interruption loses at most
KEY_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8")])
LOCATION_DTYPE = np.dtype([("shard", "<i4"), ("position", "<i4")])
MISSING = -1
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def item_keys(items: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """Keys (N,) of items; each item is the strings and numbers that it depends on within its entry."""
    digests = b"".join(
        blake2b(repr(item).encode("utf-8", "surrogateescape"), digest_size=16).digest() for item in items
    )
    return np.frombuffer(digests, dtype=KEY_DTYPE)


class ShardStore:
    """The items of one cache entry: tensors of one shape and dtype. While it is open, nobody deletes the entry."""

    def __init__(self, root: Path, cache_key: Mapping[str, Any], *, item: tuple[int, ...], storage_dtype: str) -> None:
        described = json.dumps({"format": FORMAT, "item": item, "kept_as": storage_dtype, **cache_key}, sort_keys=True)
        self.folder = root / sha256(described.encode()).hexdigest()[:24]
        self.item = item
        self.dtype = DTYPES[storage_dtype]
        self.shards: list[Path] = []
        self.keys = np.zeros(0, dtype=KEY_DTYPE)  # sorted
        self.places = np.zeros(0, dtype=LOCATION_DTYPE)
        self._lock = ExitStack()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "set.json").exists():
                with atomic_file(self.folder / "set.json", concurrent_writers=True) as partial:
                    partial.write_text(json.dumps(json.loads(described), indent=1) + "\n", encoding="utf-8")
            self._lock.enter_context(shared_lock(self.folder / "set.json"))
            with suppress(OSError):  # another user's entry can still be read
                os.utime(self.folder / "set.json")
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be used: {error.strerror}; set train.cache_dir") from None
        self.refresh()

    def close(self) -> None:
        """Allow others to delete the entry; an empty one is deleted now."""
        self._lock.close()
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
        """Index all shards that are new in the folder; damaged ones are deleted."""
        known = set(self.shards)
        new_shards = []
        for path in sorted(set(self.folder.glob("*.shard")) - known):
            with suppress(OSError):  # a shard that cannot be read now is tried again at the next refresh
                try:
                    new_shards.append((path, _Header.of(path, self.record).keys))
                except ValueError:
                    path.unlink(missing_ok=True)
        if not new_shards:
            return
        first = len(self.shards)
        self.shards += [path for path, _ in new_shards]
        keys = np.concatenate([self.keys, *(keys for _, keys in new_shards)])
        places = [
            np.array([(first + number, position) for position in range(len(keys))], dtype=LOCATION_DTYPE)
            for number, (_, keys) in enumerate(new_shards)
        ]
        order = np.argsort(keys, kind="stable", order=("high", "low"))
        self.keys, self.places = keys[order], np.concatenate([self.places, *places])[order]

    @property
    def record(self) -> int:
        """The size of an item with its checksum, in bytes."""
        return self.item_bytes + 4

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The places (N,) of keys (N,); `shard` is MISSING where a key is not in the store."""
        places = np.full(len(keys), MISSING, dtype=LOCATION_DTYPE)
        if not len(self.keys):
            return places
        candidates = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        is_stored = self.keys[candidates] == keys
        places[is_stored] = self.places[candidates[is_stored]]
        return places

    def read(self, places: np.ndarray) -> Tensor:
        """The items (N, *item) at places (N,). Raises RunError where one was deleted or is damaged."""
        items = torch.empty((len(places), *self.item), dtype=self.dtype)
        for buffer, place in zip(items.flatten(1).view(torch.uint8).numpy(), places, strict=True):
            assert place["shard"] != MISSING, "an item that is not in the store was requested"
            path = self.shards[int(place["shard"])]
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(_Header.SIZE + int(place["position"]) * self.record)
                    is_complete = file.readinto(buffer.data) == self.item_bytes
                    checksum = int.from_bytes(file.read(4), "little")
            except OSError as error:
                raise RunError(
                    f"{path}: cannot be read: {error.strerror}; run the command again, or --resume the run"
                ) from None
            if not is_complete or zlib.crc32(buffer.data) != checksum:
                path.unlink(missing_ok=True)
                raise RunError(f"{path}: was damaged and has been deleted; run the command again, or --resume the run")
        return items

    def writer(self) -> "ShardWriter":
        return ShardWriter(self)


@dataclass(frozen=True)
class _Header:
    """The header and the keys of a shard; a file has the header, then the items, then their keys."""

    keys: np.ndarray
    SIZE = 64

    @staticmethod
    def of(path: Path, record: int) -> "_Header":
        """Raises ValueError where the shard is incomplete or has other items."""
        with path.open("rb") as file:
            header = json.loads(file.read(_Header.SIZE))
            count = int(header["items"])
            size = _Header.SIZE + count * (record + KEY_DTYPE.itemsize)
            if header["record"] != record or path.stat().st_size != size:
                raise ValueError(f"{path}: is incomplete")
            file.seek(_Header.SIZE + count * record)
            return _Header(np.frombuffer(file.read(count * KEY_DTYPE.itemsize), dtype=KEY_DTYPE))

    @staticmethod
    def to_bytes(items: int, record: int) -> bytes:
        return json.dumps({"items": items, "record": record}).encode().ljust(_Header.SIZE)


class ShardWriter:
    """Collects items and writes them in shards; the rest is written on exit, also after an interruption."""

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
        """Add items (N, *item) with their keys (N,)."""
        assert tuple(items.shape[1:]) == self.store.item and items.dtype == self.store.dtype
        self.keys.append(keys)
        self.items.append(items.contiguous())
        self.bytes += items.numel() * items.element_size()
        if self.bytes >= SHARD_BYTES or time.monotonic() - self.began > SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the collected items as one shard. Raises RunError where that fails."""
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
                f"{self.store.folder}: could not be written: {error.strerror}; free some space, or set train.cache_dir"
            ) from None
        self.keys, self.items, self.bytes, self.began = [], [], 0, time.monotonic()
