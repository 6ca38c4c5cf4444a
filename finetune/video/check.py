"""Look at every file before anything trains: what is true of each, and which cannot be read.

The one place where files are looked at. `look_at` finds what training, evaluation and prediction need to know,
`look_closely` also what the check of a whole data set compares and shows.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import VideoError
from finetune.manifest import Manifest
from finetune.video.decode import VideoInfo, probe, read_frames, scan
from finetune.video.duplicates import small_grey
from finetune.video.encode import jpeg_of

Progress = Callable[[int, int], None]
SECONDS_A_FILE = 8.0
_PICTURE_SIDE = 176  # pixels of the longer side of the pictures that are compared and shown


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts of a manifest's rows as arrays, one item a row; a bad file's are zero, and `bad` has its reason."""

    num_frames: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    bad: dict[int, str]


@dataclass(frozen=True, eq=False)
class Look:
    """What a check keeps of a file, about 6 KB: its facts, and its first, middle and last frame, small and grey."""

    info: VideoInfo
    file_bytes: int
    pictures_3SS: np.ndarray  # uint8
    middle_jpeg: bytes  # in colour


def look_at_files(manifest: Manifest, *, progress: Progress | None = None) -> Facts:
    """Probe each file of a manifest once. `progress` is called with (files done, files)."""
    num_frames, heights, widths = np.zeros((3, len(manifest)), dtype=np.int64)
    bad: dict[int, str] = {}
    results = look_at([manifest.path(row) for row in range(len(manifest))], progress=progress)
    for row, result in enumerate(results):
        if isinstance(result, VideoError):
            bad[row] = str(result)
        else:
            num_frames[row], heights[row], widths[row] = result.num_frames, result.height, result.width
    return Facts(num_frames, heights, widths, bad)


def look_at(paths: Sequence[Path], *, progress: Progress | None = None) -> list[VideoInfo | VideoError]:
    """For each path its facts, or the error that says why it cannot be read."""
    results: list[VideoInfo | VideoError] = []
    # The decoder lets go of the interpreter lock while it works, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(_probe_or_error, paths):
            results.append(result)
            if progress is not None:
                progress(len(results), len(paths))
    return results


def _probe_or_error(path: Path) -> VideoInfo | VideoError:
    try:
        return probe(path)
    except VideoError as error:
        return error


def look_closely(
    paths: Sequence[Path], *, seconds: float = SECONDS_A_FILE, progress: Progress | None = None
) -> list[Look | VideoError]:
    """For each path what `Look` holds, or the error that says why its frames cannot be read.

    Each file is decoded in a process that is ended when it takes longer than `seconds`.
    """
    results = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(_close_look, paths):
            results.append(result)
            if progress is not None:
                progress(len(results), len(paths))
    return results


def _close_look(path: Path) -> Look | VideoError:
    try:
        info, layout = scan(path)
        scale = min(1, _PICTURE_SIDE / max(info.height, info.width))
        size = max(1, round(scale * info.height)), max(1, round(scale * info.width))
        last = info.num_frames - 1
        frames_TCHW, _ = read_frames(path, [0, info.num_frames // 2, last], size=size, layout=layout)
    except VideoError as error:
        return error
    pictures_3SS = np.stack([small_grey(frame) for frame in frames_TCHW])
    return Look(info, path.stat().st_size, pictures_3SS, jpeg_of(frames_TCHW[1]))
