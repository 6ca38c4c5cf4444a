"""Read frames of a video: from frame indices to uint8 arrays.

Frame i is the i-th frame that the decoder outputs, whatever timestamps or headers say. An image is a video of one
frame, and a folder of numbered images is a video too. Imports no torch, so that `finetune check` need not load it.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetune.arguments import check_arguments
from finetune.errors import VideoError
from finetune.video.decode.clip_files import list_sequence_images
from finetune.video.decode.container import PYAV_ERRORS, decode_frames, frame_rate, lacks_timestamps, open_video
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.image_sequence import NO_TIME, image_frames, require_one_size
from finetune.video.decode.opencv_torchcodec import TimedPictures, read_with_opencv, read_with_torchcodec
from finetune.video.decode.orientation import ClipOrientation
from finetune.video.decode.packet_index import has_same_index, layout_by_container_index, layout_by_demuxing
from finetune.video.decode.sparse import LayoutError, TimedFrames, decode_groups

DECODING_VERSION = 2  # increase when the same file decodes to other pictures: cached features are then recomputed
MAX_SIDE = 2**15  # pixels
MP4_SUFFIXES = {".mp4", ".m4v", ".mov", ".3gp"}
LONG_INDEX = 10_000  # entries, about seven minutes
Decoder = Literal["auto", "pyav", "opencv", "torchcodec"]


@check_arguments
def read_frames(
    path: str | Path,
    indices: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    decoder: Decoder = "auto",
    layout: GopLayout | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """RGB frames, uint8 (T, 3, H, W) with channels last in memory, and their presentation times in seconds, (T,).

    `indices` count from 0, may repeat and may be in any order. `size` is (height, width) in pixels: a frame is scaled
    to it (bilinear, antialiased) and then converted to RGB, never at full size. `layout`, from `probe.scan`, saves a
    pass over the file to find the groups of pictures. A time is NaN where the file has none. Raises VideoError where a
    frame does not exist or cannot be decoded.
    """
    path = Path(path)
    if not len(indices) or min(indices) < 0:
        raise VideoError(f"{path}: frames are numbered from 0; at least one number is needed, none below 0: {indices}")
    if size is not None and not all(1 <= side <= MAX_SIDE for side in size):
        raise VideoError(f"{path}: cannot be scaled to {size}; height and width are 1 to {MAX_SIDE} pixels")
    pictures = _read_images(path, indices, size) if path.is_dir() else DECODERS[decoder](path, indices, size, layout)
    return _stack_pictures(path, pictures, indices)


def stream_frames(
    path: Path, indices: np.ndarray, *, size: tuple[int, int] | None, layout: GopLayout | None = None
) -> Generator[tuple[int, np.ndarray], None, None]:
    """The pictures that `read_frames` gives of the frames `indices`, (M,) and rising, one at a time with its number.

    Each is RGB uint8 (H, W, 3). Memory does not grow with the number of frames.
    """
    if path.is_dir():
        images = list_sequence_images(path)
        for index, frame in image_frames(path, images, indices.tolist()):
            yield index, RgbConverter(images[index])(frame, size)
        return
    given = listed = 0  # how many of the indices; frames in the file's index
    for edit_lists in [True] if layout is None or not _is_long_mp4(path, layout) else [False, True]:
        if layout is not None and not layout.has_groups:
            break
        with suppress(LayoutError, *PYAV_ERRORS), open_video(path, quick=True, edit_lists=edit_lists) as (file, stream):
            known = layout or layout_by_container_index(file, stream) or layout_by_demuxing(file, stream)
            if known is not None and indices[-1] < known.num_frames and (edit_lists or has_same_index(stream, known)):
                listed = known.num_frames
                frames = decode_groups(file, stream, known, indices[given:].tolist())
                for number, picture in _wanted_pictures(path, frames, indices[given:], size):
                    given += 1
                    yield number, picture
                return
    with open_video(path) as (container, stream):
        frames = _decode_from_start(path, container, stream, int(indices[-1]), listed=listed)
        yield from _wanted_pictures(path, frames, indices[given:], size)


def _wanted_pictures(
    path: Path, frames: TimedFrames, indices: np.ndarray, size: tuple[int, int] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Those of some frames in rising order whose numbers are among `indices`, as RGB."""
    to_rgb, place = RgbConverter(path), 0
    for number, frame, _ in frames:
        if place < len(indices) and number == indices[place]:
            place += 1
            yield number, to_rgb(frame, size)
        else:
            to_rgb.orientation.of(frame)


