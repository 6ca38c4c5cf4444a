"""Read small grey frames of clips at a fixed rate, to compare how clips move."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.errors import VideoError
from finetune.video.decode.read import read_frames
from finetune.video.probe_files import ClipOfFile, Progress, locate_clips, map_in_processes
from finetune.video.still_edges import to_grey
from finetune.video.tube_frames import cropped

SIDE = 64  # pixels; the aspect ratio is not kept
FRAMES_PER_SECOND, MIN_FRAMES = 10, 24  # MIN_FRAMES: of a short clip, where it has as many
MAX_SECONDS = 12.0


class PartOfClip(NamedTuple):
    """A clip, and the time in it, in seconds, from which on its frames are read."""

    clip: ClipOfFile
    start: float = 0.0


@dataclass(frozen=True, eq=False)
class GreyFrames:
    """Grey frames, uint8 (T, S, S), and their times from the start of the clip in seconds, (T,), evenly spaced."""

    frames_TSS: np.ndarray
    times_T: np.ndarray


def read_grey_frames(
    parts: Sequence[PartOfClip], *, image_rate: float, seconds: float, progress: Progress | None = None
) -> list[GreyFrames | VideoError]:
    """For each part its frames, those of MAX_SECONDS at most, or why they cannot be read; see `inspect_files`."""
    positions_of: dict[Path, list[int]] = {}
    for position, part in enumerate(parts):
        positions_of.setdefault(part.clip.path, []).append(position)
    # A path travels to a worker process by itself, so that the files of a part are named once.
    parts_of = {
        os.fspath(path): [(*parts[position].clip[1:], parts[position].start) for position in positions]
        for path, positions in positions_of.items()
    }
    read = partial(_read, parts_of=parts_of, image_rate=image_rate)
    results = map_in_processes(read, list(positions_of), (seconds, progress))
    frames: dict[int, GreyFrames | VideoError] = {}
    for positions, result in zip(positions_of.values(), results, strict=True):
        of_parts = [result] * len(positions) if isinstance(result, VideoError) else result
        frames.update(zip(positions, of_parts, strict=True))
    return [frames[position] for position in range(len(parts))]


def _read(
    path: Path, *, parts_of: Mapping[str, Sequence[tuple]], image_rate: float
) -> list[GreyFrames | VideoError] | VideoError:
    parts = [PartOfClip(ClipOfFile(path, *fields[:-1]), fields[-1]) for fields in parts_of[os.fspath(path)]]
    return [_read_part(part, image_rate) for part in parts]


def _read_part(part: PartOfClip, image_rate: float) -> GreyFrames | VideoError:
    (located,) = locate_clips([part.clip], image_rate=image_rate)
    if isinstance(located, VideoError):
        return located
    number, seconds = located.info.num_frames, located.info.duration_seconds
    frame_seconds = seconds / number
    wanted_step = min(1 / FRAMES_PER_SECOND, seconds / MIN_FRAMES)
    stride = max(1, int(wanted_step / frame_seconds + 1e-6))  # whole frames, so that times are exact
    first = min(int(part.start / frame_seconds + 0.5), number - 1)
    indices = np.arange(first, number, stride)
    indices = indices[: max(1, int(MAX_SECONDS / (stride * frame_seconds)))]
    read = cropped(partial(read_frames, layout=located.layout), located.crop)
    try:
        frames_TCHW, _ = read(part.clip.path, (located.first + indices).tolist(), size=(SIDE, SIDE))
    except VideoError as error:
        return error
    return GreyFrames(to_grey(frames_TCHW), indices * frame_seconds)
