"""One file of an index: up to some thousand vectors with their entries, in the safetensors format.

Its tensors are `vectors` (N, D), `units` (N, 2; see `unit_ids`), `entries` (JSON lines as bytes) and `entry_ends` (N),
the offset after each line. Shards are read, not memory-mapped, so that memory use does not grow with the index.
"""

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import IndexFolderError, reason_of
from finetune.storage.atomic import atomic_file
from finetune.vector_index.entry import Entry, entry_from_json

SHARD_ROWS = 8192
SHARD_BYTES = 2**24  # of vectors; long vectors have shards of fewer rows
MAX_HEADER_BYTES = 100_000
DTYPES = {"vectors": "F32", "units": "I64", "entries": "U8", "entry_ends": "I64"}


def rows_per_shard(dim: int) -> int:
    """The number of rows of a full shard with vectors of length `dim`."""
    return max(1, min(SHARD_ROWS, SHARD_BYTES // (4 * dim)))


def write_shard(path: Path, vectors_ND: np.ndarray, units_NU: np.ndarray, lines: Sequence[bytes]) -> None:
    """Write a shard atomically; `lines` are N entries as JSON. Raises OSError."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {
        "vectors": np.ascontiguousarray(vectors_ND, dtype=np.float32),
        "units": np.ascontiguousarray(units_NU, dtype=np.int64),
        "entries": np.frombuffer(b"".join(lines), dtype=np.uint8),
        "entry_ends": np.cumsum([len(line) for line in lines], dtype=np.int64),
    }
    with atomic_file(path) as partial:
        partial.write_bytes(save(tensors))


class Shard:
    """A shard that is read when it is asked for something; every method raises IndexFolderError where it is damaged."""

    def __init__(self, path: Path, rows: int, dim: int) -> None:
        self.path = path
        self.rows = rows
        self.dim = dim

    def check(self) -> None:
        """Compare the file's header and size with what is expected."""
        with self._opened() as (file, header):
            shapes = {"vectors": [self.rows, self.dim], "units": [self.rows, 2], "entry_ends": [self.rows]}
            if any(header[name]["dtype"] != dtype for name, dtype in DTYPES.items()) or any(
                header[name]["shape"] != shape for name, shape in shapes.items()
            ):
                raise ValueError("it holds other tensors than the index says")
            size = file.seek(0, 2) - header["data"]
            if size != max(header[name]["data_offsets"][1] for name in DTYPES):
                raise ValueError("it is incomplete")

    def vectors(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """Vectors (N, D) float32 of rows `first` to `end` of the shard, by default of all."""
        with self._opened() as (file, header):
            return self._read(file, header, "vectors", first, self.rows if end is None else end)

    def units(self) -> np.ndarray:
        """Ids (N, 2) of the file and the group of each row, as by `unit_ids`."""
        with self._opened() as (file, header):
            return self._read(file, header, "units", 0, self.rows)

    def lines(self, first: int = 0, end: int | None = None) -> list[bytes]:
        """The entries of rows `first` to `end`, by default of all, as JSON."""
        with self._opened() as (file, header):
            ends = self._read(file, header, "entry_ends", 0, self.rows)
            offsets = np.concatenate([[0], ends])[first : (self.rows if end is None else end) + 1]
            if (np.diff(offsets, prepend=0) < 0).any():
                raise ValueError("its entries overlap")
            data = self._read(file, header, "entries", offsets[0], offsets[-1]).tobytes()
            return [data[begin:stop] for begin, stop in pairwise((offsets - offsets[0]).tolist())]

    def entries(self, first: int = 0, end: int | None = None) -> list[Entry]:
        """The entries of rows `first` to `end`, by default of all."""
        lines = self.lines(first, end)
        with self._damage_named():
            return [entry_from_json(line) for line in lines]

    def entries_at(self, positions: Sequence[int]) -> list[Entry]:
        """The entries of some rows, at least one, in the order of `positions`."""
        first = min(positions)
        lines = self.lines(first, max(positions) + 1)
        with self._damage_named():
            return [entry_from_json(lines[position - first]) for position in positions]

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The file and its header, with `data`, the offset of the tensors."""
        with self._damage_named():
            if not stat.S_ISREG(self.path.lstat().st_mode):
                raise ValueError("it is not a regular file")
            with self.path.open("rb", buffering=0) as file:
                size = int.from_bytes(file.read(8), "little")
                if size > MAX_HEADER_BYTES:
                    raise ValueError("its header is damaged")
                yield file, json.loads(file.read(size)) | {"data": 8 + size}

    def _read(self, file: Any, header: dict[str, Any], name: str, first: int, end: int) -> np.ndarray:
        """Rows `first` to `end` of a tensor (N, …)."""
        shape = (end - first, *header[name]["shape"][1:])
        items = np.empty(shape, dtype={"F32": "<f4", "I64": "<i8", "U8": "u1"}[DTYPES[name]])
        row_bytes = items.itemsize * int(np.prod(shape[1:]))
        file.seek(header["data"] + header[name]["data_offsets"][0] + first * row_bytes)
        buffer, count = memoryview(items.reshape(-1).view(np.uint8).data), 0
        while count < len(buffer):
            if not (more := file.readinto(buffer[count:])):
                raise ValueError("it is incomplete")
            count += more
        return items

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Turn errors of damaged files into an IndexFolderError that names the shard."""
        try:
            yield
        except FileNotFoundError:
            raise IndexFolderError(
                f"{self.path}: is missing: the index is incomplete, or was changed meanwhile; run the command again, "
                "or index the videos again into a new folder"
            ) from None
        except (OSError, KeyError, ValueError, TypeError, IndexError, RecursionError, MemoryError) as error:
            raise IndexFolderError(
                f"{self.path}: is damaged ({reason_of(error, limit=100)}); index the videos again into a new folder"
            ) from None
