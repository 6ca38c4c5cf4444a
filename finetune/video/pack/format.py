"""What a pack consists of: small JPEG frames of many videos in a few large files, and the index that finds them.

DIR/pack.json      what the frames are: Settings
DIR/index.npy      an entry for each video, sorted by path, for shards that are whole
DIR/00000.frames   a shard: each video's JPEGs, one after the other, then a FRAME for each of them
DIR/bad.json       the files that could not be read, each with the reason
"""

import json
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from finetune.errors import RunError
from finetune.storage.atomic import atomic_file
from finetune.storage.safe_read import read_array
from finetune.video.decode import clip_files

SCHEMA = 2  # one more when the files change, or the same video gives other pictures
JPEG_QUALITY = 90
FRAME_DTYPE = np.dtype([("start", "<u8"), ("length", "<u4"), ("crc", "<u4"), ("seconds", "<f8")])  # start: in its video
ENTRY_FIELDS = [
    *(("size", "<i8"), ("mtime_ns", "<i8")),  # of the source when it was packed
    *(("height", "<i4"), ("width", "<i4")),  # of the source, in pixels, as shown
    *(("shard", "<i4"), ("start", "<i8")),  # where its first JPEG is
    *(("table", "<i8"), ("num_frames", "<i8")),  # where its FRAMEs are, and how many
]


@dataclass(frozen=True)
class PackSettings:
    """What the frames of a pack are: their short side in pixels, at most, and how many a video; None: all."""

    short_side: int
    frames: int | None
    jpeg_quality: int = JPEG_QUALITY
    schema: int = SCHEMA

    def __str__(self) -> str:
        return f"--short-side {self.short_side} --frames {self.frames or 'all'}"


def read_settings(folder: Path) -> PackSettings:
    """Raises RunError for a folder that is no pack, or one of another version."""
    file = folder / "pack.json"
    try:
        settings = PackSettings(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"{folder}: is not a pack; make one with `finetune data pack MANIFEST --out {folder}`") from None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from None
    if settings.schema != SCHEMA:
        raise RunError(f"{folder}: is a pack of version {settings.schema}, this program reads {SCHEMA}; pack anew")
    return settings


def write_settings(folder: Path, settings: PackSettings) -> None:
    _write(folder / "pack.json", json.dumps(asdict(settings), indent=1))


def entries(rows: Sequence[tuple]) -> np.ndarray:
    """An index of (path as bytes, *FIELDS)."""
    longest = max((len(row[0]) for row in rows), default=1)
    return np.array(rows, [("path", f"S{longest}"), *ENTRY_FIELDS])


def read_index(folder: Path) -> np.ndarray:
    """The index as a memory map; without entries where there is none yet."""
    file = folder / "index.npy"
    try:
        return read_array(file, mapped=True) if file.exists() else entries([])
    except RunError as error:
        raise RunError(f"{error}; delete it, and pack again") from None


def write_index(folder: Path, index: np.ndarray) -> None:
    """Sort by path, and replace the index at once."""
    with atomic_file(folder / "index.npy") as partial, partial.open("wb") as file:
        np.save(file, index[np.argsort(index["path"], kind="stable")])


def find(index: np.ndarray, path: str | Path) -> np.void | None:
    """The entry of a video; reads as little of the index as a search by halves does."""
    key, paths = os.fsencode(path), index["path"]
    place = bisect_left(paths, key)
    return index[place] if place < len(paths) and paths[place] == key else None


def shard_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.frames"


def broken_shards(folder: Path, index: np.ndarray) -> dict[int, str]:
    """Shards of the index that are not there, or shorter than it says, each with what is wrong."""
    broken = {}
    ends = np.zeros(1 + index["shard"].max(initial=-1), np.int64)
    np.maximum.at(ends, index["shard"], index["table"] + index["num_frames"] * FRAME_DTYPE.itemsize)
    for shard in np.flatnonzero(ends).tolist():
        file, needed = shard_file(folder, shard), int(ends[shard])
        if not file.is_file():
            broken[shard] = f"{file}: is missing"
        elif (there := file.stat().st_size) < needed:
            broken[shard] = f"{file}: is cut off: {there} of {needed} bytes are there"
    return broken


def has_changed(entry: np.void) -> bool:
    """Whether a video's source is another file than the one that was packed; one that has gone has not changed."""
    found = stamp(os.fsdecode(entry["path"]))
    return found is not None and found != (entry["size"], entry["mtime_ns"])


def stamp(path: str) -> tuple[int, int] | None:
    """(size, mtime_ns) of a clip, by which a change is noticed; None where there is none."""
    try:
        return clip_files.stamp(Path(path))
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
