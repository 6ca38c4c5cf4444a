"""Read frames of a video file: what is true of it, and the frames asked for as uint8 arrays.

Frame i is the i-th frame that the decoder hands out, whatever timestamps or headers say. An image is a video of
one frame, and a folder of numbered images is a video too. Needs no torch, so that files can be looked at without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetune.errors import VideoError
from finetune.video.decode.clip_files import list_sequence_images
from finetune.video.decode.container import (
    PYAV_ERRORS,
    decode_frames,
    frame_rate,
    lacks_timestamps,
    open_video,
    reason_or_encrypted,
)
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.image_sequence import NO_TIME, image_frames, prefix_errors_with
from finetune.video.decode.opencv_torchcodec import read_with_opencv, read_with_torchcodec
from finetune.video.decode.orientation import ClipOrientation, OrientationError
from finetune.video.decode.packet_index import is_mp4, layout_by_container_index, layout_by_decoding, layout_by_demuxing
from finetune.video.decode.sparse import LayoutError, decode_groups
from finetune.video.decode.stack_frames import stack_pictures
from finetune.video.decode.verify_index import verified_layout

DECODING_VERSION = 2  # one more when the same file gives other pictures: features kept of the old ones are not used
Decoder = Literal["auto", "pyav", "opencv", "torchcodec"]
TimedFrames = Iterator[tuple[int, VideoFrame, float]]
MAX_INDEX_ENTRIES = 1000  # of an index, to tell how long a frame is shown


@dataclass(frozen=True)
class VideoInfo:
    """What is true of a file. Width and height are in pixels, as shown; duration is in seconds.

    A folder of numbered images has no rate of its own: `fps` and `duration_seconds` are 0.
    """

    num_frames: int  # that can be decoded
    counted: str  # index | packets | decoded | images: how num_frames is known
    reliable_timestamps: bool  # each frame has its own, and they rise from frame to frame
    fps: float
    width: int
    height: int
    duration_seconds: float
    codec: str
    has_audio: bool

    def __post_init__(self) -> None:
        assert self.num_frames > 0 and self.width > 0 and self.height > 0, self


def probe(path: str | Path) -> VideoInfo:
    """Facts about a video file; decodes its first frame, and all of them where nothing else counts right.

    Raises VideoError in plain words for a file that is empty, no video, audio only or cut off.
    """
    return _scan(Path(path), verify=False)[0]


def scan(path: str | Path) -> tuple[VideoInfo, GopLayout | None]:
    """`probe`, and the layout of a file that takes time to find it: not where the container's index says it."""
    return _scan(Path(path), verify=True)


def _scan(path: Path, *, verify: bool) -> tuple[VideoInfo, GopLayout | None]:
    if path.is_dir():
        return _info_of_images(path), None
    with open_video(path) as (container, stream):
        _require_not_truncated(path, container, stream)
        layout, counted = layout_by_container_index(container, stream), "index"
        codec, has_audio = stream.codec_context.name, bool(container.streams.audio)
        fps = frame_rate(stream)
        frame_seconds = _typical_frame_seconds(stream) or (1 / fps if fps else 0.0)
        first = next(decode_frames(path, container, stream), None)
        if first is None:
            raise VideoError(f"{path}: {reason_or_encrypted(path, 'holds no frame that can be decoded')}")
        height, width = ClipOrientation(path).of(first).swap_if_transposed((first.height, first.width))
    if layout is None:
        with open_video(path) as (container, stream):
            layout, counted = layout_by_demuxing(container, stream), "packets"
    last = None if layout is None else _time_of_last(path, layout)
    if layout is None or last is None:
        listed = 0 if layout is None else layout.num_frames
        layout, counted = _by_decoding(path, listed=listed, verify=verify), "decoded"
    info = VideoInfo(
        num_frames=layout.num_frames,
        counted=counted,
        reliable_timestamps=counted != "decoded",
        fps=fps,
        width=width,
        height=height,
        duration_seconds=_duration(layout, first, last, frame_seconds),
        codec=codec,
        has_audio=has_audio,
    )
    return info, None if counted == "index" else layout


