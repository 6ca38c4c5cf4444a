"""Write a pack: decode each video of a manifest once, and store its frames in the format of format.py.

One process for each core packs videos into temporary files, one video each; this process joins them into shards.
Whatever ends the program, at most the unfinished shard is lost. Imports no torch.
"""

import errno
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import RunError, VideoError
from finetune.storage.atomic import exclusive_lock
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo, frame_times, scan
from finetune.video.decode.read import RgbConverter, read_frames
from finetune.video.pack.format import (
    FRAME_DTYPE,
    JPEG_QUALITY,
    PackSettings,
    broken_shards,
    find_entry,
    has_changed,
    make_index,
    read_bad,
    read_index,
    read_settings,
    shard_file,
    source_stamp,
    write_bad,
    write_index,
    write_settings,
)
from finetune.video.worker_pool import WorkerFailure, process_map

SHARD_BYTES = 2**28
TIME_LIMIT_SECONDS = 3600  # for one video; an hour of Full HD takes about a quarter of that
FRAMES_PER_CHUNK = 64  # in memory at a time
Progress = Callable[[int, int], None]
Pictures = Iterator[tuple[np.ndarray, float]]  # RGB uint8 (H, W, 3), and its time in seconds


@dataclass(frozen=True)
class PackResult:
    """The number of videos packed now and kept from before, and why each of the `bad` ones could not be read."""

    packed: int
    kept: int
    bad: dict[str, str]


