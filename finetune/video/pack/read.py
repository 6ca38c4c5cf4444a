"""Read a pack: frames of its videos by memory map, as `read_frames` gives those of the videos themselves."""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError, RunError, VideoError, shorten_list
from finetune.storage.object_store import is_url, local_copy
from finetune.video.file_facts import FileFacts
from finetune.video.pack import format as form
from finetune.video.pack.format import FRAME_DTYPE
from finetune.video.probe_files import scan_files

OPEN_SHARDS = 64  # each holds a file open, of which a process may have about a thousand


def manifest_facts(manifest: Manifest, packed: Path | str | None, *, side: int) -> FileFacts:
    """Facts of a manifest's rows: from a pack for clips of `side` pixels, or, without one, from the files."""
    return scan_files(manifest) if packed is None else Pack(packed).facts(manifest, side=side)


class Pack:
    """A pack's videos; memory does not grow with their number. A copy in another process opens the files anew.

    One in an object store is copied here first. Raises RunError where the folder is no pack, or shards are missing or
    cut off.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = local_copy(folder) if isinstance(folder, str) and is_url(folder) else Path(folder)
        self.settings = form.read_settings(self.folder)
        self.index = form.read_index(self.folder)
        if broken := form.broken_shards(self.folder, self.index):
            listed = "\n".join(broken.values())
            raise RunError(f"{listed}\nrun `finetune data pack MANIFEST --out {self.folder}` again to mend the pack")
        self._shard = lru_cache(OPEN_SHARDS)(self._open_shard)

    def __reduce__(self) -> tuple:
        return Pack, (self.folder,)

    def read_frames(
        self, path: str | Path, indices: Sequence[int], *, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the source `path` as `finetune.video.decode.read.read_frames` gives them; decodes those alone.

        Without `size` they come as they were packed. Frames count from 0 to those that were packed. Raises VideoError
        when a frame is not there or damaged.
        """
        assert len(indices) and min(indices) >= 0, indices
        entry = form.find(self.index, path)
        if entry is None:
            raise VideoError(f"{path}: is not in the pack {self.folder}")
        if max(indices) >= entry["num_frames"]:
            raise VideoError(
                f"{path}: frame {max(indices)} was asked for, but the pack {self.folder} has {entry['num_frames']}"
            )
        wanted, places = np.unique(indices, return_inverse=True)
        shard, start = int(entry["shard"]), int(entry["start"])
        bytes_of_shard = self._shard(shard)
        frames = np.frombuffer(bytes_of_shard, FRAME_DTYPE, int(entry["num_frames"]), int(entry["table"]))[wanted]
        pictures = []
        for number, frame in zip(wanted, frames, strict=True):
            jpeg = bytes_of_shard[start + int(frame["start"]) :][: int(frame["length"])]
            if not len(jpeg) or zlib.crc32(jpeg.data) != frame["crc"]:
                file = form.shard_file(self.folder, shard)
                raise VideoError(f"{path}: frame {number} is damaged in {file}; delete that, and pack again")
            picture_HWC = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
            assert picture_HWC is not None
            pictures.append(picture_HWC)
        frames_THWC = _scaled(np.stack(pictures), size)[places]
        return frames_THWC.transpose(0, 3, 1, 2), frames["seconds"][places]

    def frame_times(self, path: str | Path) -> np.ndarray:
        """Seconds at which each packed frame of a source is shown (N,)."""
        entry = form.find(self.index, path)
        if entry is None:
            raise VideoError(f"{path}: is not in the pack {self.folder}")
        shard = self._shard(int(entry["shard"]))
        return np.frombuffer(shard, FRAME_DTYPE, int(entry["num_frames"]), int(entry["table"]))["seconds"]

    def stamp(self, path: str | Path) -> tuple[int, int]:
        """Bytes and time of change in nanoseconds of the source `path` when it was packed."""
        entry = form.find(self.index, path)
        assert entry is not None, path
        return int(entry["size"]), int(entry["mtime_ns"])

    def facts(self, manifest: Manifest, *, side: int) -> FileFacts:
        """Facts of a manifest's rows: those of the sources, but for the number of frames, which is that packed.

        A row that is not in the pack is bad. Raises DataError where a source has changed since, and RecipeError
        where the pack's frames are smaller than clips of `side` pixels.
        """
        if self.settings.short_side < side:
            raise RecipeError(
                f"data.packed: the frames in {self.folder} have a short side of {self.settings.short_side} pixels, "
                f"and clips are to have {side}; lower clip.size, or pack anew with --short-side {side} or more"
            )
        num_frames, heights, widths = np.zeros((3, len(manifest)), dtype=np.int64)
        bad: dict[int, str] = {}
        changed: list[str] = []
        reasons = form.read_bad(self.folder)
        for row in range(len(manifest)):
            path = str(manifest.path(row))
            entry = form.find(self.index, path)
            if entry is None:
                bad[row] = reasons.get(path, f"{path}: is not in the pack {self.folder}; pack again")
            elif form.has_changed(entry):
                changed.append(path)
            else:
                num_frames[row], heights[row], widths[row] = entry["num_frames"], entry["height"], entry["width"]
        if changed:
            raise DataError(
                f"{self.folder}: {len(changed)} of {len(manifest)} videos have changed since they were packed: "
                f"{shorten_list(changed)}; run `finetune data pack MANIFEST --out {self.folder}` again"
            )
        return FileFacts(num_frames, heights, widths, bad)

    def _open_shard(self, shard: int) -> np.ndarray:
        return np.memmap(form.shard_file(self.folder, shard), np.uint8, "r")


def _scaled(frames_THWC: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """At (height, width), by the same bilinear step that averages as it shrinks."""
    if size is None or size == frames_THWC.shape[1:3]:
        return frames_THWC
    # OpenCV's scaling that averages takes three to four times as long.
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    return F.interpolate(frames_TCHW, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
