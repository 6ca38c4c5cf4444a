"""Look at every file before anything trains: what is true of each, and which cannot be read.

The one place where files are looked at. `probe_many` finds what training, evaluation and prediction need to know,
`inspect_files` also what the check of a whole data set compares and shows.
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
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.every_frame import check_every_frame
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.read import VideoInfo, probe, read_frames, scan
from finetune.video.decode.truncation import missing_bytes
from finetune.video.encode import encode_jpeg
from finetune.video.file_facts import FactsCache, FileFacts
from finetune.video.fingerprints import thumbnail
from finetune.video.still_edges import to_grey
from finetune.video.worker_pool import WorkerFailure, process_map

Progress = Callable[[int, int], None]
STALL_LIMIT_SECONDS = 300.0  # in which nothing of a file is read
TIMEOUT_REASON = "took longer than"  # in the reason given for a file that hangs its decoder
MAX_MISSING_SHARE = 0.01  # of a file: programs that count their own header wrong miss by less
MIN_FILES_FOR_PROCESSES, MAX_PROCESSES = 32, 16
_PICTURE_SIDE = 176  # pixels of the longer side of the pictures that are compared and shown


@dataclass(frozen=True, eq=False)
class FileInspection:
    """What a check keeps of a file, about 6 KB: its facts, and its first, middle and last frame, small and grey.

    Of files that are compared with those of other classes these frames are kept larger too, in at most 93 KB.
    """

    info: VideoInfo
    file_bytes: int
    pictures_3SS: np.ndarray  # uint8
    middle_jpeg: bytes  # in colour
    grey_3HW: np.ndarray | None = None  # uint8


def scan_files(manifest: Manifest, *, progress: Progress | None = None) -> FileFacts:
    """What is known of each file of a manifest; those that are new or have changed are looked at now.

    `progress` is called with (files done, files).
    """
    kept = FactsCache(manifest)
    rows = kept.unknown()
    results = _map_files(_scan, [manifest.path(row) for row in rows], progress=progress)
    return _at_image_rate(kept.add_scanned(dict(zip(rows, results, strict=True))), manifest)


def _at_image_rate(facts: FileFacts, manifest: Manifest) -> FileFacts:
    """Kept facts of folders of numbered images have no rate, and so no duration: both follow from the manifest's."""
    assert facts.rates is not None and facts.seconds is not None
    for row in np.flatnonzero((facts.rates == 0) & (facts.num_frames > 0)).tolist():
        if manifest.path(row).is_dir():
            facts.rates[row] = manifest.image_rate
            facts.seconds[row] = facts.num_frames[row] / manifest.image_rate
    return facts


def probe_many(paths: Sequence[Path], *, progress: Progress | None = None) -> list[VideoInfo | VideoError]:
    """For each path its facts, or the error that says why it cannot be read."""
    return _map_files(_info, paths, progress=progress)


def _map_files(function: Callable, paths: Sequence[Path], *, progress: Progress | None) -> list:
    """Of many files each is read in a process on which nothing else depends; for few that is not worth starting."""
    if len(paths) >= MIN_FILES_FOR_PROCESSES:
        return _in_processes(function, paths, (STALL_LIMIT_SECONDS, progress))
    # The decoder lets go of the interpreter lock while it works, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _collected(pool.map(function, paths), len(paths), progress)


def inspect_files(
    paths: Sequence[Path],
    *,
    seconds: float,
    image_rate: float = DEFAULT_IMAGE_FPS,
    keep_frames_of: Collection[Path] = (),
    every_frame: bool = False,
    progress: Progress | None = None,
) -> list[FileInspection | VideoError]:
    """For each path what `FileInspection` holds, or the error that says why its frames cannot be read.

    Each file is decoded in a process that is ended when it comes on with nothing for `seconds`. Folders of numbered
    images have `image_rate` frames a second. `keep_frames_of` are the files whose frames are kept for `Look.grey_3HW`.
    With `every_frame` a file with any damaged frame cannot be read.
    """
    look = partial(_inspect, image_rate=image_rate, keep_frames_of=frozenset(keep_frames_of), every_frame=every_frame)
    return _in_processes(look, paths, (seconds, progress))


def _in_processes(function: Callable, paths: Sequence[Path], limit_and_progress: tuple[float, Progress | None]) -> list:
    seconds, progress = limit_and_progress
    if not paths:
        return []
    count = min(len(os.sched_getaffinity(0)), MAX_PROCESSES, len(paths))
    answers = process_map(function, paths, count=count, time_limit=seconds, extend_on_heartbeat=True)
    named = (_with_path(path, answer) for path, answer in zip(paths, answers, strict=True))
    return _collected(named, len(paths), progress)


def _with_path(path: Path, answer: object) -> object:
    return VideoError(f"{path}: {answer.reason}") if isinstance(answer, WorkerFailure) else answer


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


def _scan(path: Path) -> tuple[VideoInfo, GopLayout | None] | VideoError:
    try:
        return scan(path)
    except VideoError as error:
        return error


def _inspect(
    path: Path, *, image_rate: float, keep_frames_of: Collection[Path], every_frame: bool
) -> FileInspection | VideoError:
    try:
        info, layout = scan(path)
        if info.counted == "images":
            info = replace(info, fps=image_rate, duration_seconds=info.num_frames / image_rate)
        scale = min(1, _PICTURE_SIDE / max(info.height, info.width))
        size = max(1, round(scale * info.height)), max(1, round(scale * info.width))
        last = info.num_frames - 1
        frames_TCHW, _ = read_frames(path, [0, info.num_frames // 2, last], size=size, layout=layout)
        if cut_off := _truncation_error(path, after=f" after frame {info.num_frames}"):
            return cut_off
        if every_frame:
            check_every_frame(path, num_frames=info.num_frames)
    except VideoError as error:
        return _truncation_error(path) or error
    pictures_3SS = np.stack([thumbnail(frame) for frame in frames_TCHW])
    grey_3HW = to_grey(frames_TCHW) if path in keep_frames_of else None
    return FileInspection(info, stamp(path)[0], pictures_3SS, encode_jpeg(frames_TCHW[1]), grey_3HW)


def _truncation_error(path: Path, *, after: str = "") -> VideoError | None:
    """Training would take a file of which the end is missing, as its start decodes; but it is not the clip it was."""
    try:
        missing, there = (missing_bytes(path), path.stat().st_size) if path.is_file() else (0, 0)
    except OSError:
        return None
    if missing <= MAX_MISSING_SHARE * there:
        return None
    return VideoError(f"{path}: is cut off{after}: its header promises {there + missing:,} bytes, {there:,} are there")
