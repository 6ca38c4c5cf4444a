"""The files of a pack: small JPEG frames of many videos in a few large files, and the index that finds them.

DIR/pack.json      the PackSettings
DIR/index.npy      one entry for each video in a finished shard, sorted by path
DIR/00000.frames   a shard: for each video its JPEGs, then a table with a FRAME_DTYPE record for each of them
DIR/bad.json       the files that could not be read, each with the reason
"""

import json
import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from finetune.errors import RunError
from finetune.storage.atomic import atomic_file
from finetune.storage.safe_read import read_array
from finetune.video.decode.clip_files import stamp

SCHEMA = 2  # increase when the file format changes, or the same video gives other pictures
JPEG_QUALITY = 90
FRAME_DTYPE = np.dtype(
    [("start", "<u8"), ("length", "<u4"), ("crc", "<u4"), ("seconds", "<f8")]
)  # start: in bytes from the video's first JPEG
ENTRY_FIELDS = [
    *(("size", "<i8"), ("mtime_ns", "<i8")),  # of the source file when it was packed
    *(("height", "<i4"), ("width", "<i4")),  # of the source video in pixels, as displayed
    *(("shard", "<i4"), ("start", "<i8")),  # the shard's number, and the offset of its first JPEG
    *(("table", "<i8"), ("num_frames", "<i8")),  # the offset of its table, and its length
    ("begin", "<f8"),  # timestamp in seconds at which players begin to count the video's time; NaN in older packs
]


@dataclass(frozen=True)
class PackSettings:
    """The short side of a pack's frames in pixels, at most, and the number of frames of each video; None: all."""

    short_side: int
    frames: int | None
    jpeg_quality: int = JPEG_QUALITY
    schema: int = SCHEMA

    def __str__(self) -> str:
        return f"--short-side {self.short_side} --frames {self.frames or 'all'}"


def read_settings(folder: Path) -> PackSettings:
    """Raises RunError for a folder that is not a pack, or has another version."""
    file = folder / "pack.json"
    try:
        settings = PackSettings(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"{folder}: is not a pack; make one with `finetune data pack MANIFEST --out {folder}`") from None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from None
    if settings.schema != SCHEMA:
        raise RunError(f"{folder}: is a pack of version {settings.schema}, but {SCHEMA} is needed; pack again")
    return settings


def write_settings(folder: Path, settings: PackSettings) -> None:
    _write(folder / "pack.json", json.dumps(asdict(settings), indent=1))


def make_index(rows: Sequence[tuple]) -> np.ndarray:
    """The index entries (N,) of rows (path as bytes, *ENTRY_FIELDS)."""
    longest = max((len(row[0]) for row in rows), default=1)
    return np.array(rows, [("path", f"S{longest}"), *ENTRY_FIELDS])


def read_index(folder: Path) -> np.ndarray:
    """The index (N,) as a memory map; empty where there is none yet."""
    file = folder / "index.npy"
    try:
        index = read_array(file, mapped=True) if file.exists() else make_index([])
    except RunError as error:
        raise RunError(f"{error}; delete it, and pack again") from None
    if index.dtype.names is None or "begin" in index.dtype.names:
        return index
    return make_index([(*entry, math.nan) for entry in index.tolist()])


def write_index(folder: Path, index: np.ndarray) -> None:
    """Sort the index (N,) by path, and replace the file atomically."""
    with atomic_file(folder / "index.npy") as partial, partial.open("wb") as file:
        np.save(file, index[np.argsort(index["path"], kind="stable")])


def find_entry(index: np.ndarray, path: str | Path) -> np.void | None:
    """The entry of a video in an index (N,), by binary search; None where there is none."""
    key, paths = os.fsencode(path), index["path"]
    place = bisect_left(paths, key)
    return index[place] if place < len(paths) and paths[place] == key else None


def shard_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.frames"


def broken_shards(folder: Path, index: np.ndarray) -> dict[int, str]:
    """By number, what is wrong with shards that are missing, or shorter than the index (N,) says."""
    broken = {}
    ends = np.zeros(1 + index["shard"].max(initial=-1), np.int64)
    np.maximum.at(ends, index["shard"], index["table"] + index["num_frames"] * FRAME_DTYPE.itemsize)
    for shard in np.flatnonzero(ends).tolist():
        file, needed = shard_file(folder, shard), int(ends[shard])
        if not file.is_file():
            broken[shard] = f"{file}: is missing"
        elif (size := file.stat().st_size) < needed:
            broken[shard] = f"{file}: is cut off: it has {size} of {needed} bytes"
    return broken


def has_changed(entry: np.void) -> bool:
    """Whether the source file of a video was changed since it was packed; a missing one counts as unchanged."""
    current = source_stamp(os.fsdecode(entry["path"]))
    return current is not None and current != (entry["size"], entry["mtime_ns"])


def source_stamp(path: str) -> tuple[int, int] | None:
    """(size, mtime_ns) of a clip, which differ when it has changed; None where it does not exist."""
    try:
        return stamp(Path(path))
    except FileNotFoundError:
        return None


def read_bad(folder: Path) -> dict[str, str]:
    """The files that could not be packed, each with the reason."""
    file = folder / "bad.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write_bad(folder: Path, bad: dict[str, str]) -> None:
    _write(folder / "bad.json", json.dumps(bad, indent=1))


def _write(file: Path, text: str) -> None:
    with atomic_file(file) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
