"""Look at every file before anything trains: what is true of each, and which cannot be read."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import VideoError
from finetune.manifest import Manifest
from finetune.video.decode import VideoInfo, probe


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts of a manifest's rows as arrays, one item a row; a bad file's are zero, and `bad` has its reason."""

    num_frames: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    bad: dict[int, str]


def look_at_files(manifest: Manifest, *, progress: Callable[[int, int], None] | None = None) -> Facts:
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


def look_at(
    paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None
) -> list[VideoInfo | VideoError]:
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
