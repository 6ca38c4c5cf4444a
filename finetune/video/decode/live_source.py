"""Frames of a live source: a camera by its number, a stream by its URL, or a file that is played at its own speed.

A frame is due when it would arrive if nothing delayed it. Where frames come later than MAX_DELAY, because decoding or
the network is slower than the camera, packets are left out up to the next keyframe, so delays do not add up.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.errors import VideoError, suggest_similar
from finetune.video.decode.container import MAX_PIXELS, PYAV_ERRORS, error_text, frame_rate, open_video, video_stream

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "rtp", "tcp", "srt", "rtmp", "rtmps")
OPEN_SECONDS, SILENT_SECONDS = 10.0, 5.0  # a source that gives nothing for so long cannot be opened, or is lost
MAX_DELAY = 2.0  # seconds
CATCH_UP_SECONDS = 0.5  # in which frames are in time again by leaving out packets, or else never
DEFAULT_RATE = 25.0  # frames a second of a file that states neither times nor a rate
CLOCK_DRIFT = 1e-4  # by which the clocks of a camera and of this machine may differ, in seconds per second
# FFmpeg does not wait for frames from which it would guess a frame rate, and a full buffer of UDP packets loses some of
# them instead of ending the stream.
STREAM_OPTIONS = {
    "analyzeduration": "1000000",
    "probesize": "1000000",
    "fpsprobesize": "0",
    "rtsp_flags": "prefer_tcp",
    "overrun_nonfatal": "1",
}
NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS in libavformat/avformat.h
SEGMENTED_FORMATS = ("hls", "dash")  # their frames arrive many seconds at a time
SERVER_HINT = "check that the server runs, its address and its port"
HINTS: tuple[tuple[type[Exception], str], ...] = (
    (av.ExitError, f"nothing arrived within {OPEN_SECONDS:g} s; {SERVER_HINT}"),
    (av.ConnectionRefusedError, f"the connection was refused; {SERVER_HINT}"),
    (av.HTTPUnauthorizedError, "needs a user and a password: scheme://USER:PASSWORD@HOST/…"),
    (av.HTTPForbiddenError, "the server refuses access; check the user and the password"),
    (av.HTTPNotFoundError, "the server has no such stream; check the path in the address"),
    (av.InvalidDataError, "holds no video that can be decoded"),
)


class LiveFrame(NamedTuple):
    """A decoded frame. It is due at `seconds + shift` on the clock of `time.monotonic`.

    `seconds` rise from frame to frame while a source is open; `shift` may change a little.
    """

    picture: VideoFrame
    seconds: float
    shift: float


@dataclass(frozen=True)
class LiveSource:
    """A source as the user gave it. Raises VideoError where it is none, before anything is opened."""

    text: str

    def __post_init__(self) -> None:
        scheme = self._scheme
        if scheme and scheme not in SCHEMES:
            raise VideoError(
                f"{self.name}: sources of this kind cannot be watched{suggest_similar(scheme, SCHEMES)}; give a "
                f"camera's number, a file, or a URL that begins with {', '.join(SCHEMES)}"
            )
        if scheme and not urlsplit(self.text).netloc:
            raise VideoError(f"{self.name}: names no host; write it as {scheme}://HOST:PORT/…")
        if self.is_file and not Path(self.text).exists():
            raise VideoError(
                f"{self.name}: there is no such file; give a camera's number, a file, or a URL such as rtsp://HOST/PATH"
            )

    @property
    def _scheme(self) -> str:
        return self.text.partition("://")[0].lower() if re.match(r"[A-Za-z][\w+.-]*://", self.text) else ""

    @property
    def camera(self) -> int | None:
        return int(self.text) if re.fullmatch(r"\d{1,4}", self.text) else None

    @property
    def is_file(self) -> bool:
        return self.camera is None and not self._scheme

    @cached_property
    def name(self) -> str:
        """The source without passwords, which may be before an @ or after a question mark."""
        if self.camera is not None:
            return f"camera {self.camera}"
        if self.is_file and Path(self.text).exists():
            return self.text
        scheme, separator, rest = re.findall(r"^([A-Za-z][\w+.-]*:(?=/))?(/*)((?s:.*))", self.text)[0]
        account, at, place = rest.rpartition("@")
        user, colon, _ = account.partition(":")
        address, question, _ = place.partition("?")
        return f"{scheme}{separator}{user}{colon and ':***'}{at}{address}{question and '?…'}"


@contextmanager
def open_source(source: LiveSource) -> Iterator["OpenSource"]:
    """Open a source. Raises VideoError where that fails, and later where it is lost; messages hold no password."""
    if source.camera is not None:
        with _open_camera(source.camera) as camera:
            yield camera
    elif source.is_file:
        with open_video(Path(source.text)) as (container, stream):
            yield _OpenStream(source.name, container, stream, is_live=False)
    else:
        with _open_stream(source) as (container, stream):
            yield _OpenStream(source.name, container, stream, is_live=container.duration is None)


class OpenSource:
    """A source that is open. `left_out` is how many of its frames were left out or damaged.

    What is not live has an end: a file, also one behind a URL.
    """

    def __init__(self, name: str, *, is_live: bool) -> None:
        self.name, self.is_live = name, is_live
        self.left_out = 0

    def frames(self) -> Iterator[LiveFrame]:
        """The frames as they come. Raises VideoError where the source is lost."""
        raise NotImplementedError


@contextmanager
def _open_stream(source: LiveSource) -> Iterator[tuple[InputContainer, VideoStream]]:
    limits = {"max_pixels": str(MAX_PIXELS)}
    try:
        container = av.open(
            source.text,
            timeout=(OPEN_SECONDS, SILENT_SECONDS),
            options=limits | STREAM_OPTIONS,
            metadata_errors="ignore",
        )
    except PYAV_ERRORS as error:
        hint = next((hint for kind, hint in HINTS if isinstance(error, kind)), "")
        raise VideoError(f"{source.name}: cannot be opened: {hint or f'{error_text(error)}; {SERVER_HINT}'}") from None
    with container:
        stream = video_stream(container, source.name)
        stream.codec_context.options = limits
        yield container, stream


class _StreamClock:
    """What has the time `seconds` is due at `seconds + shift`: the shift of those that came with the least delay.

    It rises by CLOCK_DRIFT, as the clock of a camera may be slow.
    """

    def __init__(self) -> None:
        self.shift, self.last = float("inf"), time.monotonic()

    def arrive(self, seconds: float) -> float:
        """The delay, in seconds, of what has this time and arrives now."""
        now = time.monotonic()
        self.shift = min(self.shift + CLOCK_DRIFT * (now - self.last), now - seconds)
        self.last = now
        return now - seconds - self.shift


class _FileClock:
    """The first frame is due when it is read, and others at the speed of the file."""

    shift = float("inf")

    def arrive(self, seconds: float) -> float:
        """Waits until what has this time is due; returns its delay in seconds."""
        if self.shift == float("inf"):
            self.shift = time.monotonic() - seconds
        time.sleep(max(0.0, seconds + self.shift - time.monotonic()))
        return time.monotonic() - seconds - self.shift


class _OpenStream(OpenSource):
    def __init__(self, name: str, container: InputContainer, stream: VideoStream, *, is_live: bool) -> None:
        super().__init__(name, is_live=is_live)
        self.container, self.stream = container, stream
        self.has_times = not container.format.flags & NO_TIMESTAMPS

    def frames(self) -> Iterator[LiveFrame]:
        """Where frames come late, only those from a later keyframe on."""
        in_segments = any(kind in self.container.format.name for kind in SEGMENTED_FORMATS)
        clock, frame_clock = _StreamClock() if self.is_live else _FileClock(), _StreamClock()
        leaves_out = LateFrames(self.name, is_live=self.is_live)
        last = -float("inf")
        for packet, seconds in self._timed_packets():
            delay = clock.arrive(seconds)
            if packet.size and not in_segments and leaves_out(delay, is_keyframe=packet.is_keyframe):
                self.left_out += 1
                continue
            for picture in self._decode(packet):
                picture.time_base = picture.time_base or self.stream.time_base or Fraction(0)
                shown = picture.time if self.has_times and picture.time is not None else seconds
                if shown > last:
                    frame_clock.arrive(shown)
                    yield LiveFrame(picture, shown, frame_clock.shift)
                    last = shown

    def _decode(self, packet: Packet) -> list[VideoFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except av.FFmpegError:  # damaged, as where packets were lost
            self.left_out += 1
            return []

    def _timed_packets(self) -> Iterator[tuple[Packet, float]]:
        """Packets with their times in seconds.

        Where the format has no times, they are those of arrival, or for a file those by its frame rate.
        """
        seconds: float | None = None
        rate = frame_rate(self.stream) or DEFAULT_RATE
        try:
            for number, packet in enumerate(self.container.demux(self.stream)):
                if self.has_times:
                    ticks = packet.pts if packet.dts is None else packet.dts
                    seconds = seconds if ticks is None else float(ticks * (packet.time_base or 0))
                else:
                    seconds = time.monotonic() if self.is_live else number / rate
                if seconds is not None:
                    yield packet, seconds
        except av.ExitError:
            raise VideoError(f"{self.name}: nothing has arrived for {SILENT_SECONDS:g} s") from None
        except PYAV_ERRORS as error:
            raise VideoError(f"{self.name}: cannot be read any more: {error_text(error)}") from None


class LateFrames:
    """Leaves out packets where frames come too late, until they are in time again and a keyframe comes."""

    def __init__(self, name: str, *, is_live: bool) -> None:
        self.name, self.is_live = name, is_live
        self.since: float | None = None  # when packets began to be left out
        self.is_in_time = False

    def __call__(self, delay: float, *, is_keyframe: bool) -> bool:
        """Whether to leave out a packet with this delay, in seconds.

        Raises VideoError where that does not help: a new connection to a live source begins with new frames.
        """
        if self.since is None and delay <= MAX_DELAY:
            return False
        if self.since is None:
            self.since, self.is_in_time = time.monotonic(), False
        self.is_in_time = self.is_in_time or delay <= MAX_DELAY / 2
        if self.is_in_time and is_keyframe:
            self.since = None
            return False
        if self.is_live and not self.is_in_time and time.monotonic() - self.since > CATCH_UP_SECONDS:
            raise VideoError(
                f"{self.name}: frames come {delay:.1f} s late, as the network is slower than the camera; let the "
                "camera send smaller pictures, or fewer per second"
            )
        return True


@contextmanager
def _open_camera(number: int) -> Iterator[OpenSource]:
    import cv2  # slow to import

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its warnings add nothing to our error
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
            raise VideoError(
                f"camera {number}: cannot be opened; cameras here: {there}; check that it is connected, that no other "
                "program uses it, and that you may read it"
            )
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        yield _OpenCamera(number, capture.read)
    finally:
        capture.release()


class _OpenCamera(OpenSource):
    """`read` gives frames (H, W, 3) in blue, green and red, as OpenCV does."""

    def __init__(self, number: int, read: Callable[[], tuple[bool, np.ndarray]]) -> None:
        super().__init__(f"camera {number}", is_live=True)
        self.read = read

    def frames(self) -> Iterator[LiveFrame]:
        while True:
            was_read, frame_HWC = self.read()
            if not was_read:
                raise VideoError(f"{self.name}: gives no more frames")
            yield LiveFrame(VideoFrame.from_ndarray(frame_HWC, format="bgr24"), time.monotonic(), 0.0)
