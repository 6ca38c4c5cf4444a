"""Record what is seen: a thread draws the newest prediction on each frame and writes the frames to a video."""

from collections.abc import Iterator
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import NamedTuple

import numpy as np

from finetune.errors import FinetuneError, RunError
from finetune.prediction.overlay import OverlayPainter
from finetune.video.decode.container import PYAV_ERRORS, error_text
from finetune.video.decode.live_source import LiveFrame
from finetune.video.decode.read import RgbConverter
from finetune.video.encode import RecordingWriter

MAX_WAITING = 8  # frames that wait to be written


class LiveOverlay(NamedTuple):
    """What is drawn on frames: the objects are at their places in the frame that is due at `reference`.

    That is an instant of `time.monotonic`; `rate` is in frames a second.
    """

    painter: OverlayPainter
    reference: float
    rate: float

    def draw(self, frame_HWC: np.ndarray, due: float) -> np.ndarray:
        """A copy of a frame, uint8 RGB (H, W, 3), that is due at `due`."""
        return self.painter.draw(frame_HWC, round((due - self.reference) * self.rate))


class Recorder:
    """Writes the frames that `add` is given to a new MP4 file, inside a `with` block, with the newest `overlay`.

    Where encoding is slower than the source, frames are left out and counted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.overlay: LiveOverlay | None = None
        self.written = self.left_out = 0
        self.error: FinetuneError | None = None
        self.waiting: Queue[LiveFrame | None] = Queue(MAX_WAITING)
        self.thread = Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> "Recorder":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.put(None)
        self.thread.join()

    def add(self, frame: LiveFrame) -> None:
        try:
            self.waiting.put_nowait(frame)
        except Full:
            self.left_out += 1

    def _run(self) -> None:
        frames = iter(self.waiting.get, None)
        try:
            self._write(frames)
        except FinetuneError as error:
            self.error = error
        except PYAV_ERRORS as error:
            self.error = RunError(f"{self.path}: cannot be written: {error_text(error)}")
        for _ in frames:  # nobody waits for a place among the waiting frames
            pass

    def _write(self, frames: Iterator[LiveFrame]) -> None:
        to_rgb, writer, first = RgbConverter(self.path), None, 0.0
        try:
            for frame in frames:
                due = frame.seconds + frame.shift
                frame_HWC = to_rgb(frame.picture, None)
                if self.overlay is not None:
                    frame_HWC = self.overlay.draw(frame_HWC, due)
                if writer is None:
                    writer, first = RecordingWriter(self.path), due
                writer.write(frame_HWC, due - first)
                self.written += 1
        finally:
            if writer is not None:
                writer.close()
