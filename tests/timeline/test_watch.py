"""`finetune watch`: a stream that is lost and comes back, Ctrl-C, recordings, and mistakes."""

import json
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from grey import make_clip
from live_camera import HttpCamera

import finetune as ft
from finetune.cli.watch import _prediction_json
from finetune.prediction.inputs import InputVideo, find_inputs
from finetune.prediction.predict import Prediction, Predictor, TaskPrediction
from finetune.run.checkpoint import load_model
from finetune.timeline.capture import Capture, LiveWindow
from finetune.video.decode.probe import probe


def json_lines(printed):
    """The lines of windows, and those of events."""
    lines = [json.loads(line) for line in printed.splitlines()]
    return [line for line in lines if "event" not in line], [line for line in lines if "event" in line]


@pytest.mark.parametrize("overrides", [(), ("clip.sampling=fps", "clip.fps=10")])
def test_a_window_is_predicted_as_its_frames(trained_run, overrides):
    run = ft.open_run(trained_run, overrides)
    frames = np.random.default_rng(0).integers(0, 256, (20, 32, 40, 3), dtype=np.uint8)
    window = LiveWindow(list(frames), 1000 + np.arange(20) / 25, (32, 40), dropped=0)
    predictor = Predictor(load_model(run), run.recipe, run.recipe.evaluate.views)
    (array,) = find_inputs([frames], run.recipe, image_sequences=False, frame_rate=25)  # as ft.predict does
    (values_K,), (expected_K,) = (
        predictor(video, video.info).values()
        for video in (InputVideo(Path("camera"), window.info, window.source), array)
    )
    assert values_K.tolist() == expected_K.tolist()


@pytest.mark.slow
def test_a_lost_stream_is_opened_again_and_given_up_after_a_while(trained_run, tmp_path, finetune):
    target = tmp_path / "seen.mp4"
    with HttpCamera((1.5, 1.5)) as camera:
        options = ("--window", 0.4, "--step", 0.2, "--record", target, "--give-up", 1)
        status, printed, err = finetune("watch", trained_run, camera.url, *options)
    assert status == 2
    notices = [line for line in err.splitlines() if line.startswith("finetune: ")]
    assert "opening it again in 0.5 s" in notices[0]
    assert any(line.endswith("/live.ts: is here again") for line in notices)
    assert notices[-1].endswith("; given up after 1 s (--give-up)")
    windows, events = json_lines(printed)
    assert len(windows) >= 4
    assert all(0 <= line["age_ms"] < 2000 and line["class"] in {"dark ones", "it's bright"} for line in windows)
    assert [line["time"] for line in windows] == sorted(line["time"] for line in windows)
    assert windows[-1]["time"] > 2  # of the second connection, as its clock goes on
    assert events and events[-1]["event"] == "end"
    assert probe(target).num_frames >= 30


@pytest.mark.slow
def test_ctrl_c_ends_events_and_the_recording(trained_run, tmp_path, finetune, monkeypatch):
    take, count = Capture.take_window, []

    def counted(self):
        window = take(self)
        count.extend([window] if window else [])
        if len(count) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return window

    monkeypatch.setattr(Capture, "take_window", counted)
    clip, target = make_clip(tmp_path / "clip.mp4", 250), tmp_path / "seen.mp4"
    options = ("--window", 0.2, "--step", 0.1, "--record", target)
    status, printed, err = finetune("watch", trained_run, clip, *options)
    assert status == 130
    assert "Stopped after 7 windows" in err and f"{target}: " in err
    windows, events = json_lines(printed)
    assert len(windows) == 7
    assert [line["event"] for line in events[-2:]] == ["start", "end"]
    assert events[-1]["end"] == pytest.approx(windows[-1]["time"] + 0.04, abs=0.01)
    assert 10 < probe(target).num_frames < 250


def test_a_file_shorter_than_a_window_has_one_window(trained_run, tmp_path, finetune):
    status, printed, _ = finetune("watch", trained_run, make_clip(tmp_path / "clip.mp4", 6), "--window", 9)
    assert status == 0
    (line,), _ = json_lines(printed)
    (expected,) = ft.predict(trained_run, tmp_path / "clip.mp4")
    assert (line["class"], line["probability"]) == (expected.predicted, round(expected.probability, 6))


def test_mistakes_are_said_in_plain_words_and_without_passwords(trained_run, tmp_path, finetune):
    clip = make_clip(tmp_path / "clip.mp4")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for arguments, message in (
        ((clip, "--step", 0), "--step is 0: it must be a number of seconds above 0"),
        ((clip, "--window", "nan"), "--window is nan: it must be"),
        ((clip, "--record", clip), f"{clip}: exists already; give another name"),
        ((clip, "--record", tmp_path / "seen.avi"), "give a name that ends in .mp4"),
        ((tmp_path / "no.mp4",), "no.mp4: there is no such file; give a camera's number, a file, or a URL"),
        (
            ("rstp://u:secret@host/x",),
            "rstp://u:***@host/x: sources of this kind cannot be watched (nearest: rtp, rtsp, rtmp)",
        ),
        ((f"http://u:secret@127.0.0.1:{port}/x?key=secret",), "/x?…: cannot be opened: the connection was refused"),
        (("99",), "camera 99: cannot be opened; cameras here: "),
    ):
        status, printed, err = finetune("watch", trained_run, *arguments)
        assert (status, printed) == (2, ""), err
        assert message in err and "secret" not in err
    assert "is not a run folder" in finetune("watch", tmp_path, clip)[2]


def test_show_needs_a_screen(trained_run, tmp_path, finetune, monkeypatch):
    import cv2

    arguments = ("watch", trained_run, make_clip(tmp_path / "clip.mp4"), "--show")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    status, _, err = finetune(*arguments)
    assert status == 2 and "this OpenCV cannot open windows; install the package opencv-python" in err
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    status, _, err = finetune(*arguments)
    assert status == 2 and "there is no screen here (DISPLAY is not set)" in err


def test_a_line_has_the_classes_of_several_labels_and_of_several_tasks():
    top_k = (("run", 0.75), ("jump", 0.5))
    several = Prediction(Path("camera"), top_k, named=("run", "jump"))
    expected = {"classes": ["run", "jump"], "probability": 0.75, "probabilities": {"run": 0.75, "jump": 0.5}}
    assert _prediction_json(several) == expected
    tasks = {"level": TaskPrediction("ordinal", top_k), "speed": TaskPrediction("regress", numbers={"speed": 2.0})}
    assert _prediction_json(Prediction(Path("camera"), top_k, tasks=tasks)) == {
        "class": "run",
        "probability": 0.75,
        "probabilities": {"run": 0.75, "jump": 0.5},
        "tasks": {
            "level": {"kind": "ordinal", "class": "run", "probability": 0.75, "probabilities": dict(top_k)},
            "speed": {"kind": "regress", "speed": 2.0},
        },
    }