def pack(
    manifest: Manifest,
    folder: str | Path,
    *,
    short_side: int = 256,
    frames: int | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Add the videos to the folder's pack that are not in it yet or have changed since; others are kept.

    Frames are scaled so that their short side has `short_side` pixels, and never enlarged. `frames` packs the middle
    frame of each of that many equal parts of a video, None all frames. `progress` is called with (videos done, videos).
    Raises RunError where another program is packing into the folder, where it has other contents or was packed with
    other settings, and for a full disk.
    """
    folder = Path(folder)
    try:
        with _locked(folder):
            _check_settings(folder, PackSettings(short_side, frames))
            return _pack(manifest, folder, PackSettings(short_side, frames), progress)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            reason = "the disk is full; free some space, then run the command again to continue after the last shard"
        else:
            reason = f"cannot be written: {error.strerror}"
        raise RunError(f"{folder}: {reason}") from None


def _pack(manifest: Manifest, folder: Path, settings: PackSettings, progress: Progress | None) -> PackResult:
    shards = _ShardWriter(folder, _remove_broken(folder))
    paths = sorted({os.fsdecode(path) for path in manifest.paths})
    unpacked = [path for path in paths if find_entry(shards.index, path) is None]
    bad = {path: reason for path, reason in read_bad(folder).items() if path not in set(paths)}
    parts = folder / "parts"
    parts.mkdir()
    results = process_map(
        partial(_pack_video, settings=settings, parts=parts),
        enumerate(unpacked),
        count=len(os.sched_getaffinity(0)),
        time_limit=TIME_LIMIT_SECONDS,
    )
    new_bad: dict[str, str] = {}
    kept = len(paths) - len(unpacked)
    try:
        with closing(results), shards:
            for done, (path, result) in enumerate(zip(unpacked, results, strict=True), start=kept + 1):
                if isinstance(result, _PackedVideo):
                    shards.add(result)
                elif isinstance(result, OSError):
                    raise result
                else:
                    new_bad[path] = f"{path}: {result.reason}" if isinstance(result, WorkerFailure) else str(result)
                if progress is not None:
                    progress(done, len(paths))
    finally:
        shutil.rmtree(parts, ignore_errors=True)
        write_bad(folder, bad | new_bad)
    return PackResult(len(unpacked) - len(new_bad), kept, new_bad)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, which is created if needed, until the end of this block or of the program."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pack.json").exists() and any(not _is_ours(path) for path in folder.iterdir()):
        raise RunError(f"{folder}: is not a pack and not empty; choose an empty folder")
    with exclusive_lock(
        folder / "lock", f"{folder}: another program is packing into it; wait for it, or choose another --out"
    ):
        yield


def _is_ours(path: Path) -> bool:
    return path.name in {"lock", "pack.json.partial"}


def _check_settings(folder: Path, settings: PackSettings) -> None:
    if not (folder / "pack.json").exists():
        write_settings(folder, settings)
    elif (existing := read_settings(folder)) != settings:
        raise RunError(f"{folder}: was packed with {existing}, not {settings}; use these, or choose another --out")


def _remove_broken(folder: Path) -> np.ndarray:
    """The index without videos that changed or are broken; files without an entry, and leftovers, are deleted."""
    index = read_index(folder)
    broken = broken_shards(folder, index)
    good = [entry["shard"] not in broken and not has_changed(entry) for entry in index]
    index = np.array(index[np.array(good, dtype=bool)])
    write_index(folder, index)  # before the files that it no longer lists are deleted
    listed = {shard_file(folder, shard) for shard in np.unique(index["shard"]).tolist()}
    for file in set(folder.glob("*.frames")) - listed | set(folder.glob("*.partial")):
        file.unlink()
    shutil.rmtree(folder / "parts", ignore_errors=True)
    return index


class _ShardWriter:
    """The shard being written, and the index of the finished ones.

    As a context manager it finishes the last shard, also when interrupted; where the disk fails it deletes it.
    """

    def __init__(self, folder: Path, index: np.ndarray) -> None:
        self.folder = folder
        self.index = index
        self.number = 1 + int(index["shard"].max(initial=-1))
        self.file: IO[bytes] | None = None
        self.entries: list[tuple] = []
        self.end = 0

    def add(self, part: "_PackedVideo") -> None:
        """Append a packed video, and delete its temporary file."""
        if self.file is None:
            self.file = (self.folder / "shard.partial").open("wb")
        with part.file.open("rb") as source:
            shutil.copyfileobj(source, self.file, 2**20)
        self.entries.append((*part.source, self.number, self.end, self.end + part.table, part.num_frames, part.begin))
        self.end += part.table + part.num_frames * FRAME_DTYPE.itemsize
        part.file.unlink()
        if self.end >= SHARD_BYTES:
            self.finish()

    def finish(self) -> None:
        """Give the shard its final name, then add it to the index."""
        if self.file is None:
            return
        self.file.truncate(self.end)  # an interrupt may have left part of a video
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.file.name, shard_file(self.folder, self.number))
        self.index = np.concatenate([self.index, make_index(self.entries)])
        write_index(self.folder, self.index)
        self.number, self.file, self.entries, self.end = self.number + 1, None, [], 0

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, OSError):
            self.finish()
        elif self.file is not None:
            with suppress(OSError):
                self.file.close()
            Path(self.file.name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _PackedVideo:
    """A packed video in a temporary file: its JPEGs, and from offset `table` on a FRAME_DTYPE record for each."""

    file: Path
    source: tuple  # path as bytes, size, mtime_ns, height, width
    table: int
    num_frames: int
    begin: float


def _pack_video(item: tuple[int, str], *, settings: PackSettings, parts: Path) -> _PackedVideo | VideoError | OSError:
    """Pack one video, in a worker process. A returned OSError is about the disk that is written to."""
    cv2.setNumThreads(1)
    number, path = item
    stamp = source_stamp(path)
    if stamp is None:
        return VideoError(f"{path}: there is no such file")
    target = parts / str(number)
    try:
        info, layout = scan(path)
        with target.open("wb") as file:
            num_frames, table = _write_frames(file, _pictures(Path(path), info, layout, settings))
    except (VideoError, OSError) as error:
        target.unlink(missing_ok=True)
        return error
    return _PackedVideo(
        target, (os.fsencode(path), *stamp, info.height, info.width), table, num_frames, info.start_seconds
    )


def _write_frames(file: IO[bytes], pictures: Pictures) -> tuple[int, int]:
    """Write pictures as JPEGs, then their table; returns the number of pictures and the offset of the table."""
    frames, end = [], 0
    for picture_HWC, seconds in pictures:
        picture_HWC = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", picture_HWC, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        file.write(jpeg)
        frames.append((end, len(jpeg), zlib.crc32(jpeg), seconds))
        end += len(jpeg)
    file.write(np.array(frames, FRAME_DTYPE).tobytes())
    return len(frames), end


def _pictures(path: Path, info: VideoInfo, layout: GopLayout | None, settings: PackSettings) -> Pictures:
    """The frames to pack with their times, as `read_frames` gives them."""
    size = packed_size(info.height, info.width, settings.short_side)
    count = min(settings.frames or info.num_frames, info.num_frames)
    if count == info.num_frames and not path.is_dir():
        yield from _all_pictures(path, size, frame_times(path, layout))
        return
    indices = evenly_spaced_frames(info.num_frames, count)
    for start in range(0, len(indices), FRAMES_PER_CHUNK):
        frames_TCHW, seconds = read_frames(path, indices[start : start + FRAMES_PER_CHUNK], size=size, layout=layout)
        yield from zip(frames_TCHW.transpose(0, 2, 3, 1), seconds.tolist(), strict=True)


def _all_pictures(path: Path, size: tuple[int, int], times: np.ndarray) -> Pictures:
    """Every frame in the order of the decoder's output, one in memory at a time."""
    count, to_rgb = 0, RgbConverter(path)
    with open_video(path) as (container, stream):
        for count, frame in enumerate(decode_frames(path, container, stream), start=1):
            if count <= len(times):
                yield np.ascontiguousarray(to_rgb(frame, size)), float(times[count - 1])
    if count != len(times):
        raise VideoError(f"{path}: lists {len(times)} frames, but {count} can be decoded")


def evenly_spaced_frames(video_frames: int, frames: int) -> list[int]:
    """The index of the middle frame of each of `frames` equal parts of a video."""
    return [(2 * part + 1) * video_frames // (2 * frames) for part in range(frames)]


def packed_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) of packed frames: the short side has `short_side` pixels, or less where the video is smaller."""
    short = min(height, width)
    side = min(short, short_side)
    return max(side, round(height * side / short)), max(side, round(width * side / short))
