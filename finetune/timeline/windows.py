"""Which windows of a recording are classified, and which frames each takes. Arithmetic only: no decoder, no tensors.

A window is a run of consecutive frames, as a row of a manifest with a start and an end is: its frames are those that
`sample_indices` takes of so many. Where frames are evenly spaced in time, length and step are rounded to whole numbers
of frames, such that overlapping windows take the same frames wherever they can: those are then computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import numpy as np

from finetune.data.intervals import MICROSECONDS_PER_SECOND
from finetune.recipe.schema import Clip
from finetune.video.sampling import sample_indices

STEPS_PER_WINDOW = 4  # by default a window begins every quarter of its length
MAX_CHANGE = 0.1  # of a window's length, to let windows share frames


@dataclass(frozen=True, eq=False)
class Windows:
    """W windows of a recording, in order: each has `counts_W` frames from the frame `firsts_W` on.

    `times_W` are their middles in seconds, on the clock of the frame times; `seconds` is their length and
    `step_seconds` the time from one to the next. `sampled_WVT` are the frames that V views of T frames take in each.
    """

    firsts_W: np.ndarray
    counts_W: np.ndarray
    times_W: np.ndarray
    seconds: float
    step_seconds: float
    sampled_WVT: np.ndarray

    def __len__(self) -> int:
        return len(self.firsts_W)

    @property
    def sampled_frames(self) -> np.ndarray:
        """The numbers (M,) of the frames that any window takes, rising."""
        return np.unique(self.sampled_WVT)


def plan_windows(
    times_N: np.ndarray, clip: Clip, *, views: int, window_seconds: float, step_seconds: float | None = None
) -> Windows:
    """The windows of a recording whose frames are shown at `times_N` (N,), rising, in seconds.

    The first begins with the first frame; the last is the last that ends within the recording. A recording that is
    shorter than a window has one window of all its frames. `step_seconds` is by default a quarter of a window.
    """
    gap = frame_seconds(times_N)
    step_seconds = step_seconds or window_seconds / STEPS_PER_WINDOW
    if _is_even(times_N, gap):
        count, spacing = _shared_count(clip, views, window_seconds / gap, rate=1 / gap)
        step = _shared_step(step_seconds / gap, spacing)
        firsts_W = np.arange(0, max(1, len(times_N) - count + 1), step)
        counts_W = np.full(len(firsts_W), min(count, len(times_N)))
        window_seconds, step_seconds = count * gap, step * gap
    else:
        firsts_W, counts_W = _windows_by_time(times_N, times_N[-1] + gap, window_seconds, step_seconds)
    ends_N1 = np.append(times_N, times_N[-1] + gap)
    times_W = (times_N[firsts_W] + ends_N1[firsts_W + counts_W]) / 2
    sampled_WVT = _sampled_frames(times_N, clip, views, firsts_W, counts_W)
    return Windows(firsts_W, counts_W, times_W, window_seconds, step_seconds, sampled_WVT)


def frame_seconds(times_N: np.ndarray) -> float:
    """The mean time from one frame to the next, in seconds, of frames shown at `times_N` (N,); 1/25 of a single one."""
    span = float(times_N[-1] - times_N[0])
    return span / (len(times_N) - 1) if span > 0 else 0.04


def _is_even(times_N: np.ndarray, gap: float) -> bool:
    """Whether each frame is shown within half a frame of its place at a constant frame rate."""
    return bool(np.abs(times_N - times_N[0] - gap * np.arange(len(times_N))).max() <= gap / 2)


def _shared_count(clip: Clip, views: int, frames: float, *, rate: float) -> tuple[int, int]:
    """The length of a window in frames, about `frames`, and the step by which windows take the same frames."""
    count = max(1, round(frames))
    even, spacing_of = SPACINGS[clip.sampling](clip, clip.num_frames * views, count, rate)
    if abs(even - frames) <= MAX_CHANGE * frames:
        count = even
    return count, max(1, spacing_of(count))


def _segments(clip: Clip, parts: int, count: int, rate: float) -> tuple[int, Callable[[int], int]]:
    return max(1, round(count / parts)) * parts, lambda length: length // gcd(length, parts)


def _uniform(clip: Clip, parts: int, count: int, rate: float) -> tuple[int, Callable[[int], int]]:
    gaps = max(1, parts - 1)
    return max(1, round((count - 1) / gaps)) * gaps + 1, lambda length: (length - 1) // gcd(length - 1, gaps)


# By sampling: a length near `count` frames by which more frames are shared, and the spacing of frames by length.
SPACINGS: dict[str, Callable[[Clip, int, int, float], tuple[int, Callable[[int], int]]]] = {
    "segments": _segments,
    "uniform": _uniform,
    **dict.fromkeys(("dense", "around"), lambda clip, parts, count, rate: (count, lambda length: clip.frame_stride)),
    "fps": lambda clip, parts, count, rate: (count, lambda length: round(rate / (clip.fps or rate))),
}


def _shared_step(frames: float, spacing: int) -> int:
    """A step near `frames` from window to window: a multiple of `spacing` unless it is less."""
    return max(1, round(frames)) if round(frames) < spacing else round(frames / spacing) * spacing


def _windows_by_time(times_N: np.ndarray, end: float, window: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """First frames and numbers of frames of windows that begin every `step` seconds.

    A window in which no frame begins has the frame that is shown during it.
    """
    last_start = max(times_N[0], end - window)
    starts_W = times_N[0] + step * np.arange(int((last_start - times_N[0]) / step * (1 + 1e-9)) + 1)
    firsts_W, ends_W = np.searchsorted(times_N, starts_W), np.searchsorted(times_N, starts_W + window)
    firsts_W = np.where(firsts_W == ends_W, np.maximum(firsts_W - 1, 0), firsts_W)
    return firsts_W, np.maximum(ends_W - firsts_W, 1)


def _sampled_frames(
    times_N: np.ndarray, clip: Clip, views: int, firsts_W: np.ndarray, counts_W: np.ndarray
) -> np.ndarray:
    sampled_WVT = np.empty((len(firsts_W), views, clip.num_frames), np.int32)
    for place, (first, count) in enumerate(zip(firsts_W.tolist(), counts_W.tolist(), strict=True)):
        times = None
        if clip.sampling == "fps":
            seconds = times_N[first : first + count]
            times = np.rint(seconds * MICROSECONDS_PER_SECOND).astype(np.int64).tolist()
        for view in range(views):
            indices = sample_indices(clip, count, view=view, views=views, times=times)
            sampled_WVT[place, view] = np.clip(first + np.array(indices), 0, len(times_N) - 1)
    return sampled_WVT
