"""The frames of an interval of a file, and how long the interval is."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.intervals import frames_in_interval, interval_text
from finetune.errors import VideoError


class IntervalFrames(NamedTuple):
    """The first frame of an interval, the number of its frames, and its length in seconds, to the end of the file."""

    first: int
    number: int
    seconds: float


def find_frames(
    path: Path, times_N: np.ndarray, interval: tuple[float, float], *, frame_seconds: float = 0.0
) -> IntervalFrames:
    """The frames of an interval; `times_N` (N,) are the times of the file's frames in seconds from its beginning.

    `frame_seconds` is the duration of a frame in files of one frame. Raises VideoError for an interval without a frame.
    """
    first, number = frames_in_interval(times_N, *interval)
    duration = duration_by_times(times_N, frame_seconds)
    if not number:
        raise VideoError(f"{path}: has no frame in {interval_text(*interval)}; it lasts {duration:.2f} s")
    start, end = interval
    return IntervalFrames(first, number, round(max(0.0, min(end, duration) - start), 3))


def duration_by_times(times_N: np.ndarray, frame_seconds: float = 0.0) -> float:
    """The duration of a file in seconds: the last frame lasts as long as most others."""
    return float(times_N[-1]) + (float(np.median(np.diff(times_N))) if len(times_N) > 1 else frame_seconds)