def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    decoder: Decoder = "auto",
    layout: GopLayout | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames as uint8 (T, 3, H, W) RGB, channels last in memory, and their `pts_seconds` (T,).

    `indices` may repeat and need no order. `size` is (height, width) in pixels; a frame is scaled to it
    (bilinear, averaging as it shrinks) and then converted, never at full size. Only what the frames need
    is decoded; `layout`, from `scan`, saves going through the file to find that. A time is NaN where the file has
    none. Raises VideoError when a frame is not there.
    """
    path = Path(path)
    assert len(indices) and min(indices) >= 0, indices
    if path.is_dir():
        return _read_images(path, indices, size)
    return DECODERS[decoder](path, indices, size, layout)


def _read_with_pyav(
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: GopLayout | None
) -> tuple[np.ndarray, np.ndarray]:
    wanted, listed = sorted(set(indices)), 0
    if layout is None or layout.has_groups:
        with suppress(LayoutError, *PYAV_ERRORS), open_video(path, quick=True) as (container, stream):
            known = layout or layout_by_container_index(container, stream) or layout_by_demuxing(container, stream)
            if known is not None and wanted[-1] < known.num_frames:
                listed = known.num_frames
                frames = decode_groups(container, stream, known, wanted)
                return _as_arrays(path, _with_layout_times(frames, container, known), indices, size=size)
    with open_video(path) as (container, stream):
        frames = _decode_from_start(path, container, stream, wanted[-1], listed=listed)
        return _as_arrays(path, _with_layout_times(frames, container, layout), indices, size=size)


def _decode_from_start(
    path: Path, container: InputContainer, stream: VideoStream, last: int, *, listed: int
) -> TimedFrames:
    """Every frame from the first to `last`.

    Raises VideoError where fewer frames than a file lists come out: those behind a missing one have wrong numbers.
    """
    count, last = 0, max(last, listed - 1)
    for count, frame in enumerate(decode_frames(path, container, stream), start=1):
        yield count - 1, frame, float("nan") if frame.time is None else frame.time
        if count > last:
            return
    if listed:
        raise VideoError(f"{path}: {_damage_reason(listed, f'only {count} can be decoded')}")
    raise VideoError(f"{path}: frame {last} was asked for, but only {count} frames can be decoded")


def _with_layout_times(frames: TimedFrames, container: InputContainer, layout: GopLayout | None) -> TimedFrames:
    """The frames with the times that are known of them: the layout's, or by the rate where the container has none."""
    times = None if layout is None else layout.times
    rate = frame_rate(container.streams.video[0]) if lacks_timestamps(container) else 0
    for number, frame, seconds in frames:
        if times is not None and number < len(times):
            seconds = float(times[number])
        elif rate:
            seconds = number / rate
        yield number, frame, seconds


