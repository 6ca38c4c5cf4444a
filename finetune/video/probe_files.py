"""Examine many files before training: facts about each, and why some cannot be read.

`scan_files` and `locate_clips` find the facts that training, evaluation and prediction need; `inspect_files` also the
pictures that `finetune check` compares and shows.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.intervals import WHOLE, clip_name
from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.every_frame import check_every_frame
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo, frame_times, layout_with_times, probe, scan
from finetune.video.decode.read import read_frames
from finetune.video.decode.truncation import missing_bytes
from finetune.video.encode import encode_jpeg
from finetune.video.file_facts import FactsCache, FileFacts
from finetune.video.fingerprints import thumbnail
from finetune.video.interval_frames import find_frames
from finetune.video.still_edges import to_grey
from finetune.video.tube_frames import TubeCrop, checked_crop, cropped, with_tubes
from finetune.video.worker_pool import WorkerFailure, process_map

Progress = Callable[[int, int], None]
STALL_LIMIT_SECONDS = 300.0  # without reading anything of a file
TIMEOUT_REASON = "took longer than"  # part of the reason for a file whose decoder hangs
MAX_MISSING_SHARE = 0.01  # of a file: programs that write a wrong size into the header are off by less
MIN_FILES_FOR_PROCESSES, MAX_PROCESSES = 32, 16
_PICTURE_SIDE = 176  # longer side in pixels of the pictures that are compared and shown


@dataclass(frozen=True, eq=False)
class FileInspection:
    """What `finetune check` keeps in memory of a clip, about 8 KB: its facts, and five small pictures.

    A clip is a file or an interval of it. Clips that are searched for burnt-in marks also keep larger grey frames, at
    most 93 KB.
    """

    info: VideoInfo  # number of frames and duration are those of the clip
    file_bytes: int
    pictures_5SS: np.ndarray  # uint8: thumbnails of five frames, from the first to the last, evenly spaced
    middle_jpeg: bytes  # the middle frame in colour
    grey_3HW: np.ndarray | None = None  # uint8: the first, middle and last frame
    file_seconds: float = 0.0  # duration of the whole file


class ClipOfFile(NamedTuple):
    """A file, or an interval of it in seconds; with `keep_frames` its inspection gets a `grey_3HW`.

    A clip with a cell `boxes` follows an object, see data/tubes.py.
    """

    path: Path
    interval: tuple[float, float] = WHOLE
    keep_frames: bool = False
    boxes: str = ""


def scan_files(manifest: Manifest, *, progress: Progress | None = None) -> FileFacts:
    """Facts about each file of a manifest; only files that are new or have changed are opened.

    `progress` is called with (files done, files).
    """
    paths, file_of_row = np.unique(manifest.paths, return_inverse=True)
    files_of = [Path(os.fsdecode(path)) for path in paths]
    timed = np.zeros(len(paths), dtype=bool)  # files whose frames are found by time; folders of images have a rate
    if manifest.intervals is not None:
        with_intervals = np.unique(file_of_row[(manifest.intervals != WHOLE).any(1)])
        timed[with_intervals] = [not files_of[file].is_dir() for file in with_intervals]
    cache = FactsCache(manifest.source, paths)
    unknown = cache.unknown(timed=timed)
    scan_file = partial(_scan, timed=frozenset(np.array(files_of)[timed].tolist()))
    results = _map_files(scan_file, [files_of[file] for file in unknown], progress=progress)
    files, starts = cache.add_scanned(dict(zip(unknown, results, strict=True)))
    facts = _at_image_rate(files.of_rows(file_of_row), manifest)
    times_of_row = partial(_times_of_row, facts, manifest)
    return with_tubes(
        facts.with_intervals(manifest, lambda row: times_of_row(row) - starts[file_of_row[row]]), manifest
    )


def _times_of_row(facts: FileFacts, manifest: Manifest, row: int) -> np.ndarray:
    """The timestamps of the frames of a row's file in seconds (N,)."""
    if manifest.path(row).is_dir():
        return np.arange(facts.num_frames[row]) / manifest.image_rate
    return frame_times(manifest.path(row), facts.layout(row))


def _at_image_rate(facts: FileFacts, manifest: Manifest) -> FileFacts:
    """Folders of numbered images have no frame rate in the cache, so rate and duration follow from the manifest's."""
    assert facts.rates is not None and facts.seconds is not None
    for row in np.flatnonzero((facts.rates == 0) & (facts.num_frames > 0)).tolist():
        if manifest.path(row).is_dir():
            facts.rates[row] = manifest.image_rate
            facts.seconds[row] = facts.num_frames[row] / manifest.image_rate
    return facts


def probe_many(paths: Sequence[Path], *, progress: Progress | None = None) -> list[VideoInfo | VideoError]:
    """For each path its facts, or why it cannot be read."""
    return _map_files(_info, paths, progress=progress)


