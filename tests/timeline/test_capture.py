"""The newest frames of a source: those of one window are kept, older ones dropped and counted."""

from contextlib import contextmanager
from threading import Semaphore

from av.video.frame import VideoFrame
from grey import grey_frames

import finetune as ft
from finetune.timeline import capture as module
from finetune.timeline.capture import Capture
from finetune.video.decode.live_source import LiveFrame, LiveSource, OpenSource


class Played(OpenSource):
    """100 frames, 25 a second, as fast as they are taken; frame n has the level 16 + 7 n (mod 256).

    It waits before frame 30, and at the end, until the test goes on.
    """

    def __init__(self):
        super().__init__("camera", is_live=False)
        self.waits, self.go = Semaphore(0), Semaphore(0)

    def frames(self):
        for number, frame_HWC in enumerate(grey_frames(100)):
            if number == 30:
                self._wait()
            self.left_out += number == 35
            yield LiveFrame(VideoFrame.from_ndarray(frame_HWC, format="rgb24"), number / 25, 1000.0)
        self._wait()

    def _wait(self):
        self.waits.release()
        self.go.acquire()


def test_a_window_holds_the_newest_frames_and_others_are_dropped_and_counted(monkeypatch):
    source = Played()

    @contextmanager
    def open_played(_):
        yield source

    monkeypatch.setattr(module, "open_source", open_played)
    with Capture(LiveSource("0"), ft.Clip(num_frames=4, size=16), window_seconds=0.4) as capture:
        source.waits.acquire()
        first = capture.take_window()
        assert capture.take_window() is None  # no new frame
        source.go.release()
        source.waits.acquire()
        second = capture.take_window()
        assert len(capture.kept) == 10
        source.go.release()
    for window, start, dropped in ((first, 20, 20), (second, 90, 81)):
        assert window.times_N.round(6).tolist() == [1000 + number / 25 for number in range(start, start + 10)]
        assert window.frames[0].shape == (16, 16, 3) and window.video_size == (32, 32)
        expected = grey_frames(100)[start : start + 10, 0, 0, 0].tolist()
        assert [int(frame.mean().round()) for frame in window.frames] == expected
        assert window.dropped == dropped
