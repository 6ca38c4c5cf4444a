"""`finetune tubes` and `finetune predict --tracks`, with a detector that knows where things are."""

import json

import numpy as np
import pytest
from objects.fake_detector import CLASSES, HEIGHT, WIDTH, FakeDetector, boxes_at, write_grey

from finetune.objects import predict_frames
from finetune.video.encode import write_video


class KnowingPredictor:
    """In place of `ObjectPredictor`."""

    def __init__(self, run, **options):
        self.classes, self.pixel_classes, self.score = CLASSES, (), 0.5

    def __call__(self, path):
        recording = predict_frames.read_recording(path, image_rate=25)
        return recording, predict_frames.predict_frames(FakeDetector(), recording, CLASSES)


@pytest.fixture
def knowing(monkeypatch):
    monkeypatch.setattr(predict_frames, "ObjectPredictor", KnowingPredictor)
    monkeypatch.setattr("finetune.run.read.require_objects", lambda run: None)


def test_tubes_writes_a_row_for_each_track_and_keeps_a_file_with_labels(knowing, trained_run, finetune, tmp_path):
    video = write_grey(tmp_path / "a.mp4")
    out = tmp_path / "tubes"
    status, printed, _ = finetune("tubes", trained_run, video, "--out", out, "--window", 0.4)
    assert status == 0 and "4 rows of 1 file" in printed
    header, first, *_ = (out / "tubes.csv").read_text().splitlines()
    assert header == "path,start,end,boxes,label,object,track,score"
    assert first == f'{video},0,0.38,"0:5,40,50,40;9:14,40,50,40",,car,0,0.9'
    status, _, err = finetune("tubes", trained_run, video, "--out", out)
    assert status == 2 and "tubes.csv: exists, perhaps with your labels" in err


def test_tubes_without_a_long_track_is_an_error(knowing, trained_run, finetune, tmp_path):
    video = write_grey(tmp_path / "a.mp4", frames=4)
    status, _, err = finetune("tubes", trained_run, video, "--out", tmp_path / "tubes")
    assert status == 2 and "no object is tracked for 0.5 s in 1 file" in err
    (tmp_path / "bad.mp4").write_text("nothing")
    status, _, err = finetune("tubes", trained_run, tmp_path / "bad.mp4", "--out", tmp_path / "tubes")
    assert status == 2 and "bad.mp4: " in err and "the file cannot be read" in err


def test_a_missing_file_is_named_before_the_detector_is_read(knowing, trained_run, finetune, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_frames, "ObjectPredictor", lambda *_, **__: pytest.fail("read"))
    status, _, err = finetune("tubes", trained_run, tmp_path / "b.mp4", "--out", tmp_path / "tubes")
    assert status == 2 and "b.mp4: there is no such file" in err


def test_each_tracked_object_gets_a_prediction_of_its_own_crop(knowing, trained_run, finetune, tmp_path):
    frames = np.full((20, HEIGHT, WIDTH, 3), 128, np.uint8)
    for frame, picture in enumerate(frames):
        for (left, top, width, height), grey in zip(boxes_at(frame).astype(int), (16, 240), strict=True):
            picture[max(top - 15, 0) : top + height + 15, max(left - 15, 0) : left + width + 15] = grey
    video = tmp_path / "two.mp4"
    write_video(video, frames, fps=25)
    drawn = tmp_path / "drawn.mp4"
    run = finetune("predict", trained_run, video, "--tracks", trained_run, "--json", "--draw", drawn)
    status, printed, _ = run
    (recording,) = json.loads(printed)
    assert status == 0 and recording["path"] == str(video) and drawn.stat().st_size > 1000
    tracks = recording["tracks"]
    assert [(track["track"], track["object"], track["predicted"]) for track in tracks] == [
        (0, "car", "dark ones"),
        (1, "person", "it's bright"),
    ]
    assert tracks[0]["boxes"] == "0:5,40,50,40;19:24,40,50,40" and tracks[0]["end"] == 0.8


def test_an_interrupt_keeps_the_recordings_that_are_done(knowing, trained_run, finetune, tmp_path, monkeypatch):
    done, interrupted = (write_grey(tmp_path / name) for name in ("a.mp4", "b.mp4"))
    predict = KnowingPredictor.__call__

    def interrupt(self, path):
        if path == interrupted:
            raise KeyboardInterrupt
        return predict(self, path)

    monkeypatch.setattr(KnowingPredictor, "__call__", interrupt)
    status, printed, err = finetune("predict", trained_run, done, interrupted, "--tracks", trained_run, "--json")
    assert status == 130 and "Stopped; predictions of 1 file are complete" in err
    assert [item["path"] for item in json.loads(printed)] == [str(done)]


def test_options_that_do_not_fit_are_named(trained_run, finetune, tmp_path):
    video = write_grey(tmp_path / "a.mp4", frames=4)
    status, _, err = finetune("predict", trained_run, video, "--window", 2)
    assert status == 2 and "--window cuts the tracks of --tracks RUN" in err
    status, _, err = finetune("predict", trained_run, video, "--tracks", trained_run, "--csv", tmp_path / "x.csv")
    assert status == 2 and "are not for --tracks; use --json" in err
    status, _, err = finetune("predict", trained_run, video, "--tracks", trained_run, "--out", tmp_path / "x")
    assert status == 2 and "are not for --tracks; use --json" in err
    status, _, err = finetune("predict", trained_run, video, "--tracks", trained_run)
    assert status == 2 and "has no task of kind detect or track" in err
