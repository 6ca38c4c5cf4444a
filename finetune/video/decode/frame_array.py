"""A video whose frames are in memory: an array of RGB frames, read like a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from finetune.errors import VideoError
from finetune.video.decode.image_sequence import NO_TIME
from finetune.video.decode.probe import VideoInfo
from finetune.video.decode.read import RgbConverter


@dataclass(frozen=True, eq=False)
class FrameArray:
    """RGB frames, uint8 (T, H, W, 3). `name` stands for the path in messages."""

    name: Path
    frames_THWC: np.ndarray

    @property
    def info(self) -> VideoInfo:
        frames, height, width, _ = self.frames_THWC.shape
        return VideoInfo(frames, "array", False, 0.0, width, height, 0.0, "rawvideo", False)

    def read(
        self, path: Path, indices: Sequence[int], *, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """RGB frames, uint8 (T, 3, H, W), and their times, which are unknown: NaN (T,). As `read_frames`."""
        to_rgb = RgbConverter(path)
        pictures = {
            index: to_rgb(VideoFrame.from_ndarray(np.ascontiguousarray(self.frames_THWC[index]), format="rgb24"), size)
            for index in set(indices)
        }
        frames_THWC = np.stack([pictures[index] for index in indices])
        return frames_THWC.transpose(0, 3, 1, 2), np.full(len(indices), NO_TIME)

    def times(self, path: Path) -> np.ndarray:
        """The times of all frames, which are unknown: NaN (T,)."""
        return np.full(len(self.frames_THWC), NO_TIME)


def frame_array(frames: Any, name: Path) -> FrameArray:
    """Frames from an array or a tensor, uint8 (T, H, W, 3). Raises VideoError for other shapes and types."""
    frames_THWC = np.asarray(frames.detach().cpu() if hasattr(frames, "detach") else frames)
    shape = frames_THWC.shape
    if frames_THWC.ndim != 4 or shape[3] != 3 or 0 in shape:
        raise VideoError(f"{name}: frames have the shape (T, H, W, 3); this is {shape}{_shape_hint(shape)}")
    if frames_THWC.dtype != np.uint8:
        raise VideoError(f"{name}: frames are RGB values from 0 to 255 as uint8; these are {frames_THWC.dtype}")
    return FrameArray(name, frames_THWC)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 5:
        return "; give several videos as a list"
    if len(shape) == 3 and shape[2] == 3:
        return "; stack the frames of a video into one array"
    if len(shape) == 4 and shape[1] == 3:
        return "; move the channels to the end"
    return ""
