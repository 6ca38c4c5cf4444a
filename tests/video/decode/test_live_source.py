"""Live sources: names without passwords, files at their own speed, cameras, late frames."""

import time

import av
import numpy as np
import pytest
from grey import level_of, make_clip

from finetune.errors import VideoError
from finetune.video.decode import live_source
from finetune.video.decode.live_source import LateFrames, LiveSource, open_source


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rtsp://host/live", "rtsp://host/live"),
        ("rtsp://user:secret@host:554/live", "rtsp://user:***@host:554/live"),
        ("rtsp://user:se/c:r@et@host/live", "rtsp://user:***@host/live"),
        ("https://host/live?token=secret", "https://host/live?…"),
        ("udp://127.0.0.1:5000", "udp://127.0.0.1:5000"),
        ("3", "camera 3"),
    ],
)
def test_the_name_of_a_source_holds_no_password(text, name):
    assert LiveSource(text).name == name


def test_a_mistyped_url_is_refused_without_its_password():
    for text in ("rtsp:/user:secret@host/x", "user:secret@host/x", "file://user:secret@host/x", "rtsp:///x"):
        with pytest.raises(VideoError, match="^((?!secret).)*$"):
            LiveSource(text)


def test_a_file_plays_at_its_own_speed(tmp_path):
    with open_source(LiveSource(str(make_clip(tmp_path / "clip.mp4", 8)))) as opened:
        start = time.monotonic()
        frames = [(time.monotonic(), frame) for frame in opened.frames()]
    assert [round(frame.seconds, 3) for _, frame in frames] == [number / 25 for number in range(8)]
    assert all(now >= frame.seconds + frame.shift for now, frame in frames) and frames[-1][0] - start > 0.25
    pictures = np.stack([frame.picture.to_ndarray(format="rgb24") for _, frame in frames])
    assert level_of(pictures) == list(range(8))


def test_a_file_with_sound_alone_cannot_be_watched(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="holds only audio"), open_source(LiveSource(str(path))):
        pass


def test_a_camera_gives_frames_until_it_fails(monkeypatch):
    import cv2

    class Fake:
        def __init__(self, number):
            self.left, self.number = 3, number

        def isOpened(self):  # noqa: N802
            return self.number == 1

        def set(self, key, value):
            pass

        def read(self):
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (255, 0, 0), np.uint8)  # blue

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Fake)
    with open_source(LiveSource("1")) as opened:
        frames = opened.frames()
        assert [next(frames).picture.to_ndarray(format="rgb24")[0, 0].tolist() for _ in range(3)] == [[0, 0, 255]] * 3
        with pytest.raises(VideoError, match="camera 1: gives no more frames"):
            next(frames)
    with pytest.raises(VideoError, match="camera 2: cannot be opened"), open_source(LiveSource("2")):
        pass


def test_late_packets_are_left_out_up_to_a_keyframe_in_time():
    leaves_out = LateFrames("camera", is_live=True)
    delays = [0.1, 1.9, 2.1, 1.5, 0.9, 0.5, 0.4, 1.9]
    keyframes = [True, False, False, True, False, False, True, False]
    left_out = [leaves_out(delay, is_keyframe=key) for delay, key in zip(delays, keyframes, strict=True)]
    assert left_out == [False, False, True, True, True, True, False, False]


def test_a_source_that_stays_late_is_opened_again(monkeypatch):
    monkeypatch.setattr(live_source, "CATCH_UP_SECONDS", 0.0)
    leaves_out = LateFrames("camera", is_live=True)
    with pytest.raises(VideoError, match=r"camera: frames come 2.5 s late, as the network is slower"):
        [leaves_out(2.5, is_keyframe=False) for _ in range(1000)]
    plays = LateFrames("file", is_live=False)
    assert all(plays(2.5, is_keyframe=False) for _ in range(1000))
