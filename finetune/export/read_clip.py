"""Read a video as the model of this folder needs it, and read its outputs; with nothing but NumPy and PyAV.

Frames are chosen, decoded, resized and cropped as in training, bit for bit, for whole video files and single images.
Every frame of a file is decoded twice, to count and then to read. Not read: parts of a file (cut them out first), and
folders of numbered images.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

MICROSECONDS = 1_000_000


class Clip(NamedTuple):
    """`frames`, uint8 RGB (T, C, H, W), or with several views (V, T, C, H, W); the frames taken from the video, by
    view; and its (height, width) in pixels as displayed."""

    frames: np.ndarray
    indices: list[list[int]]
    video_size: tuple[int, int]


def read_clip(path: str, info: Mapping[str, Any]) -> Clip:
    """The frames of a video file; `info` is the content of model.json."""
    settings = info["clip"]
    times, orientation, stored = _facts(path)
    indices = frame_indices(settings, times)
    video_size = stored[::-1] if orientation[0] else stored
    size, read = settings["size"], read_size(settings, video_size)
    wanted = {index for view in indices for index in view}
    scaler, converter = VideoReformatter(), VideoReformatter()
    pictures = {}
    for index, frame in enumerate(_frames(path)):
        if index in wanted:
            pictures[index] = _picture(frame, scaler, converter, read=read, orientation=orientation)
            if len(pictures) == len(wanted):
                break
    top, left = (round((side - size) / 2) for side in read)
    frames = np.stack([[pictures[index] for index in view] for view in indices])
    frames = frames[:, :, top : top + size, left : left + size].transpose(0, 1, 4, 2, 3)
    return Clip(np.ascontiguousarray(frames if len(indices) > 1 else frames[0]), indices, video_size)


def predictions(info: Mapping[str, Any], outputs: Mapping[str, np.ndarray], clip: Clip) -> dict[str, dict[str, float]]:
    """{task: {name: value}} of one clip, from the outputs (1, ...) of the model for it.

    Classes and levels have probabilities with the fitted temperature, boxes x, y, w, h in pixels of the video (left,
    top, width, height), motion dx, dy in pixels per frame, to the right and down.
    """
    results = {}
    for task, of_task in info["tasks"].items():
        values = np.asarray(outputs[task][0], dtype=np.float64)
        if of_task["kind"] in ("box", "motion"):
            values = np.mean(
                [
                    _to_pixels(of_task["kind"], of_view, info["clip"], clip, indices)
                    for of_view, indices in zip(values.reshape(len(clip.indices), -1), clip.indices, strict=True)
                ],
                axis=0,
            )
        results[task] = {name: float(value) for name, value in zip(of_task["names"], values, strict=True)}
    return results


def frame_indices(settings: Mapping[str, Any], times: list[int]) -> list[list[int]]:
    """The frames of each view; `times` are those of the video's frames in microseconds."""
    frames, views, sampling = settings["num_frames"], settings["views"], settings["sampling"]
    total, steps = len(times), range(frames)
    if sampling == "fps":
        return [_by_time(settings, times, view) for view in range(views)]
    span = (frames - 1) * settings["frame_stride"] + 1 if sampling == "dense" else frames
    if settings["short_clips"] == "error" and total < span:
        raise ValueError(f"the video has {total} frames, and a clip spans {span}")
    if sampling == "segments":
        return [
            [(2 * (step * views + view) + 1) * total // (2 * frames * views) for step in steps] for view in range(views)
        ]
    if sampling == "uniform":
        last = frames * views - 1
        if last == 0:
            return [[(total - 1) // 2]]
        return [
            [(2 * step * (total - 1) + last) // (2 * last) for step in range(v, last + 1, views)] for v in range(views)
        ]
    if sampling == "around":
        return [_around_middle(settings, total)] * views
    starts = [(2 * view + 1) * max(0, total - span) // (2 * views) for view in range(views)]
    taken = [[start + step * settings["frame_stride"] for step in steps] for start in starts]
    if settings["short_clips"] == "loop":
        return [[index % total for index in view] for view in taken]
    return [[min(index, total - 1) for index in view] for view in taken]


def _around_middle(settings: Mapping[str, Any], total: int) -> list[int]:
    frames, stride = settings["num_frames"], settings["frame_stride"]
    indices = [total // 2 + (step - frames // 2) * stride for step in range(frames)]
    if settings["short_clips"] == "error" and not 0 <= indices[0] <= indices[-1] < total:
        raise ValueError(f"the video has {total} frames, and a clip spans frames {indices[0]} to {indices[-1]}")
    return [min(max(index, 0), total - 1) for index in indices]


def _by_time(settings: Mapping[str, Any], times: list[int], view: int) -> list[int]:
    rate = round(1000 * settings["fps"])
    steps = [step * MICROSECONDS * 1000 // rate for step in range(settings["num_frames"])]
    first, last = times[0], times[-1]
    gap = (last - first) // (len(times) - 1) if len(times) > 1 else MICROSECONDS * 1000 // rate
    duration = max(1, last - first + gap)
    if settings["short_clips"] == "error" and steps[-1] >= duration:
        raise ValueError(
            f"the video lasts {duration / MICROSECONDS:.2f} s, and a clip {steps[-1] / MICROSECONDS:.2f} s"
        )
    start = (2 * view + 1) * max(0, duration - 1 - steps[-1]) // (2 * settings["views"])
    instants = [start + step for step in steps]
    if settings["short_clips"] == "loop":
        instants = [instant % duration for instant in instants]
    return [max(0, bisect_right(times, first + instant) - 1) for instant in instants]


def read_size(settings: Mapping[str, Any], video_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) to which frames are resized before the crop."""
    size, short = settings["size"], min(video_size)
    if settings["fit"] == "squash":
        return size, size
    height, width = (max(size, round(side * size / short)) for side in video_size)
    return height, width


def _frames(path: str) -> Iterator[VideoFrame]:
    with av.open(f"file:{path}", metadata_errors="ignore") as container:
        pictures = av.stream.Disposition.attached_pic  # such as the cover of a film
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise ValueError(f"{path}: has no video stream")
        yield from container.decode(streams[0])


def _facts(path: str) -> tuple[list[int], tuple[bool, bool, bool], tuple[int, int]]:
    """The times of all frames in microseconds, how they are rotated, and the (height, width) that is stored."""
    seconds, first = [], None
    for frame in _frames(path):
        first = first or (_orientation(frame), (frame.height, frame.width))
        seconds.append(frame.time)
    if first is None:
        raise ValueError(f"{path}: contains no frame that can be decoded")
    with av.open(f"file:{path}", metadata_errors="ignore") as container:
        rate = container.streams.video[0].average_rate
        if "avi" in container.format.name or None in seconds:  # has no times but a frame rate
            seconds = [number / float(rate or 25) for number in range(len(seconds))]
    times = np.rint(np.maximum.accumulate(np.array(seconds)) * MICROSECONDS).astype(np.int64).tolist()
    return times, *first


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether the picture is transposed, then turned upside down, then mirrored for display: its display matrix."""
    side_data: Any
    try:
        side_data = frame.side_data
    except ValueError:
        raise ValueError("the picture has EXIF data, which PyAV cannot read; save it without them, turned") from None
    if Type.DISPLAYMATRIX not in side_data:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data[Type.DISPLAYMATRIX])[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _picture(
    frame: VideoFrame,
    scaler: VideoReformatter,
    converter: VideoReformatter,
    *,
    read: tuple[int, int],
    orientation: tuple[bool, bool, bool],
) -> np.ndarray:
    """RGB (H, W, C) as displayed: resized by FFmpeg with antialiasing, then converted."""
    transposed, upside_down, mirrored = orientation
    height, width = read[::-1] if transposed else read
    flags = Interpolation.BILINEAR
    if not frame.format.is_rgb:
        frame = scaler.reformat(frame, width, height, format="yuv444p", interpolation=flags, threads=1)
    flags |= Interpolation.FULL_CHR_H_INT
    picture = converter.reformat(frame, width, height, format="rgb24", interpolation=flags, threads=1).to_ndarray()
    picture = picture.swapaxes(0, 1) if transposed else picture
    return picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _to_pixels(
    kind: str, fractions: np.ndarray, settings: Mapping[str, Any], clip: Clip, indices: list[int]
) -> np.ndarray:
    """A box or motion in pixels of the video, from fractions of the model's input picture."""
    size, read = settings["size"], np.array(read_size(settings, clip.video_size))
    scale = (clip.video_size / read)[::-1] * size  # pixels of the video in the width and height of the input picture
    if kind == "motion":
        steps = np.diff(indices)
        step = steps[steps >= 0].mean() if (steps >= 0).any() else 0  # a negative step is the restart of a short video
        return fractions * scale / step if step else np.zeros(2)
    corner = np.array([round((side - size) / 2) for side in read])[::-1] / size
    sides = fractions[2:] * scale
    return np.concatenate([(fractions[:2] + corner) * scale - sides / 2, sides])