class LocatedClip(NamedTuple):
    """The facts about a clip, its first frame in the file and, for an interval, the layout of the file if any.

    `file_frames` is the number of frames of the file. Where the clip follows an object, the size of the picture is that
    of its `crop`.
    """

    info: VideoInfo
    first: int = 0
    layout: GopLayout | None = None
    file_frames: int = 0
    crop: TubeCrop | None = None


def locate_clips(
    clips: Sequence[ClipOfFile], *, image_rate: float, progress: Progress | None = None
) -> list[LocatedClip | VideoError]:
    """Where the frames of each clip are, or why it cannot be read; each file is examined once.

    Folders of numbered images have `image_rate` frames a second. `progress` counts files.
    """
    paths = list(dict.fromkeys(clip.path for clip in clips))
    timed = frozenset(clip.path for clip in clips if clip.interval != WHOLE)
    results = _map_files(partial(_info_or_scan, timed=timed, image_rate=image_rate), paths, progress=progress)
    result_of = dict(zip(paths, results, strict=True))
    return [_locate(clip, result_of[clip.path]) for clip in clips]


_Located = tuple[VideoInfo, GopLayout | None, np.ndarray | None]  # the times of the frames, where needed


def _info_or_scan(path: Path, *, timed: Collection[Path], image_rate: float) -> _Located | VideoError:
    try:
        if path not in timed:
            return probe(path), None, None
        info, layout = at_image_rate(scan_with_times(path), image_rate)
        return info, layout, clip_times(path, info, layout)
    except VideoError as error:
        return error


def _locate(clip: ClipOfFile, result: _Located | VideoError) -> LocatedClip | VideoError:
    if isinstance(result, VideoError):
        return result
    info, layout, times_N = result
    first, file_frames = 0, info.num_frames if times_N is None else len(times_N)
    try:
        if clip.interval != WHOLE:
            assert times_N is not None
            frames = find_frames(clip.path, times_N, clip.interval, frame_seconds=info.duration_seconds)
            first, info = frames.first, replace(info, num_frames=frames.number, duration_seconds=frames.seconds)
        info, crop = _cropped(clip, info, first, file_frames=file_frames)
    except VideoError as error:
        return error
    return LocatedClip(info, first, None if clip.interval == WHOLE else layout, file_frames, crop)


def _cropped(clip: ClipOfFile, info: VideoInfo, first: int, *, file_frames: int) -> tuple[VideoInfo, TubeCrop | None]:
    """The facts of a clip of a file with the size of its crops, and where these lie. Raises VideoError."""
    if not clip.boxes:
        return info, None
    name, frames = clip_name(clip.path, *clip.interval, clip.boxes), (first, info.num_frames)
    crop = checked_crop(clip.boxes, frames, (info.height, info.width), file_frames=file_frames, name=name)
    return replace(info, height=crop.size[0], width=crop.size[1]), crop


def at_image_rate(scanned: tuple[VideoInfo, GopLayout | None], image_rate: float) -> tuple[VideoInfo, GopLayout | None]:
    """The facts with the frame rate and the duration of a folder of numbered images, which has none of its own."""
    info, layout = scanned
    if info.counted == "images":
        info = replace(info, fps=image_rate, duration_seconds=info.num_frames / image_rate)
    return info, layout


def _map_files(function: Callable, paths: Sequence[Path], *, progress: Progress | None) -> list:
    """The function's result for each path: in threads, or, where there are many, in worker processes that may crash."""
    if len(paths) >= MIN_FILES_FOR_PROCESSES:
        return map_in_processes(function, paths, (STALL_LIMIT_SECONDS, progress))
    # The decoder releases the interpreter lock, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _collected(pool.map(function, paths), len(paths), progress)


def inspect_files(
    clips: Sequence[Path | ClipOfFile],
    *,
    seconds: float,
    image_rate: float = DEFAULT_IMAGE_FPS,
    every_frame: bool = False,
    progress: Progress | None = None,
) -> list[FileInspection | VideoError]:
    """For each clip a `FileInspection`, or why its frames cannot be read.

    Each file is examined once, in a worker process, which is killed after `seconds` without progress. Folders of
    numbered images have `image_rate` frames a second. With `every_frame` all frames are decoded, and a file with a
    damaged one counts as unreadable. `progress` counts files.
    """
    parts = [clip if isinstance(clip, ClipOfFile) else ClipOfFile(clip) for clip in clips]
    positions_of: dict[Path, list[int]] = {}
    for position, part in enumerate(parts):
        positions_of.setdefault(part.path, []).append(position)
    clips_of = {
        os.fspath(path): [parts[position][1:] for position in positions] for path, positions in positions_of.items()
    }
    inspect = partial(_inspect, clips_of=clips_of, image_rate=image_rate, every_frame=every_frame)
    inspections: dict[int, FileInspection | VideoError] = {}
    results = map_in_processes(inspect, list(positions_of), (seconds, progress))
    for positions, result in zip(positions_of.values(), results, strict=True):
        of_clips = [result] * len(positions) if isinstance(result, VideoError) else result
        inspections.update(zip(positions, of_clips, strict=True))
    return [inspections[position] for position in range(len(clips))]


