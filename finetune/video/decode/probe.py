"""What is true of a video file: its frame count, size, duration, codec, and the time of each frame."""

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.arguments import check_arguments
from finetune.errors import VideoError
from finetune.video.decode.clip_files import list_sequence_images
from finetune.video.decode.container import (
    PYAV_ERRORS,
    decode_frames,
    frame_rate,
    open_video,
    reason_or_encrypted,
    start_of_file,
)
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.image_sequence import NO_TIME, prefix_errors_with, require_one_size
from finetune.video.decode.orientation import ClipOrientation, OrientationError
from finetune.video.decode.packet_index import is_mp4, layout_by_container_index, layout_by_decoding, layout_by_demuxing
from finetune.video.decode.read import damage_reason, with_true_times
from finetune.video.decode.sparse import LayoutError, decode_groups
from finetune.video.decode.verify_index import verified_layout

MAX_INDEX_ENTRIES = 1000  # of the container's index, to find how long a frame is shown


@check_arguments
@dataclass(frozen=True)
class VideoInfo:
    """Facts about a file. Width and height are in pixels, as displayed; duration is in seconds.

    A folder of numbered images has no frame rate of its own: `fps` and `duration_seconds` are 0.
    """

    num_frames: int  # that can be decoded
    counted: str  # index | packets | decoded | images: how num_frames was found
    reliable_timestamps: bool  # each frame has its own timestamp, and they rise from frame to frame
    fps: float
    width: int
    height: int
    duration_seconds: float
    codec: str
    has_audio: bool
    start_seconds: float = 0.0  # timestamp at which players begin to count the time of the file

    def __post_init__(self) -> None:
        assert self.num_frames > 0 and self.width > 0 and self.height > 0, self


@check_arguments
def probe(path: str | Path) -> VideoInfo:
    """Facts about a video file. Decodes its first and last frame, or all frames where they cannot be counted otherwise.

    Raises VideoError for a file that is empty, no video, audio only or cut off.
    """
    return _scan(Path(path), verify=False)[0]


def scan(path: str | Path) -> tuple[VideoInfo, GopLayout | None]:
    """`probe`, and the file's layout where finding it takes time; None where the container's index gives it."""
    return _scan(Path(path), verify=True)


def _scan(path: Path, *, verify: bool) -> tuple[VideoInfo, GopLayout | None]:
    if path.is_dir():
        return _info_of_images(path), None
    with open_video(path) as (container, stream):
        _require_not_truncated(path, container, stream)
        layout, counted = layout_by_container_index(container, stream), "index"
        codec, has_audio = stream.codec_context.name, bool(container.streams.audio)
        fps, start_seconds = frame_rate(stream), start_of_file(container)
        frame_seconds = _typical_frame_seconds(stream) or (1 / fps if fps else 0.0)
        first = next(decode_frames(path, container, stream), None)
        if first is None:
            raise VideoError(f"{path}: {reason_or_encrypted(path, 'contains no frame that can be decoded')}")
        height, width = ClipOrientation(path).of(first).swap_if_transposed((first.height, first.width))
    if layout is None:
        with open_video(path) as (container, stream):
            layout, counted = layout_by_demuxing(container, stream), "packets"
    last_time = None if layout is None else _time_of_last_frame(path, layout)
    if layout is None or last_time is None:
        listed = 0 if layout is None else layout.num_frames
        layout, counted = _layout_by_decoding(path, listed=listed, verify=verify), "decoded"
    info = VideoInfo(
        num_frames=layout.num_frames,
        counted=counted,
        reliable_timestamps=counted != "decoded",
        fps=fps,
        width=width,
        height=height,
        duration_seconds=_duration(layout, first, last_time, frame_seconds),
        codec=codec,
        has_audio=has_audio,
        start_seconds=start_seconds,
    )
    return info, None if counted == "index" else layout


