"""Read frames of a video file: what is true of it, and the frames asked for as uint8 arrays.

Frame i is the i-th frame that the decoder hands out, whatever timestamps or headers say. An image is a video of
one frame, and a folder of numbered images is a video too. Needs no torch, so that files can be looked at without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetune.errors import VideoError
from finetune.video.clip_files import images_of
from finetune.video.container import PYAV_ERRORS, decoded, is_encrypted, open_video
from finetune.video.image_sequence import NO_TIME, image_frames, named_in
from finetune.video.layout import Layout
from finetune.video.orientation import ClipOrientation, OrientationError
from finetune.video.other_decoders import read_with_opencv, read_with_torchcodec
from finetune.video.scan import by_decoding, by_index, by_packets, has_true_times, is_mp4, packets_of
from finetune.video.sparse import LayoutError, decode_groups

PICTURES_VERSION = 2  # one more when the same file gives other pictures: features kept of the old ones are not used
Decoder = Literal["auto", "pyav", "opencv", "torchcodec"]
Frames = Iterator[tuple[int, VideoFrame, float]]


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
    return scan(path)[0]


def scan(path: str | Path) -> tuple[VideoInfo, Layout | None]:
    """`probe`, and the layout of a file that takes time to find it: not where the container's index says it."""
    path = Path(path)
    if path.is_dir():
        return _info_of_images(path), None
    with open_video(path) as (container, stream):
        _refuse_cut_off(path, container, stream)
        layout, counted = by_index(container, stream), "index"
        codec, has_audio = stream.codec_context.name, bool(container.streams.audio)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        first = next(decoded(path, container, stream), None)
        if first is None:
            raise VideoError(f"{path}: {_why_no_frame(path, container)}")
        height, width = ClipOrientation(path).of(first).swapped((first.height, first.width))
    num_frames = 0 if layout is None else layout.num_frames
    if layout is None:
        with open_video(path) as (container, stream):
            layout, counted = by_packets(container, stream), "packets"
            num_frames = 0 if layout is None else layout.num_frames
    if layout is None:
        with open_video(path) as (container, stream):
            (num_frames, layout), counted = by_decoding(path, container, stream), "decoded"
    else:
        _refuse_where_the_last_frame_is_not(path, layout)
    info = VideoInfo(
        num_frames=num_frames,
        counted=counted,
        reliable_timestamps=counted != "decoded",
        fps=fps,
        width=width,
        height=height,
        duration_seconds=num_frames / fps if fps else 0.0,
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
    layout: Layout | None = None,
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
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: Layout | None
) -> tuple[np.ndarray, np.ndarray]:
    wanted = sorted(set(indices))
    try:
        with open_video(path, quick=True) as (container, stream):
            layout = layout or by_index(container, stream) or by_packets(container, stream)
            if layout is None or wanted[-1] >= layout.num_frames:
                raise LayoutError
            frames = decode_groups(container, stream, layout, wanted)
            return _as_arrays(frames, indices, ToRgb(path, size), rate=rate_of(container))
    except (LayoutError, *PYAV_ERRORS):
        pass
    with open_video(path) as (container, stream):
        frames = _counted_off(path, container, stream, wanted[-1])
        return _as_arrays(frames, indices, ToRgb(path, size), rate=rate_of(container))


def _counted_off(path: Path, container: InputContainer, stream: VideoStream, last: int) -> Frames:
    """Every frame from the first to `last`."""
    count = 0
    for count, frame in enumerate(decoded(path, container, stream), start=1):
        yield count - 1, frame, float("nan") if frame.time is None else frame.time
        if count > last:
            return
    raise VideoError(f"{path}: frame {last} was asked for, but only {count} frames can be decoded")