def _read_with_pyav(
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: GopLayout | None
) -> TimedPictures:
    wanted, listed = sorted(set(indices)), 0
    if layout is not None and _is_long_mp4(path, layout):
        with suppress(LayoutError, *PYAV_ERRORS), open_video(path, quick=True, edit_lists=False) as (container, stream):
            if wanted[-1] < layout.num_frames and has_same_index(stream, layout):
                frames = decode_groups(container, stream, layout, wanted)
                return _convert(path, with_true_times(frames, container, layout), wanted, size=size)
    if layout is None or layout.has_groups:
        with suppress(LayoutError, *PYAV_ERRORS), open_video(path, quick=True) as (container, stream):
            known = layout or layout_by_container_index(container, stream) or layout_by_demuxing(container, stream)
            if known is not None and wanted[-1] < known.num_frames:
                listed = known.num_frames
                frames = decode_groups(container, stream, known, wanted)
                return _convert(path, with_true_times(frames, container, known), wanted, size=size)
    with open_video(path) as (container, stream):
        frames = _decode_from_start(path, container, stream, wanted[-1], listed=listed)
        return _convert(path, with_true_times(frames, container, layout), wanted, size=size)


def _is_long_mp4(path: Path, layout: GopLayout) -> bool:
    """Whether a file is an MP4 whose index is so long that applying its edit list takes as long as decoding a clip."""
    is_mp4 = path.suffix.lower() in MP4_SUFFIXES
    return is_mp4 and layout.has_groups and layout.times is not None and layout.starts[-1] >= LONG_INDEX


def _decode_from_start(
    path: Path, container: InputContainer, stream: VideoStream, last: int, *, listed: int
) -> TimedFrames:
    """Every frame from the first to `last`.

    `listed` is how many frames the file's index lists, or 0. Raises VideoError where fewer come out: then a frame is
    missing somewhere, and all after it have wrong numbers.
    """
    count, last = 0, max(last, listed - 1)
    for count, frame in enumerate(decode_frames(path, container, stream), start=1):
        yield count - 1, frame, float("nan") if frame.time is None else frame.time
        if count > last:
            return
    if listed:
        raise VideoError(f"{path}: {damage_reason(listed, f'only {count} can be decoded')}")
    raise VideoError(f"{path}: frame {last} was asked for, but only {count} frames can be decoded")


def damage_reason(listed: int, reason: str) -> str:
    return f"is damaged or cut off: it lists {listed} frames, but {reason}"


def with_true_times(frames: TimedFrames, container: InputContainer, layout: GopLayout | None) -> TimedFrames:
    """Frames with the layout's times where it has them, or times by the frame rate where the container has none."""
    times = None if layout is None else layout.times
    rate = frame_rate(container.streams.video[0]) if lacks_timestamps(container) else 0
    for number, frame, seconds in frames:
        if times is not None and number < len(times):
            seconds = float(times[number])
        elif rate:
            seconds = number / rate
        yield number, frame, seconds


def _convert(
    path: Path, frames: TimedFrames, wanted: Sequence[int], *, size: tuple[int, int] | None
) -> dict[int, tuple[np.ndarray, float]]:
    """The wanted frames as RGB; each decoded frame is released as soon as it is converted."""
    to_rgb, remaining = RgbConverter(path), set(wanted)
    pictures: dict[int, tuple[np.ndarray, float]] = {}
    for number, frame, seconds in frames:
        if number in remaining:
            pictures[number] = to_rgb(frame, size), seconds
        else:
            to_rgb.orientation.of(frame)
    return pictures


def _read_images(folder: Path, indices: Sequence[int], size: tuple[int, int] | None) -> TimedPictures:
    """Frames of a folder of images; each image is rotated as it says itself."""
    images, sizes = list_sequence_images(folder), {}
    pictures: dict[int, tuple[np.ndarray, float]] = {}
    for index, frame in image_frames(folder, images, sorted(set(indices))):
        to_rgb = RgbConverter(images[index])
        sizes[to_rgb.orientation.of(frame).swap_if_transposed((frame.width, frame.height))] = images[index]
        require_one_size(folder, sizes)
        pictures[index] = to_rgb(frame, size), NO_TIME
    return pictures


def _stack_pictures(path: Path, pictures: TimedPictures, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3, H, W) and seconds (T,), in the order of `indices`. Raises VideoError where pictures differ in size."""
    shapes = {pictures[index][0].shape[:2]: index for index in sorted(pictures, reverse=True)}
    if len(shapes) > 1:
        sizes = [f"frame {index} has {width} x {height} pixels" for (height, width), index in shapes.items()]
        raise VideoError(
            f"{path}: its frame size changes: {', '.join(reversed(sizes))}; "
            "give a size to scale to, or re-encode it in one size, for example with `ffmpeg -i IN OUT`"
        )
    frames_THWC = np.stack([pictures[index][0] for index in indices])
    return frames_THWC.transpose(0, 3, 1, 2), np.array([pictures[index][1] for index in indices])


class RgbConverter:
    """Converts decoded frames of one file, the first frame first, to RGB uint8 (H, W, 3), rotated for display.

    Keeps the scaler's tables from frame to frame. Errors name `path`.
    """

    def __init__(self, path: Path | str = "video") -> None:
        self.orientation = ClipOrientation(Path(path))
        self.scaler, self.converter = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
        """At `size` (height, width) in pixels, or at full size.

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
