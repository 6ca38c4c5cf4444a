"""Read a pack: frames of its videos through memory maps, as `read_frames` gives those of the video files."""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError, RunError, VideoError, shorten_list
from finetune.storage.object_store import is_url, local_copy
from finetune.video.file_facts import FileFacts
from finetune.video.pack.format import (
    FRAME_DTYPE,
    broken_shards,
    find_entry,
    has_changed,
    read_bad,
    read_index,
    read_settings,
    shard_file,
)
from finetune.video.probe_files import scan_files
from finetune.video.tube_frames import with_tubes

OPEN_SHARDS = 64  # each is an open file, of which a process may have about a thousand


def manifest_facts(manifest: Manifest, packed: Path | str | None, *, side: int) -> FileFacts:
    """Facts about a manifest's rows: from a pack, for clips of `side` pixels, or, without one, from the files."""
    return scan_files(manifest) if packed is None else Pack(packed).facts(manifest, side=side)


class Pack:
    """The videos of a pack; memory does not grow with their number. A pickled copy opens the files again.

    A pack in an object store is copied to this machine first. Raises RunError where the folder is not a pack, or shards
    are missing or cut off.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = local_copy(folder) if isinstance(folder, str) and is_url(folder) else Path(folder)
        self.settings = read_settings(self.folder)
        self.index = read_index(self.folder)
        if broken := broken_shards(self.folder, self.index):
            listed = "\n".join(broken.values())
            raise RunError(f"{listed}\nrun `finetune data pack MANIFEST --out {self.folder}` again to repair the pack")
        self._shard = lru_cache(OPEN_SHARDS)(self._open_shard)

    def __reduce__(self) -> tuple:
        return Pack, (self.folder,)

    def read_frames(
        self, path: str | Path, indices: Sequence[int], *, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the source `path`, uint8 (T, 3, H, W), and their times (T,) in seconds, like `read_frames`.

        Without `size` they have their packed size. `indices` count packed frames. Raises VideoError where a frame is
        missing or damaged.
        """
        import cv2  # slow to import

        assert len(indices) and min(indices) >= 0, indices
        entry = self._entry(path)
        if max(indices) >= entry["num_frames"]:
            raise VideoError(
                f"{path}: frame {max(indices)} was asked for, but the pack {self.folder} has {entry['num_frames']}"
            )
        wanted, inverse = np.unique(indices, return_inverse=True)
        shard, start = int(entry["shard"]), int(entry["start"])
        shard_bytes = self._shard(shard)
        frames = np.frombuffer(shard_bytes, FRAME_DTYPE, int(entry["num_frames"]), int(entry["table"]))[wanted]
        pictures = []
        for number, frame in zip(wanted, frames, strict=True):
            jpeg = shard_bytes[start + int(frame["start"]) :][: int(frame["length"])]
            if not len(jpeg) or zlib.crc32(jpeg.data) != frame["crc"]:
                file = shard_file(self.folder, shard)
                raise VideoError(f"{path}: frame {number} is damaged in {file}; delete that file, and pack again")
            picture_HWC = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
            assert picture_HWC is not None
            pictures.append(picture_HWC)
        frames_THWC = _scaled(np.stack(pictures), size)[inverse]
        return frames_THWC.transpose(0, 3, 1, 2), frames["seconds"][inverse]

    def frame_times(self, path: str | Path) -> np.ndarray:
        """The presentation time of each packed frame of a source in seconds, float64 (N,)."""
        entry = self._entry(path)
        shard = self._shard(int(entry["shard"]))
        return np.frombuffer(shard, FRAME_DTYPE, int(entry["num_frames"]), int(entry["table"]))["seconds"]

    def stamp(self, path: str | Path) -> tuple[int, int]:
        """Size in bytes and modification time in nanoseconds of the source `path` when it was packed."""
        entry = self._entry(path)
        return int(entry["size"]), int(entry["mtime_ns"])

    def _entry(self, path: str | Path) -> np.void:
        entry = find_entry(self.index, path)
        if entry is None:
            raise VideoError(f"{path}: is not in the pack {self.folder}")
        return entry

    def facts(self, manifest: Manifest, *, side: int) -> FileFacts:
        """Facts about a manifest's rows: those of the source videos, but with the number of packed frames.

        A row that is not in the pack counts as unreadable. Raises DataError where a source file has changed since, and
        RecipeError where the pack's frames are smaller than clips of `side` pixels.
        """
        if self.settings.short_side < side:
            raise RecipeError(
                f"data.packed: the frames in {self.folder} have a short side of {self.settings.short_side} pixels, "
                f"but clips have {side}; lower clip.size, or pack again with --short-side {side} or more"
            )
        if manifest.boxes is not None and self.settings.frames is not None:
            raise RecipeError(
                f"data.packed: {self.folder} has {self.settings.frames} frames of each video, but boxes are of frames "
                "by their number in the file; pack all frames, without --frames, into another folder"
            )
        num_frames, heights, widths = np.zeros((3, len(manifest)), dtype=np.int64)
        bad: dict[int, str] = {}
        changed: list[str] = []
        reasons = read_bad(self.folder)
        for row in range(len(manifest)):
            path = str(manifest.path(row))
            entry = find_entry(self.index, path)
            if entry is None:
                bad[row] = reasons.get(path, f"{path}: is not in the pack {self.folder}; pack again")
            elif has_changed(entry):
                changed.append(path)
            else:
                num_frames[row], heights[row], widths[row] = entry["num_frames"], entry["height"], entry["width"]
        if changed:
            raise DataError(
                f"{self.folder}: {len(changed)} of {len(manifest)} videos have changed since they were packed: "
                f"{shorten_list(changed)}; run `finetune data pack MANIFEST --out {self.folder}` again"
            )
        facts = FileFacts(num_frames, heights, widths, bad)
        return with_tubes(facts.with_intervals(manifest, partial(self._times_of_row, manifest)), manifest)

    def _times_of_row(self, manifest: Manifest, row: int) -> np.ndarray:
        """The times of the packed frames of a row's file (N,), in seconds from the beginning of the file."""
        path = manifest.path(row)
        begin, times_N = float(self._entry(path)["begin"]), self.frame_times(path)
        if math.isnan(begin):
            raise DataError(
                f"{self.folder}: an older version packed it, which did not record where the time of a video begins, so "
                "rows cannot be intervals; pack into another folder"
            )
        return np.arange(len(times_N)) / manifest.image_rate if np.isnan(times_N).all() else times_N - begin

    def _open_shard(self, shard: int) -> np.ndarray:
        return np.memmap(shard_file(self.folder, shard), np.uint8, "r")


def _scaled(frames_THWC: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) scaled to (height, width), bilinear and antialiased like decoded frames."""
    if size is None or size == frames_THWC.shape[1:3]:
        return frames_THWC
    # OpenCV's antialiased scaling takes three to four times as long.
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    return F.interpolate(frames_TCHW, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
