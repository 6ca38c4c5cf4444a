"""Open a video file with PyAV, demux it and decode it, or say why that is not possible."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.errors import VideoError
from finetune.video.worker_pool import Heartbeat

# IndexError: PyAV raises it for a stream that first appears in the middle of a damaged file.
PYAV_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError)
MAX_HEADER_BYTES = 2**24
FILE_PREFIX = "file:"
ENCRYPTED_REASON = "is encrypted, and its frames cannot be decoded; decrypt it first"
MAX_TIME_SECONDS = 1e9  # a later time is taken for garbage
MAX_FRAME_RATE = 1000.0  # frames a second; DV files state 60,000
MAX_PIXELS = 2**25  # an 8K video has 33 million; a damaged header can claim more than memory holds
# FFmpeg probes a file by decoding several frames of it. Without that, an H.264 decoder has to be told to expect frames
# in any order.
QUICK_OPEN = {"skip_frame": "all"}
QUICK_CONTAINER = {"analyzeduration": "1"}
QUICK_DECODER = {"strict": "1"}
NO_EDIT_LISTS = {"advanced_editlist": "0"}
# Playlists and manifests: a "video" that a stranger sent could make FFmpeg read any other file, or the network.
FORMATS_OF_OTHER_FILES = frozenset(["concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest"])
SELF_CONTAINED = {"format_whitelist": ",".join(sorted(av.formats_available - FORMATS_OF_OTHER_FILES))}


@contextmanager
def open_video(
    path: Path, *, quick: bool = False, edit_lists: bool = True
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream, set to decode in one thread.

    `quick` skips FFmpeg's probing of the stream: no frame rate is guessed, and the first frames may be output in
    another order than with it. Without `edit_lists` those of an MP4 file are not applied to its index, which takes
    most of the time to open a long file. Raises VideoError.
    """
    _require_video_file(path)
    limits = {"max_pixels": str(MAX_PIXELS)}
    try:
        # The file: prefix keeps a name with a colon or a percent sign from being read as a protocol or pattern.
        container = av.open(
            f"{FILE_PREFIX}{path}",
            metadata_errors="ignore",
            options=limits | (QUICK_OPEN if quick else {}),
            container_options=SELF_CONTAINED
            | (QUICK_CONTAINER if quick else {})
            | ({} if edit_lists else NO_EDIT_LISTS),
        )
    except PYAV_ERRORS as error:
        reason = reason_or_encrypted(path, f"is not a video, or is cut off: {error_text(error)}")
        raise VideoError(f"{path}: {reason}") from None
    with container:
        stream = video_stream(container, str(path))
        stream.codec_context.options = limits | (QUICK_DECODER if quick else {})
        yield container, stream


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The first video stream, set to decode in one thread. Raises VideoError, which begins with `name`, without one."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kind = "only audio" if container.streams.audio else "no video stream"
        raise VideoError(f"{name}: holds {kind}")
    if streams[0].codec_context is None:
        raise VideoError(f"{name}: there is no decoder for its video format")
    streams[0].codec_context.thread_count = 1
    return streams[0]


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets that are not empty, in decode order, from the container's current position.

    Raises VideoError where they are encrypted: some decoders would output garbage for them.
    """
    for packet in container.demux(stream):
        if Heartbeat.every_seconds is not None:
            Heartbeat.send()
        if packet.size:
            if packet.has_sidedata("encryption_info"):
                raise VideoError(f"{container.name.removeprefix(FILE_PREFIX)}: {ENCRYPTED_REASON}")
            yield packet


def decode_frames(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame in display order, as the decoder outputs them. Raises VideoError where decoding fails."""
    return decode_packets(path, stream, read_packets(container, stream))


def decode_packets(path: Path, stream: VideoStream, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
    """`decode_frames` of these packets. Packets before the first keyframe may give no frame."""
    count, has_begun = 0, False
    try:
        for packet in packets:
            has_begun = has_begun or packet.is_keyframe
            for frame in _frames_of(stream, packet, may_fail=not has_begun):
                count += 1
                yield frame
        for frame in stream.codec_context.decode(None):
            frame.time_base = stream.time_base or Fraction(0)
            count += 1
            yield frame
    except PYAV_ERRORS as error:
        reason = reason_or_encrypted(path, f"cannot be decoded after frame {count}: {error_text(error)}")
        raise VideoError(f"{path}: {reason}") from None


def _frames_of(stream: VideoStream, packet: Packet, *, may_fail: bool) -> list[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except av.FFmpegError:
        if may_fail:
            return []
        raise


def frame_rate(stream: VideoStream) -> float:
    """Frames a second as the file states; 0 where it states none, or one above MAX_FRAME_RATE."""
    rates = (float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate))
    return next((rate for rate in rates if 0 < rate <= MAX_FRAME_RATE), 0.0)


def start_of_file(container: InputContainer) -> float:
    """The timestamp in seconds from which players count a file's time: recordings of broadcasts begin at any time.

    A sound track that begins a few milliseconds earlier, to fill its decoder, does not count.
    """
    if lacks_timestamps(container) or container.start_time is None:
        return 0.0
    seconds = container.start_time / av.time_base
    return seconds if 0 < seconds < MAX_TIME_SECONDS else 0.0


def lacks_timestamps(container: InputContainer) -> bool:
    """Whether the container has a frame rate but no timestamps: AVI, for which PyAV makes some up."""
    return "avi" in container.format.name


def error_text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def reason_or_encrypted(path: Path, reason: str) -> str:
    """The given reason why a file cannot be read, or that it is encrypted, where it is."""
    return ENCRYPTED_REASON if _is_encrypted(path) else reason


def _is_encrypted(path: Path) -> bool:
    """Whether the header of an MP4 file marks its video as encrypted (ISO/IEC 14496-12: an `encv` sample entry)."""
    with path.open("rb") as file:
        while len(start := file.read(16)) >= 8:
            size, kind = int.from_bytes(start[:4], "big"), start[4:8]
            header = 16 if size == 1 else 8
            size = int.from_bytes(start[8:16], "big") if size == 1 else size
            file.seek(header - len(start), os.SEEK_CUR)
            if kind == b"moov":
                return b"encv" in file.read(min(max(size - header, 0), MAX_HEADER_BYTES))
            if size < header:  # to the end of the file, or damaged
                return False
            file.seek(size - header, os.SEEK_CUR)
    return False


def _require_video_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a named pipe would wait for a writer
            raise VideoError(f"{path}: is {_kind_of(mode)}, not a file")
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


def _kind_of(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "something else")
