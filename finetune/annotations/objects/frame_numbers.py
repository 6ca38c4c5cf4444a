"""Which frame of a video is frame n of an annotation file, and the interval in seconds that holds it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.annotations.objects.frame_objects import FrameObjects, LabelledRange, Size
from finetune.annotations.seconds import times_of_frames
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS


@dataclass(frozen=True)
class VideoFrames:
    """The times of a video's frames in seconds, (N,), and its width and height."""

    path: Path
    times_N: np.ndarray
    size: Size


def read_video_frames(path: Path, *, image_rate: float = DEFAULT_IMAGE_FPS) -> VideoFrames:
    """The frames of a file, or of a folder of numbered images at `image_rate`. Raises VideoError."""
    from finetune.video.decode.probe import probe

    info, times_N = probe(path), times_of_frames(path)
    if path.is_dir():
        times_N = times_N * (DEFAULT_IMAGE_FPS / image_rate)
    return VideoFrames(path, times_N, (info.width, info.height))


def frame_intervals(times_N: np.ndarray) -> np.ndarray:
    """Intervals (N, 2) in seconds, of which each holds exactly one of the frames with these times, to a microsecond.

    They meet in the middle between two frames. The first one starts at 0, the last one has no end.
    """
    middles = np.round((times_N[1:] + times_N[:-1]) / 2, 6)
    return np.stack([np.array([0.0, *middles]), np.array([*middles, np.inf])], axis=1)


def counting_rates(
    video: VideoFrames,
    frames: Sequence[tuple[Path, FrameObjects, int]],
    ranges: Sequence[tuple[Path, LabelledRange]],
    given: float | None,
) -> dict[Path, float | None]:
    """By file, the rate that its frames are counted at; None where they are the frames of the video.

    That is the `given` one, else the one that the file states. Where a file only says how many frames it counts in the
    whole video, the rate follows from that, if the number differs by more than tools err in it.
    """
    rates = {source: entry.rate for source, entry, _ in frames} | {source: part.rate for source, part in ranges}
    if given is not None:
        return dict.fromkeys(rates, given)
    count = len(video.times_N)
    for source, part in ranges:
        if not part.is_whole_video or not part.frames:
            continue
        if abs(len(part.frames) - count) <= max(count // 50, int(rates[source] is None)):
            rates[source] = None
        elif rates[source] is None and count > 1:
            seconds = float(video.times_N[-1]) * count / (count - 1)
            rates[source] = len(part.frames) / seconds
    return rates


def frame_at(video: VideoFrames, number: int, rate: float | None) -> int:
    """The frame of the video nearest in time to frame `number` at a rate; one after the last if it is later."""
    if rate is None:
        return number
    times_N, seconds = video.times_N, number / rate
    place = int(np.searchsorted(times_N, seconds))
    if place == len(times_N):
        gap = float(times_N[-1] - times_N[-2]) if place > 1 else 0.0
        return place - 1 if seconds < times_N[-1] + max(gap, 1 / rate) else place
    return place - 1 if place and seconds - times_N[place - 1] < times_N[place] - seconds else place
