"""What to predict, with the facts of each: files, clips within folders, intervals of files, and frames in memory."""

import math
from collections.abc import Iterable
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.intervals import WHOLE, clip_name, read_intervals, seconds_text
from finetune.data.read import find_media, read_csv
from finetune.data.tables import is_table
from finetune.data.tubes import read_tubes
from finetune.errors import ArgumentError, RunError, VideoError
from finetune.recipe.schema import Recipe
from finetune.video.dataset import FrameSource
from finetune.video.decode.frame_array import frame_array
from finetune.video.decode.probe import VideoInfo, frame_times
from finetune.video.decode.read import read_frames
from finetune.video.probe_files import ClipOfFile, LocatedClip, Progress, locate_clips
from finetune.video.tube_frames import cropped


class InputVideo(NamedTuple):
    """One clip, the facts about it or why it cannot be read, and where its frames come from."""

    path: Path
    info: VideoInfo | VideoError
    source: FrameSource
    interval: tuple[float, float] = WHOLE  # in seconds
    first_frame: int = 0  # in the file
    boxes: str = ""  # of a clip that follows an object, as in a manifest

    @property
    def name(self) -> str:
        return clip_name(self.path, *self.interval, self.boxes)


def list_inputs(inputs: Any) -> list[Any]:
    """One path, interval (path, start, end) or array of frames (T, H, W, 3) as a list of one; others as a list."""
    is_one = isinstance(inputs, str | Path) or hasattr(inputs, "shape") or _is_interval(inputs)
    return [inputs] if is_one else list(inputs)


def find_inputs(
    inputs: Iterable[Any],
    recipe: Recipe,
    *,
    image_sequences: bool,
    frame_rate: float | None = None,
    progress: Progress | None = None,
) -> list[InputVideo]:
    """The clips of paths, of intervals (path, start, end), and of arrays or tensors of frames (T, H, W, 3), in order.

    A path may be that of a CSV, path[,start,end][,boxes]. The path of an array is `frames[i]`, where i is its
    position in `inputs`; arrays have `frame_rate` frames per second. `progress` counts files. Raises RunError where the
    recipe samples frames by time and `frame_rate` is None.
    """
    clips: list[tuple[ClipOfFile, Any]] = []
    for position, item in enumerate(inputs):
        if isinstance(item, str | Path):
            clips += [(clip, None) for clip in _clips_at(Path(item), image_sequences=image_sequences)]
        elif isinstance(item, ClipOfFile):
            clips.append((item, None))
        elif _is_interval(item):
            clips.append((_interval_clip(*item), None))
        elif frame_rate is None and recipe.clip.sampling == "fps":
            raise RunError("the run samples frames by time (clip.sampling is fps); give the frame_rate of the arrays")
        else:
            clips.append((ClipOfFile(Path(f"frames[{position}]")), item))
    image_rate = recipe.data.image_rate
    of_files = [clip for clip, frames in clips if frames is None]
    located = iter(locate_clips(of_files, image_rate=image_rate, progress=progress))
    return [
        _file_input(clip, next(located), image_rate)
        if frames is None
        else _array_input(clip.path, frames, frame_rate or image_rate)
        for clip, frames in clips
    ]


def _clips_at(path: Path, *, image_sequences: bool) -> list[ClipOfFile]:
    """The clips of a file, of a folder, or of the rows of a CSV, whose paths are relative to it."""
    if not is_table(path):
        return [ClipOfFile(file) for file in find_media(path, image_sequences=image_sequences)]
    table = read_csv(path, labels="of tasks")
    intervals = read_intervals(table)
    times = [WHOLE] * len(table.lines) if intervals is None else [(start, end) for start, end in intervals.tolist()]
    files = [path.parent / name for name in table["path"]]
    cells = read_tubes(table)
    boxes = [""] * len(files) if cells is None else [cell.decode() for cell in cells.tolist()]
    return [ClipOfFile(file, time, boxes=cell) for file, time, cell in zip(files, times, boxes, strict=True)]


def _is_interval(item: Any) -> bool:
    if not isinstance(item, tuple) or len(item) != 3 or not isinstance(item[0], str | Path):
        return False
    return all(time is None or (isinstance(time, Real) and not isinstance(time, bool)) for time in item[1:])


def _interval_clip(path: str | Path, start: float | None, end: float | None) -> ClipOfFile:
    """The clip of (path, start, end) in seconds; None is the beginning or the end of the file."""
    times = 0.0 if start is None else float(start), math.inf if end is None else float(end)
    if not 0 <= times[0] < times[1]:
        raise ArgumentError(
            f"{path}: no interval from {seconds_text(times[0])} to {seconds_text(times[1])} s; "
            "it needs a start of at least 0 and an end after it"
        )
    return ClipOfFile(Path(path), times)


def _file_input(clip: ClipOfFile, located: LocatedClip | VideoError, image_rate: float) -> InputVideo:
    if isinstance(located, VideoError):
        return InputVideo(clip.path, located, FrameSource(), clip.interval, boxes=clip.boxes)
    layout, first = located.layout, located.first
    read = cropped(partial(read_frames, layout=layout), located.crop)
    source = FrameSource(read, partial(frame_times, layout=layout), image_rate)
    if clip.interval != WHOLE:
        source = source.part(first, located.info.num_frames, file_frames=located.file_frames)
    return InputVideo(clip.path, located.info, source, clip.interval, first, clip.boxes)


def _array_input(path: Path, frames: Any, frame_rate: float) -> InputVideo:
    try:
        array = frame_array(frames, path)
    except VideoError as error:
        return InputVideo(path, error, FrameSource())
    return InputVideo(path, array.info, FrameSource(array.read, array.times, frame_rate))