def frame_times(path: str | Path, layout: GopLayout | None = None) -> np.ndarray:
    """The presentation time of each frame in seconds, float64 (N,), never falling; as many as `read_frames` can read.

    They are the timestamps of packets where these are reliable, else those of the frames decoded in order, else evenly
    spaced by the frame rate; NaN for a folder of images, which has neither. A `layout` from `scan` may hold them.
    """
    path = Path(path)
    if path.is_dir():
        return np.full(len(list_sequence_images(path)), NO_TIME)
    if layout is None or layout.times is None:
        layout = layout_with_times(path)
    assert layout.times is not None
    return layout.times


def layout_with_times(path: Path) -> GopLayout:
    """The layout of a video file with the presentation time of each frame, by a pass over all its packets.

    All frames are decoded where that is not enough. Raises VideoError.
    """
    with open_video(path, quick=True) as (container, stream):
        index, layout = layout_by_container_index(container, stream), layout_by_demuxing(container, stream)
        listed = 0 if index is None else index.num_frames
    return layout or _layout_by_decoding(path, listed=listed, verify=False)


def _layout_by_decoding(path: Path, *, listed: int, verify: bool) -> GopLayout:
    """The layout by decoding everything. Raises VideoError where that gives fewer frames than the index lists."""
    try:
        with open_video(path) as (container, stream):
            layout, digests = layout_by_decoding(path, container, stream)
        if not layout.num_frames:
            raise VideoError(f"{path}: contains no frame that can be decoded")
        if layout.num_frames < listed:
            raise VideoError(f"{path}: only {layout.num_frames} can be decoded")
    except OrientationError:
        raise
    except VideoError as error:
        if not listed:
            raise
        reason = str(error).removeprefix(f"{path}: ")
        raise VideoError(f"{path}: {damage_reason(listed, reason)}") from None
    return verified_layout(path, layout, digests) if verify and layout.has_groups else layout


def _time_of_last_frame(path: Path, layout: GopLayout) -> float | None:
    """Its presentation time in seconds; None where it cannot be decoded, or the layout turns out to be wrong."""
    with suppress(LayoutError, *PYAV_ERRORS), open_video(path, quick=True) as (container, stream):
        frames, orientation = decode_groups(container, stream, layout, [layout.num_frames - 1]), ClipOrientation(path)
        last_time = float("nan")
        for _, frame, seconds in with_true_times(frames, container, layout):
            orientation.of(frame)
            last_time = seconds
        return last_time
    return None


def _typical_frame_seconds(stream: VideoStream) -> float:
    """The median time between entries of the container's index, in seconds; 0 where it has none."""
    times = [entry.timestamp for entry in islice(stream.index_entries, MAX_INDEX_ENTRIES)]
    gaps = np.diff(np.array(times, dtype=np.int64))
    return float(np.median(gaps[gaps > 0])) * float(stream.time_base or 0) if (gaps > 0).any() else 0.0


def _duration(layout: GopLayout, first: VideoFrame, last_time: float | None, frame_seconds: float) -> float:
    """Seconds from the first frame's time to the last one's, and one typical frame more."""
    if layout.times is not None:
        gaps = np.diff(layout.times)
        frame_seconds = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else frame_seconds
        return float(layout.times[-1] - layout.times[0]) + frame_seconds
    return (last_time or 0.0) - (first.time or 0.0) + frame_seconds


def _info_of_images(folder: Path) -> VideoInfo:
    """Facts about the folder's first image, once the last one can be read too."""
    images = list_sequence_images(folder)
    with prefix_errors_with(folder):
        first, last = probe(images[0]), probe(images[-1])
    require_one_size(
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


def _require_not_truncated(path: Path, container: InputContainer, stream: VideoStream) -> None:
    listed = len(stream.index_entries)
    if listed > container.size:
        raise VideoError(f"{path}: is damaged: its index lists {listed} frames in {container.size} bytes")
    if not is_mp4(container):
        return
    file_size = path.stat().st_size
    complete = sum(entry.pos + entry.size <= file_size for entry in stream.index_entries)
    if complete < listed:
        raise VideoError(f"{path}: is cut off: its index lists {listed} frames, only {complete} are in the file")
