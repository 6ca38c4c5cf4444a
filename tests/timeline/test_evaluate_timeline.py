"""A run on annotated recordings is evaluated on the events that it finds, and keeps the fitted event settings."""

from dataclasses import astuple

import numpy as np
import pytest
from grey import grey_frames

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RunError, VideoError
from finetune.run.read import open_run, read_results_file
from finetune.timeline.evaluate_timeline import annotated_recordings, evaluate_timeline
from finetune.timeline.event_settings import store_event_settings, stored_event_settings
from finetune.timeline.events import EventSettings
from finetune.timeline.fit_events import FittedSettings
from finetune.timeline.timelines import TimelinePredictor
from finetune.video.encode import write_video

LEVELS = {"dark": 20, "bright": 220, "": 120}
SPLITS = ("train", "train", "train", "val", "val", "test", "test")


def write_recordings(folder):
    """Recordings at 25 frames a second: grey pauses, and events of 1 second that are dark or bright."""
    rows = []
    for number, split in enumerate(SPLITS):
        frames, first = [], 0
        for part, label in enumerate(["", "dark", "", "bright", "", *(("", "bright") if number % 2 else ("dark", ""))]):
            count = 25 if label else 20 + (7 * number + part) % 9
            frames.append(grey_frames(count, size=32, start=LEVELS[label] + number, step=0))
            if label:
                rows.append((f"{number}.mp4", first / 25, (first + count) / 25, label, split))
            first += count
        write_video(folder / f"{number}.mp4", np.concatenate(frames), fps=25)
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "clips.csv").write_text("\n".join(["path,start,end,label,split", *lines]) + "\n", encoding="utf-8")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def manifest_file(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


TINY_RECIPE = (
    "clip.size=32",
    "clip.num_frames=2",
    "model.temporal=mean",
    "phases=[{unfreeze: head, epochs: 6, lr: 1e-2}]",
)


@pytest.fixture
def run(manifest_file, tmp_path, finetune):
    folder = tmp_path / "run"
    code, out, err = finetune(
        "train", "quickstart_timeline", f"data.manifest={manifest_file}", *TINY_RECIPE, "--out", folder
    )
    assert code == 0, err
    assert "test events F1@50" in out
    return folder


def test_training_ends_with_the_events_of_the_test_recordings(run, manifest_file, finetune, tmp_path):
    results = read_results_file(run / "evaluation" / "results.json")
    timeline = results["timeline"]
    assert (timeline["num_recordings"], timeline["num_events"], timeline["split"]) == (2, 6, "test")
    assert timeline["classes"] == ["bright", "dark"]  # background is none of them
    assert timeline["f1_50"] > 0.9
    assert timeline["window_seconds"] == pytest.approx(1, abs=0.1)
    page = (run / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "where the probability of anything but “nothing” crosses" in page
    assert "Events in recordings" in page and 'href="timeline.html"' in page
    assert "F1@50" in (run / "evaluation" / "report.md").read_text(encoding="utf-8")
    for name in ("timeline.csv", "events.csv", "timeline.html"):
        assert (run / "evaluation" / name).is_file()
    # A later timeline finds the same events: it takes the settings that were fitted.
    code, _, err = finetune("timeline", run, manifest_file.parent / "5.mp4", "--out", tmp_path / "again")
    assert code == 0 and "event thresholds: " in err and "2 val recordings with 6 events" in err
    assert stored_event_settings(open_run(run)).how in err
    of_test = (run / "evaluation" / "events.csv").read_text(encoding="utf-8").splitlines()
    again = (tmp_path / "again" / "events.csv").read_text(encoding="utf-8").splitlines()
    assert again == [line for line in of_test if "6.mp4" not in line] and len(again) == 4

    code, out, err = finetune("evaluate", run, "--split", "val", "--timeline")
    assert code == 0 and "events    F1@50" in out, err
    results = read_results_file(run / "evaluation" / "val" / "results.json")
    assert results["timeline"]["split"] == "val"
    assert any("thresholds were fitted on these recordings" in warning["what"] for warning in results["warnings"])
    # A later evaluation has the events too, as the recipe says; unless they are switched off.
    assert "events    F1@50" in finetune("evaluate", run)[1]
    assert "events" not in finetune("evaluate", run, "--no-timeline")[1]
    code, out, err = finetune(
        "evaluate", run, f"data.manifest={manifest_file}", "--timeline", "--out", tmp_path / "other"
    )
    assert code == 0 and "in 7 recordings" in out, err

    store_event_settings(open_run(run), FittedSettings(EventSettings(high=0.9), "by hand"))
    assert astuple(stored_event_settings(open_run(run)).settings) == astuple(EventSettings(high=0.9))
    for broken in ('{"settings": {"high": 7}, "how": ""}', '{"settings": {"hihg": 0.5}, "how": ""}', "[]"):
        (run / "event_settings.json").write_text(broken, encoding="utf-8")
        code, _, err = finetune("timeline", run, manifest_file.parent / "5.mp4", "--out", tmp_path / "broken")
        assert code == 2 and "event_settings.json" in err and "Traceback" not in err


def test_a_run_without_recordings_has_no_events_to_find(trained_run, finetune):
    with pytest.raises(RunError, match="no row of the split 'test' is an interval of a recording"):
        evaluate_timeline(trained_run)


def test_training_on_whole_clips_refuses_the_timeline_before_it_starts(clip_folder, finetune, tmp_path):
    code, _, err = finetune(
        *("train", "folder", f"data.folder={clip_folder}", "evaluate.timeline=true", "--out", tmp_path / "run"),
        *("model.backbone=test_resnet", "model.weights=none"),
    )
    assert code == 2 and "evaluate.timeline needs recordings whose rows have a start and an end" in err


def test_recordings_have_their_rows_as_events_without_background(tmp_path):
    rows = "a,5,6,x\na,1,2,y\na,2,3,none\nb,,,x\nc,4,,y\n"
    (tmp_path / "clips.csv").write_text(f"path,start,end,label\n{rows}", encoding="utf-8")
    manifest = Manifest.from_csv(tmp_path / "clips.csv", packed=True, whole=True)
    recordings = annotated_recordings(manifest, "train", background="none")
    assert [recording.path.name for recording in recordings] == ["a", "c"]
    x, y = (manifest.classes.index(name) for name in "xy")
    assert [event[:3] for event in recordings[0].events] == [(1, 2, y), (5, 6, x)]
    (tmp_path / "clips.csv").write_text("path,start,end,label\na,1,2,x;y\na,3,4,\n", encoding="utf-8")
    manifest = Manifest.from_csv(tmp_path / "clips.csv", packed=True, whole=True, multilabel=True)
    (recording,) = annotated_recordings(manifest, "train", background=None)
    assert [event[:3] for event in recording.events] == [(1, 2, 0), (1, 2, 1)]


def test_a_split_without_recordings_is_refused_before_clips_are_predicted(trained_run, finetune):
    status, out, err = finetune("evaluate", trained_run, "--timeline")
    assert (status, out) == (2, "") and "no row of the split 'test' is an interval" in err and "evaluating" not in err


def test_training_needs_intervals_in_the_split_that_is_evaluated(tmp_path, clip_folder, manifest_file, finetune):
    clip = next((clip_folder / "test").rglob("*.mp4"))
    text = manifest_file.read_text(encoding="utf-8").replace(",test", ",train")
    path = manifest_file.parent / "whole_tests.csv"
    path.write_text(f"{text}{clip},,,dark,test\n{clip},,,dark,test\n", encoding="utf-8")
    status, _, err = finetune(
        "train", "quickstart_timeline", f"data.manifest={path}", *TINY_RECIPE, "--out", tmp_path / "run"
    )
    assert status == 2 and "but the split test has none" in err


def test_a_recording_that_cannot_be_read_is_skipped_where_the_user_says_so(run, manifest_file, tmp_path, monkeypatch):
    predict = TimelinePredictor.__call__

    def fails_at_5(self, path):
        if path.name == "5.mp4":
            raise VideoError(f"{path}: is damaged")
        return predict(self, path)

    monkeypatch.setattr(TimelinePredictor, "__call__", fails_at_5)
    with pytest.raises(DataError, match="is damaged\nfix the file, remove its rows, or skip it with --on-error skip"):
        evaluate_timeline(run)
    metrics, timelines = evaluate_timeline(run, on_error="skip")
    assert metrics["num_recordings"] == len(timelines) == 1 and "5.mp4: is damaged" in metrics["skipped"][0]
    warnings = read_results_file(run / "evaluation" / "results.json")["warnings"]
    assert any("5.mp4: is damaged" in warning["what"] for warning in warnings)