def _as_arrays(
    frames: Frames, indices: Sequence[int], to_rgb: "ToRgb", *, rate: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Those asked for, converted and stacked; a frame is let go as soon as it is converted."""
    wanted = set(indices)
    found: dict[int, tuple[np.ndarray, float]] = {}
    for number, frame, seconds in frames:
        if number in wanted:
            found[number] = to_rgb(frame), number / rate if rate else seconds
        else:
            to_rgb.orientation.of(frame)
    frames_THWC = np.stack([found[index][0] for index in indices])
    return frames_THWC.transpose(0, 3, 1, 2), np.array([found[index][1] for index in indices])


def rate_of(container: InputContainer) -> float | None:
    """Frames a second where the container has a rate and no times: AVI, for which PyAV makes some up."""
    return float(container.streams.video[0].average_rate or 0) if "avi" in container.format.name else None


def frame_times(path: str | Path) -> np.ndarray:
    """Seconds at which each frame is shown (N,), as the file says, or evenly by its frame rate where it does not.

    NaN for a folder of images, which has neither.
    """
    path = Path(path)
    if path.is_dir():
        return np.full(len(images_of(path)), NO_TIME)
    with open_video(path, quick=True) as (container, stream):
        if has_true_times(container, stream):
            with suppress(*PYAV_ERRORS):
                times = [packet.pts for packet in packets_of(container, stream) if not packet.is_discard]
                if times and None not in times:
                    return np.sort(np.array(times, dtype=np.int64)) * float(stream.time_base or 0)
    info = probe(path)
    return np.arange(info.num_frames) / (info.fps or 1.0)


def _info_of_images(folder: Path) -> VideoInfo:
    """Of the folder's first image, once the last one can be read as well."""
    images = images_of(folder)
    with named_in(folder):
        first, last = probe(images[0]), probe(images[-1])
    _refuse_two_sizes(
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
    images, found, sizes = images_of(folder), {}, {}
    for index, frame in image_frames(folder, images, sorted(set(indices))):
        to_rgb = ToRgb(images[index], size)
        sizes[to_rgb.orientation.of(frame).swapped((frame.width, frame.height))] = images[index]
        _refuse_two_sizes(folder, sizes)
        found[index] = to_rgb(frame)
    frames_THWC = np.stack([found[index] for index in indices])
    return frames_THWC.transpose(0, 3, 1, 2), np.full(len(indices), NO_TIME)


def _refuse_two_sizes(folder: Path, sizes: Mapping[tuple[int, int], Path]) -> None:
    """By the (width, height) of images as they are shown."""
    if len(sizes) > 1:
        listed = " and ".join(f"{image.name} {width} x {height}" for (width, height), image in sizes.items())
        raise VideoError(f"{folder}: its images differ in size: {listed} pixels; bring them to one size")


def _refuse_cut_off(path: Path, container: InputContainer, stream: VideoStream) -> None:
    listed = len(stream.index_entries)
    if listed > container.size:
        raise VideoError(f"{path}: is damaged: its header lists {listed} frames, in {container.size} bytes")
    ends = [entry.pos + entry.size for entry in stream.index_entries] if is_mp4(container) else []
    file_size = path.stat().st_size
    there = sum(end <= file_size for end in ends)
    if there < len(ends):
        raise VideoError(f"{path}: is cut off: its header promises {len(ends)} frames, {there} are in the file")


def _why_no_frame(path: Path, container: InputContainer) -> str:
    if is_mp4(container) and is_encrypted(path):
        return "is encrypted, and its frames cannot be decoded"
    return "holds no frame that can be decoded"


def _refuse_where_the_last_frame_is_not(path: Path, layout: Layout) -> None:
    """A file that is damaged or was not written to its end lists frames that are not there."""
    last = layout.num_frames - 1
    try:
        read_frames(path, [last], size=(16, 16), layout=layout)
    except OrientationError:
        raise
    except VideoError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise VideoError(f"{path}: is damaged or cut off: it lists {last + 1} frames, but {reason}") from None


class ToRgb:
    """Turns a file's frames, the first of them first, into uint8 (H, W, 3) as they are shown.

    `size` is (height, width) in pixels, None as large as a frame is. Keeps the scaler's tables from frame to frame.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self.size = size
        self.orientation = ClipOrientation(path)
        self.scaler, self.converter = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Raises OrientationError where a frame states another orientation than the first."""
        orientation, flags = self.orientation.of(frame), Interpolation.BILINEAR
        if self.size is not None:
            height, width = orientation.swapped(self.size)
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
