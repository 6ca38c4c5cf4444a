"""The windows of one recording, and its frames in batches: each frame is decoded once."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from finetune.data.intervals import clip_name
from finetune.errors import VideoError
from finetune.recipe.schema import Clip
from finetune.retrieval.build_plan import WindowLengths
from finetune.retrieval.embedder import WindowVector, embedded
from finetune.runtime.threads import run_ahead
from finetune.timeline.one_pass import NumberedPictures
from finetune.timeline.timelines import BATCHES_AHEAD, picture_batches
from finetune.timeline.windows import Windows, plan_windows
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo
from finetune.video.interval_frames import duration_by_times
from finetune.video.probe_files import at_image_rate, clip_times, scan_with_times


class RecordingWindows(NamedTuple):
    """The windows of a recording that lasts `seconds`, each from a start to an end (W, 2)."""

    path: Path
    clip: Clip
    windows: Windows
    intervals_W2: np.ndarray
    seconds: float
    info: VideoInfo
    layout: GopLayout | None

    def pictures(self, prepare: Callable[[np.ndarray], Tensor] | None = None) -> Generator[NumberedPictures]:
        """The frames of the windows in rising order, some at a time, decoded ahead; see `picture_batches`."""
        frames_M = self.windows.sampled_frames
        batches = picture_batches(self.path, frames_M, self.clip, info=self.info, layout=self.layout, prepare=prepare)
        return run_ahead(batches if len(frames_M) else iter(()), ahead=BATCHES_AHEAD)


def open_recording(
    path: Path,
    clip: Clip,
    lengths: WindowLengths,
    *,
    first_window: int,
    image_rate: float,
) -> RecordingWindows:
    """Plan the windows of a recording from `first_window` on, one clip each; there may be none.

    Raises VideoError for a file that cannot be read.
    """
    info, layout = at_image_rate(scan_with_times(path), image_rate)
    times_N = clip_times(path, info, layout)
    try:
        windows = plan_windows(times_N, clip, views=1, window_seconds=lengths.seconds, step_seconds=lengths.step)
    except VideoError as error:  # clip.short_clips is `error`
        raise VideoError(f"{path}: {error}; take longer windows") from None
    windows = _from_window(windows, first_window)
    seconds = duration_by_times(times_N, info.duration_seconds)
    ends_N1 = np.append(times_N, max(seconds, float(times_N[-1]) + 1e-6))
    intervals_W2 = np.stack([times_N[windows.firsts_W], ends_N1[windows.firsts_W + windows.counts_W]], 1).round(6)
    return RecordingWindows(path, clip, windows, intervals_W2, seconds, info, layout)


def _from_window(windows: Windows, first: int) -> Windows:
    kept = {name: getattr(windows, name)[first:] for name in ("firsts_W", "counts_W", "times_W", "sampled_WVT")}
    return replace(windows, **kept)


def window_vectors(
    recording: RecordingWindows, features: Iterable[np.ndarray], progress: Callable[[float, float], None] | None
) -> Iterator[WindowVector]:
    """The windows with their features, of which batches (B, D) are given in order. Raises VideoError."""
    done = 0
    for features_BD in features:
        for features_D in features_BD:
            start, end = recording.intervals_W2[done].tolist()
            name = clip_name(recording.path, start, end)
            _, vector_D, reason = embedded(done, features_D, name)
            if vector_D is None:
                raise VideoError(str(reason))
            yield WindowVector(start, end, vector_D)
            done += 1
        if progress is not None:
            is_last = done == len(recording.windows)
            progress(recording.seconds if is_last else float(recording.windows.times_W[done - 1]), recording.seconds)