def map_in_processes(
    function: Callable, paths: Sequence[Path], limit_and_progress: tuple[float, Progress | None]
) -> list:
    """The function's result for each path, from worker processes; (seconds, progress) are as for `inspect_files`."""
    seconds, progress = limit_and_progress
    if not paths:
        return []
    count = min(len(os.sched_getaffinity(0)), MAX_PROCESSES, len(paths))
    results = process_map(function, paths, count=count, time_limit=seconds, extend_on_heartbeat=True)
    named = (_with_path(path, result) for path, result in zip(paths, results, strict=True))
    return _collected(named, len(paths), progress)


def _with_path(path: Path, result: object) -> object:
    return VideoError(f"{path}: {result.reason}") if isinstance(result, WorkerFailure) else result


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


def _scan(path: Path, *, timed: Collection[Path]) -> tuple[VideoInfo, GopLayout | None] | VideoError:
    """The facts and the layout of a file, with the times of its frames if it is in `timed`."""
    try:
        return scan_with_times(path) if path in timed else scan(path)
    except VideoError as error:
        return error


def scan_with_times(path: Path) -> tuple[VideoInfo, GopLayout | None]:
    """Facts about a file, and its layout with the times of frames; None for a folder of images. Raises VideoError."""
    info, layout = scan(path)
    if not path.is_dir() and (layout is None or layout.times is None):
        layout = layout_with_times(path)
        info = replace(info, num_frames=layout.num_frames)
    return info, layout


_Clip = tuple[tuple[float, float], bool, str]  # the fields of a ClipOfFile but its path


def _inspect(
    path: Path, *, clips_of: Mapping[str, Sequence[_Clip]], image_rate: float, every_frame: bool
) -> list[FileInspection | VideoError] | VideoError:
    clips = [ClipOfFile(path, *fields) for fields in clips_of[os.fspath(path)]]
    try:
        whole = all(clip.interval == WHOLE for clip in clips)
        info, layout = at_image_rate(scan(path) if whole else scan_with_times(path), image_rate)
        times_N = np.empty(0) if whole else clip_times(path, info, layout)
        inspections = [_inspect_clip(clip, (info, layout), times_N) for clip in clips]
        if truncation := _truncation_error(path, after=f" after frame {info.num_frames}"):
            return truncation
        if every_frame:
            check_every_frame(path, num_frames=info.num_frames)
    except VideoError as error:
        return _truncation_error(path) or error
    return inspections


def _inspect_clip(
    clip: ClipOfFile, scanned: tuple[VideoInfo, GopLayout | None], times_N: np.ndarray
) -> FileInspection | VideoError:
    """The inspection of a part of a file; `times_N` are as in `find_frames`. Raises VideoError for a whole file."""
    (info, layout), path = scanned, clip.path
    first, file_frames, file_seconds = 0, info.num_frames, info.duration_seconds
    try:
        if clip.interval != WHOLE:
            first, number, seconds = find_frames(path, times_N, clip.interval, frame_seconds=file_seconds)
            info = replace(info, num_frames=number, duration_seconds=seconds)
        info, crop = _cropped(clip, info, first, file_frames=file_frames)
        scale = min(1, _PICTURE_SIDE / max(info.height, info.width))
        size = max(1, round(scale * info.height)), max(1, round(scale * info.width))
        read = cropped(partial(read_frames, layout=layout), crop)
        number = info.num_frames
        places = [first + number * quarter // 4 for quarter in range(4)]
        frames_5CHW, _ = read(path, [*places, first + number - 1], size=size)
    except VideoError as error:
        if clip.interval == WHOLE and not clip.boxes:
            raise
        return error
    pictures_5SS = np.stack([thumbnail(frame) for frame in frames_5CHW])
    grey_3HW = to_grey(frames_5CHW[::2]) if clip.keep_frames else None
    jpeg = encode_jpeg(frames_5CHW[2])
    return FileInspection(info, stamp(path)[0], pictures_5SS, jpeg, grey_3HW, file_seconds)


def clip_times(path: Path, info: VideoInfo, layout: GopLayout | None) -> np.ndarray:
    """The times of a file's frames in seconds from the beginning of the file (N,), by which intervals choose frames."""
    if path.is_dir():
        return np.arange(info.num_frames) / info.fps
    return frame_times(path, layout) - info.start_seconds


def _truncation_error(path: Path, *, after: str = "") -> VideoError | None:
    """The error for a file whose end is missing. Training would accept it, as its start decodes; a check does not."""
    try:
        missing, size = (missing_bytes(path), path.stat().st_size) if path.is_file() else (0, 0)
    except OSError:
        return None
    if missing <= MAX_MISSING_SHARE * size:
        return None
    return VideoError(f"{path}: is cut off{after}: its header states {size + missing:,} bytes, but it has {size:,}")
