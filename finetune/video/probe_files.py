"""Look at every file before anything trains: what is true of each, and which cannot be read.

The one place where files are looked at. `look_at` finds what training, evaluation and prediction need to know,
`look_closely` also what the check of a whole data set compares and shows.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.storage.numbered_images import IMAGE_RATE
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.every_frame import check_every_frame
from finetune.video.decode.gop import Layout
from finetune.video.decode.read import VideoInfo, probe, read_frames, scan
from finetune.video.decode.truncation import missing_bytes
from finetune.video.encode import jpeg_of
from finetune.video.file_facts import Facts, Kept
from finetune.video.fingerprints import small_grey
from finetune.video.still_edges import grey
from finetune.video.worker_pool import Failure, supervised_map

Progress = Callable[[int, int], None]
SECONDS_BEFORE_TRAINING = 300.0  # in which nothing of a file is read
TOO_SLOW = "took longer than"  # in the reason given for a file that hangs its decoder
TOLERATED = 0.01  # of a file: programs that count their own header wrong miss by less
WORTH_PROCESSES, MOST_PROCESSES = 32, 16
_PICTURE_SIDE = 176  # pixels of the longer side of the pictures that are compared and shown


@dataclass(frozen=True, eq=False)
class Look:
    """What a check keeps of a file, about 6 KB: its facts, and its first, middle and last frame, small and grey.

    Of files that are compared with those of other classes these frames are kept larger too, in at most 93 KB.
    """

    info: VideoInfo
    file_bytes: int
    pictures_3SS: np.ndarray  # uint8
    middle_jpeg: bytes  # in colour
    grey_3HW: np.ndarray | None = None  # uint8


def look_at_files(manifest: Manifest, *, progress: Progress | None = None) -> Facts:
    """What is known of each file of a manifest; those that are new or have changed are looked at now.

    `progress` is called with (files done, files).
    """
    kept = Kept(manifest)
    rows = kept.unknown()
    results = _looked_at(_scan, [manifest.path(row) for row in rows], progress=progress)
    return _at_image_rate(kept.with_new(dict(zip(rows, results, strict=True))), manifest)


def _at_image_rate(facts: Facts, manifest: Manifest) -> Facts:
    """Kept facts of folders of numbered images have no rate, and so no duration: both follow from the manifest's."""
    assert facts.rates is not None and facts.seconds is not None
    for row in np.flatnonzero((facts.rates == 0) & (facts.num_frames > 0)).tolist():
        if manifest.path(row).is_dir():
            facts.rates[row] = manifest.image_rate
            facts.seconds[row] = facts.num_frames[row] / manifest.image_rate
    return facts


def look_at(paths: Sequence[Path], *, progress: Progress | None = None) -> list[VideoInfo | VideoError]:
    """For each path its facts, or the error that says why it cannot be read."""
    return _looked_at(_info, paths, progress=progress)


def _looked_at(function: Callable, paths: Sequence[Path], *, progress: Progress | None) -> list:
    """Of many files each is read in a process on which nothing else depends; for few that is not worth starting."""
    if len(paths) >= WORTH_PROCESSES:
        return _in_processes(function, paths, (SECONDS_BEFORE_TRAINING, progress))
    # The decoder lets go of the interpreter lock while it works, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _collected(pool.map(function, paths), len(paths), progress)


def look_closely(
    paths: Sequence[Path],
    *,
    seconds: float,
    image_rate: float = IMAGE_RATE,
    keep_grey: Collection[Path] = (),
    every_frame: bool = False,
    progress: Progress | None = None,
) -> list[Look | VideoError]:
    """For each path what `Look` holds, or the error that says why its frames cannot be read.

    Each file is decoded in a process that is ended when it comes on with nothing for `seconds`. Folders of numbered
    images have `image_rate` frames a second. `keep_grey` are the files whose frames are kept for `Look.grey_3HW`.
    With `every_frame` a file with any damaged frame cannot be read.
    """
    look = partial(_look, image_rate=image_rate, keep_grey=frozenset(keep_grey), every_frame=every_frame)
    return _in_processes(look, paths, (seconds, progress))


def _in_processes(function: Callable, paths: Sequence[Path], limit_and_progress: tuple[float, Progress | None]) -> list:
    seconds, progress = limit_and_progress
    if not paths:
        return []
    count = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, len(paths))
    answers = supervised_map(function, paths, count=count, time_limit=seconds, restart_limit=True)
    named = (_named(path, answer) for path, answer in zip(paths, answers, strict=True))
    return _collected(named, len(paths), progress)


def _named(path: Path, answer: object) -> object:
    return VideoError(f"{path}: {answer.reason}") if isinstance(answer, Failure) else answer


def _collected(results: Iterable, number: int, progress: Progress | None) -> list:
    collected = []
    for result in results:
        collected.append(result)
        if progress is not None:
            progress(len(collected), number)
    return collected


def _info(path: Path) -> VideoInfo | VideoError:
    try:
        return probe(path)
    except VideoError as error:
        return error


def _scan(path: Path) -> tuple[VideoInfo, Layout | None] | VideoError:
    try:
        return scan(path)
    except VideoError as error:
        return error


def _look(path: Path, *, image_rate: float, keep_grey: Collection[Path], every_frame: bool) -> Look | VideoError:
    try:
        info, layout = scan(path)
        if info.counted == "images":
            info = replace(info, fps=image_rate, duration_seconds=info.num_frames / image_rate)
        scale = min(1, _PICTURE_SIDE / max(info.height, info.width))
        size = max(1, round(scale * info.height)), max(1, round(scale * info.width))
        last = info.num_frames - 1
        frames_TCHW, _ = read_frames(path, [0, info.num_frames // 2, last], size=size, layout=layout)
        if cut_off := _cut_off(path, after=f" after frame {info.num_frames}"):
            return cut_off
        if every_frame:
            check_every_frame(path, num_frames=info.num_frames)
    except VideoError as error:
        return _cut_off(path) or error
    pictures_3SS = np.stack([small_grey(frame) for frame in frames_TCHW])
    grey_3HW = grey(frames_TCHW) if path in keep_grey else None
    return Look(info, stamp(path)[0], pictures_3SS, jpeg_of(frames_TCHW[1]), grey_3HW)


def _cut_off(path: Path, *, after: str = "") -> VideoError | None:
    """Training would take a file of which the end is missing, as its start decodes; but it is not the clip it was."""
    try:
        missing, there = (missing_bytes(path), path.stat().st_size) if path.is_file() else (0, 0)
    except OSError:
        return None
    if missing <= TOLERATED * there:
        return None
    return VideoError(f"{path}: is cut off{after}: its header promises {there + missing:,} bytes, {there:,} are there")
