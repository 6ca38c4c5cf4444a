"""From numbers of frames and from points to intervals in seconds, and what is wrong with an interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune.annotations.annotation import MAX_SECONDS, Annotation
from finetune.data.valid_names import escape_invisible, has_forbidden_characters
from finetune.errors import DataError
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS


def times_of_frames(path: Path) -> np.ndarray:
    """The time of each frame of a video in seconds (N,), from the beginning of the file, as manifests count.

    Those of a folder of numbered images are at the usual rate. Raises VideoError.
    """
    from finetune.video.decode.container import open_video, start_of_file
    from finetune.video.decode.probe import frame_times

    times_N = frame_times(path)
    if path.is_dir():
        return np.arange(len(times_N)) / DEFAULT_IMAGE_FPS
    with open_video(path, quick=True) as (container, _):
        return times_N - start_of_file(container)


def in_seconds(annotation: Annotation, path: Path, times_N: np.ndarray | None) -> Annotation:
    """The annotation with start and end instead of frames; `times_N` are those of the video's frames, in seconds.

    Where the annotation has a rate, frame n is at n / rate. Raises DataError for frames that the video lacks.
    """
    if annotation.frames is None:
        return annotation
    first, after_last = annotation.frames
    if annotation.fps is None:
        assert times_N is not None
        start, end = _by_video(annotation.frames, path, times_N)
        return replace(annotation, frames=None, start=start, end=end)
    if annotation.fps <= 0:
        raise DataError(f"a frame rate of {annotation.fps:g} is not possible")
    end = None if after_last is None else after_last / annotation.fps
    return replace(annotation, frames=None, start=first / annotation.fps, end=end)


def _by_video(frames: tuple[int, int | None], path: Path, times_N: np.ndarray) -> tuple[float | None, float | None]:
    """Start and end in seconds; None for those of the video."""
    first, after_last = frames
    number = len(times_N)
    tolerated = number + 1 + number // 50  # tools estimate the number of frames from the duration
    if first >= number or (after_last or 0) > tolerated:
        raise DataError(f"frame {max(first, (after_last or 1) - 1)} does not exist: {path} has {number} frames")
    if first == after_last:
        return float(times_N[first]), float(times_N[first])
    start = float(times_N[first]) if first else None
    end = float(times_N[after_last]) if after_last is not None and after_last < number else None
    return start, end


def widened(annotation: Annotation, point_seconds: float) -> Annotation:
    """A point as an interval of `point_seconds` around it, cut off at 0; others as they are."""
    if annotation.start is None or annotation.start != annotation.end:
        return annotation
    start = max(annotation.start - point_seconds / 2, 0.0)
    return replace(annotation, start=start, end=annotation.start + point_seconds / 2)


def problem_of(annotation: Annotation) -> str | None:
    """What is wrong with the label or the times of an annotation in seconds; None if nothing."""
    if not annotation.label.strip():
        return "has no label"
    if has_forbidden_characters(annotation.label):
        return f"its label “{escape_invisible(annotation.label)[:60]}” has control characters"
    start, end = annotation.start, annotation.end
    for name, seconds in (("start", start), ("end", end)):
        if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
            return f"its {name}, {seconds:g} s, is no time in a recording"
    if end is not None and (start or 0) > end:
        return f"ends at {end:g} s, before it starts at {start or 0:g} s"
    return None
