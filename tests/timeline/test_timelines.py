"""`finetune timeline`: probabilities of windows, events and their files, of recordings in files and folders."""

import csv
import json
import shutil

import numpy as np
import pytest
from grey import grey_frames, make_images
from scenes import make_bad_files

import finetune as ft
from finetune.run.read import open_run
from finetune.timeline.timelines import TimelineOptions, TimelinePredictor
from finetune.video.encode import write_video


def dark_and_bright(path, *, parts=6, frames=25):
    """A recording that is dark and bright in turn, a second each, at 25 frames a second."""
    levels = [(16, 200)[number % 2] for number in range(parts)]
    write_video(path, np.concatenate([grey_frames(frames, start=level, step=2) for level in levels]), fps=25)
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return dark_and_bright(tmp_path_factory.mktemp("recordings") / "dark & bright, ä.mp4")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_a_window_has_the_probabilities_that_predict_gives_for_its_interval(trained_run, tmp_path, suffix, calibrated):
    recording = dark_and_bright(tmp_path / f"recording.{suffix}")
    options = TimelineOptions(0.64, 0.16, calibrated=calibrated)
    timeline = TimelinePredictor(open_run(trained_run), options)(recording)
    assert timeline.seconds == pytest.approx(6.0, abs=0.01)
    starts = (timeline.times_W - timeline.window_seconds / 2).round(3)
    intervals = [(recording, start, round(start + timeline.window_seconds, 3)) for start in starts.tolist()]
    table = timeline.tasks["label"]
    for probabilities_K, part in zip(
        table.probabilities_WK, ft.predict(trained_run, intervals, calibrated=calibrated), strict=True
    ):
        expected = [dict(part.top_k)[name] for name in table.classes]
        assert probabilities_K.tolist() == pytest.approx(expected, abs=1e-5)


def test_events_and_probabilities_of_recordings_are_written(trained_run, recording, tmp_path, finetune):
    (tmp_path / "more").mkdir()
    short = dark_and_bright(tmp_path / "more" / "=short.mp4", parts=1, frames=8)
    status, out, err = finetune(
        "timeline", trained_run, recording, short.parent, "--window", 0.64, "--step", 0.16, "--out", tmp_path / "out"
    )
    assert (status, err.count("\n") <= 4) == (0, True)
    assert "=short.mp4: " in out and "shorter than a window: one window has all its frames" in out
    windows = rows_of(tmp_path / "out" / "timeline.csv")
    assert list(windows[0]) == ["path", "time", "dark ones", "it's bright"]
    assert {row["path"] for row in windows} == {str(recording), str(short)}
    assert all(float(row["dark ones"]) + float(row["it's bright"]) == pytest.approx(1, abs=1e-5) for row in windows)
    events = [row for row in rows_of(tmp_path / "out" / "events.csv") if row["path"] == str(recording)]
    assert list(events[0]) == ["path", "start", "end", "label", "score"]
    assert all(0 <= float(row["start"]) < float(row["end"]) <= 6.0 for row in events)
    page = (tmp_path / "out" / "timeline.html").read_text(encoding="utf-8")
    assert recording.as_uri() in page and "data:image/jpeg" in page


def test_without_a_window_the_length_is_that_of_the_training_clips(trained_run, recording, tmp_path, finetune):
    status, _, err = finetune("timeline", trained_run, recording, "--out", tmp_path / "out")
    assert (status, "windows of 0.3 s: the length of the run's training clips" in err) == (0, True)
    older = shutil.copytree(trained_run, tmp_path / "older")
    environment = json.loads((older / "environment.json").read_text())
    del environment["decided"]["clip_seconds"]
    (older / "environment.json").write_text(json.dumps(environment))
    status, _, err = finetune("timeline", older, recording, "--out", tmp_path / "out")
    assert (status, "windows of 0.3 s: the median length of 8 of the run's training files" in err) == (0, True)
    manifest = (older / "manifest.csv").read_text()
    (older / "manifest.csv").write_text(manifest.replace(".mp4", "-gone.mp4"))
    status, _, err = finetune("timeline", older, recording, "--out", tmp_path / "out")
    assert (status, "take it from --window SECONDS" in err) == (2, True)


def test_a_folder_of_numbered_images_is_a_recording(trained_run, tmp_path, finetune):
    folder = make_images(tmp_path / "images", 30)
    status, _, _ = finetune("timeline", trained_run, folder, "--window", 0.4, "--out", tmp_path / "out")
    assert status == 0
    assert float(rows_of(tmp_path / "out" / "timeline.csv")[0]["time"]) == pytest.approx(0.2, abs=0.05)


def test_mistakes_are_refused_in_words(trained_run, recording, tmp_path, finetune):
    make_bad_files(tmp_path)
    for arguments, words in (
        ((tmp_path, recording), "is not a run folder"),
        ((trained_run, tmp_path / "none.mp4"), "there is no such file"),
        ((trained_run, recording, "--step", 0), "--step is 0: it must be a number of seconds above 0"),
        ((trained_run, recording, "--window", -1), "--window is -1: it must be"),
        ((trained_run, tmp_path / "sound.mp4", "--window", 1), "holds only audio"),
    ):
        status, _, err = finetune("timeline", *arguments, "--out", tmp_path / "out")
        assert (status, words in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_written(trained_run, recording, tmp_path, finetune):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    status, _, err = finetune(
        "timeline", trained_run, tmp_path / "bad.mp4", recording, "--window", 1, "--out", tmp_path / "out"
    )
    assert status == 1
    assert "bad.mp4: is not a video" in err and "1 of 2 recordings have no timeline" in err
    assert {row["path"] for row in rows_of(tmp_path / "out" / "timeline.csv")} == {str(recording)}


def test_ctrl_c_keeps_the_recordings_that_are_finished(trained_run, recording, tmp_path, finetune, monkeypatch):
    second = shutil.copy(recording, tmp_path / "second.mp4")
    predicted = TimelinePredictor.__call__

    def interrupted(self, path):
        if path == second:
            raise KeyboardInterrupt
        return predicted(self, path)

    monkeypatch.setattr(TimelinePredictor, "__call__", interrupted)
    status, _, _ = finetune("timeline", trained_run, recording, second, "--window", 1, "--out", tmp_path / "out")
    assert status == 130
    assert {row["path"] for row in rows_of(tmp_path / "out" / "events.csv")} <= {str(recording)}
    status, _, _ = finetune("timeline", trained_run, second, "--window", 1, "--out", tmp_path / "none")
    assert (status, (tmp_path / "none").exists()) == (130, False)