def _as_arrays(
    path: Path, frames: TimedFrames, indices: Sequence[int], *, size: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Those asked for, converted and stacked; a frame is let go as soon as it is converted."""
    wanted, to_rgb = set(indices), RgbConverter(path)
    found: dict[int, tuple[np.ndarray, float]] = {}
    for number, frame, seconds in frames:
        if number in wanted:
            found[number] = to_rgb(frame, size), seconds
        else:
            to_rgb.orientation.of(frame)
    return stack_pictures(path, found, indices)


def frame_times(path: str | Path, layout: GopLayout | None = None) -> np.ndarray:
    """Seconds at which each frame is shown (N,), never falling: one for each frame that `read_frames` gives.

    By the timestamps of packets where those are true, else by those of the frames that decoding in order gives, and
    evenly by the frame rate where a file has none; NaN for a folder of images, which has neither. A `layout` from
    `scan` may have them already.
    """
    path = Path(path)
    if path.is_dir():
        return np.full(len(list_sequence_images(path)), NO_TIME)
    listed = 0
    if layout is None:
        with open_video(path, quick=True) as (container, stream):
            index, layout = layout_by_container_index(container, stream), layout_by_demuxing(container, stream)
            listed = 0 if index is None else index.num_frames
    if layout is None or layout.times is None:
        layout = _by_decoding(path, listed=listed, verify=False)
    assert layout.times is not None
    return layout.times


def _by_decoding(path: Path, *, listed: int, verify: bool) -> GopLayout:
    """The layout by decoding everything. Raises VideoError where that gives fewer frames than the file lists."""
    try:
        with open_video(path) as (container, stream):
            layout, digests = layout_by_decoding(path, container, stream)
        if not layout.num_frames:
            raise VideoError(f"{path}: holds no frame that can be decoded")
        if layout.num_frames < listed:
            raise VideoError(f"{path}: only {layout.num_frames} can be decoded")
    except OrientationError:
        raise
    except VideoError as error:
        if not listed:
            raise
        reason = str(error).removeprefix(f"{path}: ")
        raise VideoError(f"{path}: {_damage_reason(listed, reason)}") from None
    return verified_layout(path, layout, digests) if verify and layout.has_groups else layout


def _damage_reason(listed: int, reason: str) -> str:
    return f"is damaged or cut off: it lists {listed} frames, but {reason}"


def _time_of_last(path: Path, layout: GopLayout) -> float | None:
    """When the last frame is shown; None where it does not come out, or the layout turns out not to be true."""
    with suppress(LayoutError, *PYAV_ERRORS), open_video(path, quick=True) as (container, stream):
        frames, orientation = decode_groups(container, stream, layout, [layout.num_frames - 1]), ClipOrientation(path)
        last = float("nan")
        for _, frame, seconds in _with_layout_times(frames, container, layout):
            orientation.of(frame)
            last = seconds
        return last
    return None


def _typical_frame_seconds(stream: VideoStream) -> float:
    """How long a frame is shown, typically, by the container's index; 0 where it has none."""
    times = [entry.timestamp for entry in islice(stream.index_entries, MAX_INDEX_ENTRIES)]
    gaps = np.diff(np.array(times, dtype=np.int64))
    return float(np.median(gaps[gaps > 0])) * float(stream.time_base or 0) if (gaps > 0).any() else 0.0


def _duration(layout: GopLayout, first: VideoFrame, last: float | None, frame_seconds: float) -> float:
    """From the first frame's time to the last one's, and as long as a frame is typically shown."""
    if layout.times is not None:
        gaps = np.diff(layout.times)
        frame_seconds = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else frame_seconds
        return float(layout.times[-1] - layout.times[0]) + frame_seconds
    return (last or 0.0) - (first.time or 0.0) + frame_seconds


def _info_of_images(folder: Path) -> VideoInfo:
    """Of the folder's first image, once the last one can be read as well."""
    images = list_sequence_images(folder)
    with prefix_errors_with(folder):
        first, last = probe(images[0]), probe(images[-1])
    _require_one_size(
        folder, {(info.width, info.height): image for info, image in ((first, images[0]), (last, images[-1]))}
    )
    return replace(
        first,
        num_frames=len(images),
        counted="images",
        reliable_timestamps=False,
        fps=0.0,
        duration_seconds=0.0,
    )


def _read_images(folder: Path, indices: Sequence[int], size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """`read_frames` of a folder of images, each upright by what it says itself."""
    images, found, sizes = list_sequence_images(folder), {}, {}
    for index, frame in image_frames(folder, images, sorted(set(indices))):
        to_rgb = RgbConverter(images[index])
        sizes[to_rgb.orientation.of(frame).swap_if_transposed((frame.width, frame.height))] = images[index]
        _require_one_size(folder, sizes)
        found[index] = to_rgb(frame, size)
    frames_THWC = np.stack([found[index] for index in indices])
    return frames_THWC.transpose(0, 3, 1, 2), np.full(len(indices), NO_TIME)


def _require_one_size(folder: Path, sizes: Mapping[tuple[int, int], Path]) -> None:
    """By the (width, height) of images as they are shown."""
    if len(sizes) > 1:
        listed = " and ".join(f"{image.name} {width} x {height}" for (width, height), image in sizes.items())
        raise VideoError(f"{folder}: its images differ in size: {listed} pixels; bring them to one size")


def _require_not_truncated(path: Path, container: InputContainer, stream: VideoStream) -> None:
    listed = len(stream.index_entries)
    if listed > container.size:
        raise VideoError(f"{path}: is damaged: its header lists {listed} frames, in {container.size} bytes")
    ends = [entry.pos + entry.size for entry in stream.index_entries] if is_mp4(container) else []
    file_size = path.stat().st_size
    there = sum(end <= file_size for end in ends)
    if there < len(ends):
        raise VideoError(f"{path}: is cut off: its header promises {len(ends)} frames, {there} are in the file")


class RgbConverter:
    """Turns a file's frames, the first of them first, into uint8 (H, W, 3) as they are shown.

    Keeps the scaler's tables from frame to frame. Errors name `path`.
    """

    def __init__(self, path: Path | str = "video") -> None:
        self.orientation = ClipOrientation(Path(path))
        self.scaler, self.converter = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
        """At `size` (height, width) in pixels, or as large as it is.

        Raises OrientationError where a frame states another orientation than the first.
        """
        orientation, flags = self.orientation.of(frame), Interpolation.BILINEAR
        if size is not None:
            height, width = orientation.swap_if_transposed(size)
            if not frame.format.is_rgb:  # the same picture as in one step, in little more than half the time
                frame = self.scaler.reformat(frame, width, height, format="yuv444p", interpolation=flags, threads=1)
            # Without full chroma white comes out as 253, and colours bleed at edges.
            flags = flags | Interpolation.FULL_CHR_H_INT
            frame = self.converter.reformat(frame, width, height, format="rgb24", interpolation=flags, threads=1)
        else:
            frame = self.converter.reformat(frame, format="rgb24", interpolation=flags, threads=1)
        return orientation.shown(frame.to_ndarray())


DECODERS = {
    "auto": _read_with_pyav,
    "pyav": _read_with_pyav,
    "opencv": read_with_opencv,
    "torchcodec": read_with_torchcodec,
}
