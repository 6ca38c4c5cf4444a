"""Read frames of a video file: what is true of it, and the frames asked for as uint8 arrays.

Frame i is the i-th frame that the decoder hands out, whatever timestamps or headers say. An image is a video of
one frame. Needs no torch, so that files can be looked at without it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetune.errors import VideoError

# In these every packet is one frame that comes out, so packets need not be decoded to be counted.
PACKETS_ARE_FRAMES = {"h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg"}


@dataclass(frozen=True)
class VideoInfo:
    """What is true of a file. Width and height are in pixels, after rotation; duration is in seconds."""

    num_frames: int  # that can be decoded
    counted: str  # index | packets | decoded: how num_frames is known
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
    path = Path(path)
    _refuse_what_is_no_video(path)
    with _open(path) as (container, stream):
        num_frames, counted = _count_by_index(path, container, stream)
        codec, has_audio = stream.codec_context.name, bool(container.streams.audio)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        first = next(_decode(path, container, stream), None)
        if first is None:
            raise VideoError(f"{path}: holds no frame that can be decoded")
        width, height = _size_after_rotation(first)
    if not counted:
        num_frames, counted = _count_by_reading(path)
    return VideoInfo(
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


def read_frames(
    path: str | Path, indices: Sequence[int], *, size: tuple[int, int] | None = None, decoder: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Frames as uint8 (T, 3, H, W) RGB, channels last in memory, and their `pts_seconds` (T,).

    A time is NaN where the file has none. `indices` may repeat and need no order. `size` is (height, width) in
    pixels; a frame is converted and scaled to it in one bilinear step (which averages when it shrinks), never at
    full size first. Decoding stops at the last frame asked for. Raises VideoError when a frame is not there.
    """
    path = Path(path)
    wanted = set(indices)
    last = max(wanted)
    found: dict[int, tuple[np.ndarray, float]] = {}
    decoded = 0
    reformatter = VideoReformatter()  # keeps its tables from frame to frame
    _refuse_what_is_no_video(path)
    with _open(path) as (container, stream):
        for index, frame in enumerate(_decode(path, container, stream)):
            decoded = index + 1
            if index in wanted:
                found[index] = _to_rgb(frame, size, reformatter), float("nan") if frame.time is None else frame.time
            if index == last:
                break
    if len(found) < len(wanted):
        raise VideoError(f"{path}: frame {last} was asked for, but only {decoded} frames can be decoded")
    frames_THWC = np.stack([found[index][0] for index in indices])
    return frames_THWC.transpose(0, 3, 1, 2), np.array([found[index][1] for index in indices])


def _refuse_what_is_no_video(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise VideoError(f"{path}: is empty (0 bytes)")
    if start.startswith(b"version https://git-lfs"):
        raise VideoError(f"{path}: is a Git-LFS pointer, not the video itself; run `git lfs pull`")


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first stream of pictures, set to decode in one thread."""
    try:
        # The file: prefix keeps a name with a colon or a percent sign from being read as a protocol or pattern.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: is no video, or cut off: {_reason(error)}") from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kind = "only audio" if container.streams.audio else "no stream of pictures"
            raise VideoError(f"{path}: holds {kind}")
        streams[0].codec_context.thread_count = 1
        yield container, streams[0]


def _decode(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    decoded = 0
    try:
        for frame in container.decode(stream):
            decoded += 1
            yield frame
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be decoded after frame {decoded}: {_reason(error)}") from None


def _count_by_index(path: Path, container: InputContainer, stream: VideoStream) -> tuple[int, str]:
    """The number of frames by the container's own index, where it lists every frame: MP4 and MOV."""
    entries = stream.index_entries
    if "mp4" not in container.format.name or not stream.frames or len(entries) != stream.frames:
        return 0, ""
    size = path.stat().st_size
    there = sum(entry.pos + entry.size <= size for entry in entries)
    if there < len(entries):
        raise VideoError(f"{path}: is cut off: its header promises {len(entries)} frames, {there} are in the file")
    return sum(not entry.is_discard for entry in entries), "index"


def _count_by_reading(path: Path) -> tuple[int, str]:
    """The number of frames by going through the file: its packets where each is one frame, else its frames."""
    with _open(path) as (container, stream):
        if stream.codec_context.name in PACKETS_ARE_FRAMES and "matroska" in container.format.name:
            try:
                return sum(packet.size > 0 for packet in container.demux(stream)), "packets"
            except av.FFmpegError as error:
                raise VideoError(f"{path}: is cut off or damaged: {_reason(error)}") from None
        return sum(1 for _ in _decode(path, container, stream)), "decoded"


def _to_rgb(frame: VideoFrame, size: tuple[int, int] | None, reformatter: VideoReformatter) -> np.ndarray:
    height, width = size or (None, None)
    if _is_turned(frame):
        height, width = width, height
    picture = reformatter.reformat(
        frame, width, height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
    )
    return np.rot90(picture.to_ndarray(), round(frame.rotation / 90))


def _size_after_rotation(frame: VideoFrame) -> tuple[int, int]:
    return (frame.height, frame.width) if _is_turned(frame) else (frame.width, frame.height)


def _is_turned(frame: VideoFrame) -> bool:
    return round(frame.rotation / 90) % 2 == 1


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
