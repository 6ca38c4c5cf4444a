"""The newest frames of a live source: a thread reads it and keeps as many as one window needs.

Older frames are dropped and counted, so memory stays the same however long it runs. A lost source is opened again.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Event, Thread
from typing import NamedTuple

import numpy as np

from finetune.errors import VideoError
from finetune.recipe.schema import Clip
from finetune.timeline.record import Recorder
from finetune.timeline.windows import frame_seconds
from finetune.video.augment import frame_size
from finetune.video.dataset import FrameSource
from finetune.video.decode.live_source import LiveFrame, LiveSource, OpenSource, open_source
from finetune.video.decode.probe import VideoInfo
from finetune.video.decode.read import RgbConverter

MAX_FRAMES = 600  # of a window; of more frames per second, only so many are kept
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a lost source is opened again; each is twice the one before
ROUNDING = 1e-3  # seconds by which times of frames may be off
JOIN_SECONDS = 1.0  # how long to wait for the thread at the end, which may be waiting for the network


class _KeptFrame(NamedTuple):
    """RGB, uint8 (H, W, 3), as large as the model needs, and its time in the source in seconds."""

    number: int
    seconds: float
    picture_HWC: np.ndarray


@dataclass(frozen=True, eq=False)
class LiveWindow:
    """Frames of one window, uint8 RGB (H, W, 3), all of one size, with their times on the clock of `time.monotonic`.

    `video_size` is (height, width) of the source in pixels. `dropped` is how many frames had been dropped before any
    window held them, since the beginning.
    """

    frames: Sequence[np.ndarray]
    times_N: np.ndarray
    video_size: tuple[int, int]
    dropped: int

    @property
    def frame_seconds(self) -> float:
        """The mean time from one frame to the next; 1/25 of a single frame."""
        return frame_seconds(self.times_N)

    @property
    def info(self) -> VideoInfo:
        height, width = self.video_size
        return VideoInfo(len(self.frames), "array", True, 1 / self.frame_seconds, width, height, 0.0, "rawvideo", False)

    @property
    def source(self) -> FrameSource:
        return FrameSource(self._read, self._times, 1 / self.frame_seconds)

    def _read(
        self, path: Path, indices: Sequence[int], *, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        assert size in {None, self.frames[0].shape[:2]}
        return np.stack([self.frames[index] for index in indices]).transpose(0, 3, 1, 2), self.times_N[indices]

    def _times(self, path: Path) -> np.ndarray:
        return self.times_N


class Capture:
    """Reads a source in a thread, inside a `with` block; `clip` says how large frames are kept.

    `give_up_seconds` is how long a lost source is opened again; None: for ever. All frames also go to the `recorder`.
    """

    def __init__(
        self,
        source: LiveSource,
        clip: Clip,
        *,
        window_seconds: float,
        give_up_seconds: float | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.source, self.clip, self.window_seconds = source, clip, window_seconds
        self.give_up_seconds, self.recorder = give_up_seconds, recorder
        self.is_stopping = Event()
        self.thread = Thread(target=self._run, name="capture", daemon=True)
        self.changed = Condition()  # guards what follows
        self.kept: deque[_KeptFrame] = deque()
        self.is_full = False  # the kept frames span a window
        self.first_seconds: float | None = None  # of the first frame, in the source
        self.newest: LiveFrame | None = None
        self.origin = (
            0.0  # when the first frame was due, on the clock of `time.monotonic`, by what the first window knew
        )
        self.video_size = (0, 0)
        self.count = self.dropped = self.last_in_window = 0  # frames, dropped frames, number of a frame
        self.connection = 0  # how often the source was lost
        self.notices: list[str] = []
        self.has_ended = False
        self.error: BaseException | None = None

    def __enter__(self) -> "Capture":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_stopping.set()
        self.thread.join(JOIN_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait so long, or less where something happens: the first window is complete, the source is lost or ends."""
        with self.changed:
            if self.error is None and not self.has_ended:
                self.changed.wait(seconds)

    def take_notices(self) -> list[str]:
        """What has happened to the source since the last call, in words.

        Raises VideoError where it could not be opened, or was given up.
        """
        with self.changed:
            notices, self.notices = self.notices, []
            if self.error is not None and not notices:
                raise self.error
            return notices

    def take_window(self) -> LiveWindow | None:
        """The window of the newest frames; None where there is no new frame, or too few since the source was opened.

        A source that ends before one window was complete has one window of all its frames.
        """
        with self.changed:
            is_complete = self.is_full or (self.has_ended and not self.last_in_window)
            if not is_complete or not self.kept or self.kept[-1].number == self.last_in_window:
                return None
            assert self.newest is not None and self.first_seconds is not None
            if not self.last_in_window:
                self.origin = self.first_seconds + self.newest.shift
            self.last_in_window = self.kept[-1].number
            times_N = np.array([frame.seconds for frame in self.kept]) + self.newest.shift
            frames = [frame.picture_HWC for frame in self.kept]
            return LiveWindow(frames, times_N, self.video_size, self.dropped)

    def _run(self) -> None:
        try:
            self._read_until_end()
        except BaseException as error:  # it is raised again in the main thread
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def _read_until_end(self) -> None:
        pause, lost_at = FIRST_PAUSE, time.monotonic()
        while not self.is_stopping.is_set():
            count, is_live = self.count, True
            try:
                with open_source(self.source) as opened:
                    is_live = opened.is_live
                    self._keep_frames(opened)
                reason = f"{self.source.name}: the stream has ended"
            except VideoError as error:
                if not self.count or not is_live:
                    raise
                reason = str(error)
            if not is_live:
                break
            if self.count > count:
                pause, lost_at = FIRST_PAUSE, time.monotonic()
            self._lose(reason, pause, lost_at)
            pause = min(2 * pause, LONGEST_PAUSE)
        with self.changed:
            self.has_ended = True
            self.changed.notify_all()

    def _keep_frames(self, opened: OpenSource) -> None:
        to_rgb, last_kept = RgbConverter(self.source.name), -float("inf")
        is_back, left_out = self.connection > 0, 0
        try:
            for frame in opened.frames():
                if self.is_stopping.is_set():
                    return
                if self.recorder is not None:
                    self.recorder.add(frame)
                orientation = to_rgb.orientation.of(frame.picture)
                video_size = orientation.swap_if_transposed((frame.picture.height, frame.picture.width))
                picture_HWC = None
                if frame.seconds - last_kept >= self.window_seconds / MAX_FRAMES:
                    picture_HWC = np.ascontiguousarray(to_rgb(frame.picture, frame_size(video_size, self.clip, None)))
                    last_kept = frame.seconds
                with self.changed:
                    if is_back:
                        self.notices.append(f"{self.source.name}: is here again")
                    self.dropped += opened.left_out - left_out
                    self._keep(frame, picture_HWC, video_size)
                is_back, left_out = False, opened.left_out
        finally:
            with self.changed:
                self.dropped += opened.left_out - left_out

    def _keep(self, frame: LiveFrame, picture_HWC: np.ndarray | None, video_size: tuple[int, int]) -> None:
        self.newest = frame
        if self.first_seconds is None:
            self.first_seconds = frame.seconds
        self.count += 1
        if video_size != self.video_size:
            self._drop_kept()
            self.video_size = video_size
        if picture_HWC is not None:
            self.kept.append(_KeptFrame(self.count, frame.seconds, picture_HWC))
        while self.kept[0].seconds <= frame.seconds - self.window_seconds + ROUNDING:
            self.dropped += self.kept.popleft().number > self.last_in_window
        if not self.is_full and self._is_complete():
            self.is_full = True
            self.changed.notify_all()

    def _is_complete(self) -> bool:
        """Whether the kept frames, each of which is shown until the next, last as long as a window."""
        span = self.kept[-1].seconds - self.kept[0].seconds
        return len(self.kept) > 1 and span * len(self.kept) / (len(self.kept) - 1) > self.window_seconds - ROUNDING

    def _drop_kept(self) -> None:
        self.dropped += sum(frame.number > self.last_in_window for frame in self.kept)
        self.kept.clear()
        self.is_full = False

    def _lose(self, reason: str, pause: float, lost_at: float) -> None:
        """Wait before the source is opened again. Raises VideoError where it is given up."""
        if self.give_up_seconds is not None:
            remaining = lost_at + self.give_up_seconds - time.monotonic()
            if remaining <= 0:
                raise VideoError(f"{reason}; given up after {self.give_up_seconds:g} s (--give-up)")
            pause = min(pause, remaining)
        with self.changed:
            self._drop_kept()
            self.connection += 1
            self.notices.append(f"{reason}; opening it again in {pause:.2g} s")
            self.changed.notify_all()
        self.is_stopping.wait(pause)
