import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from grey import make_clip, make_images

import finetune as ft
from finetune.video import probe_files
from finetune.video.decode.read import read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("one") / "a.mp4", 9)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 255, (7, 40, 60, 3), dtype=np.uint8)


def numbers(predictions):
    return [each.top_k for each in predictions]


def test_one_path_is_one_video_as_text_and_as_a_path(trained_run, clip):
    (expected,) = ft.predict(trained_run, [clip])
    assert ft.predict(trained_run, str(clip)) == ft.predict(trained_run, clip) == [expected]
    assert ft.predict(trained_run, clip.parent) == ft.predict(str(trained_run), iter([clip])) == [expected]


def test_frames_in_memory_give_the_numbers_of_the_same_images_in_a_folder(trained_run, frames, tmp_path):
    folder = make_images(tmp_path / "clip", 7)
    for image, frame in zip(sorted(folder.iterdir()), frames, strict=True):
        cv2.imwrite(str(image), frame[..., ::-1])
    expected = ft.predict(trained_run, folder, views=2, image_sequences=True)
    array = ft.predict(trained_run, frames, views=2)
    tensor = ft.predict(trained_run, [torch.from_numpy(frames)], views=2)
    assert numbers(array) == numbers(tensor) == numbers(expected)
    assert str(array[0].path) == "frames[0]"


def test_paths_and_arrays_are_predicted_in_their_order(trained_run, clip, frames):
    decoded = read_frames(clip, range(9))[0].transpose(0, 2, 3, 1)
    found = ft.predict(trained_run, [frames, clip, decoded])
    assert [str(each.path) for each in found] == ["frames[0]", str(clip), "frames[2]"]
    assert found[1].top_k[0][1] == pytest.approx(found[2].top_k[0][1], abs=0.02)


def test_a_loaded_model_predicts_like_its_run(trained_run, clip):
    model = ft.load(trained_run).train()
    assert ft.predict(model, clip) == ft.predict(trained_run, clip)


def test_a_model_without_a_run_is_refused(clip):
    model = ft.build_model("test_resnet", ["a", "b"], weights="none", num_frames=2, size=32)
    with pytest.raises(ft.RunError, match="has no run folder, .* take one from fit or load"):
        ft.predict(model, clip)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((4, 3, 32, 32), np.uint8), r"\(4, 3, 32, 32\); move the channels to the end"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), "give several videos as a list"),
        (np.zeros((32, 32, 3), np.uint8), "stack the frames of a video into one array"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"have the shape \(T, H, W, 3\); this is \(0, 32, 32, 3\)"),
        (np.zeros((4, 32, 32, 3), np.float32), "0 to 255 as uint8; these are float32"),
    ],
)
def test_frames_of_another_shape_or_type_are_refused(trained_run, frames, reason):
    with pytest.raises(ft.DataError, match=rf"frames\[0\]: .*{reason}"):
        ft.predict(trained_run, frames)
    assert list(map(str, ft.predict(trained_run, [frames], on_error="skip").skipped)) == ["frames[0]"]


def test_what_is_neither_a_path_nor_frames_is_refused(trained_run):
    with pytest.raises(ft.ArgumentError, match="videos is 3; it takes str, Path, ndarray, Tensor or a list of"):
        ft.predict(trained_run, 3)


def test_a_run_that_samples_by_time_needs_the_frame_rate_of_arrays(trained_run, frames, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    recipe = run / "recipe.yaml"
    text = re.sub(r"\n  sampling: \w+", "\n  sampling: fps", recipe.read_text())
    recipe.write_text(text.replace("\n  fps: null", "\n  fps: 10"))
    with pytest.raises(ft.RunError, match="samples frames by time .* give the frame_rate of the arrays"):
        ft.predict(run, frames)
    slow, fast = (numbers(ft.predict(run, frames, frame_rate=rate)) for rate in (10, 40))
    assert slow != fast


@pytest.fixture(scope="module")
def clips_csv(clip):
    """Rows of one file, beside it, with a label that prediction ignores."""
    table = clip.parent / "rows" / "clips.csv"
    table.parent.mkdir()
    table.write_text("path,start,end,label\n../a.mp4,0.1,0.3,x\n../a.mp4,0.2,,\n../a.mp4,,,y\n", encoding="utf-8")
    return table


def test_intervals_are_given_as_tuples_or_as_rows_of_a_csv(trained_run, clip, clips_csv):
    times = [(0.1, 0.3), (0.2, None), (None, None)]
    tuples = ft.predict(trained_run, [(clip, *interval) for interval in times], views=2)
    rows = ft.predict(trained_run, clips_csv, views=2)
    assert numbers(rows) == numbers(tuples)
    assert [(each.start, each.end) for each in rows] == [(0.1, 0.3), (0.2, np.inf), (0, np.inf)]
    assert [each.name.partition(" ")[2] for each in rows] == ["(0.1–0.3 s)", "(0.2 s–end)", ""]
    assert numbers(ft.predict(trained_run, (str(clip), 0.2, None))) != numbers(ft.predict(trained_run, clip))
    assert numbers(tuples)[2:] == numbers(ft.predict(trained_run, clip, views=2))


def test_a_file_with_many_intervals_is_examined_once(trained_run, clip, monkeypatch):
    looked, scan = [], probe_files.scan
    monkeypatch.setattr(probe_files, "scan", lambda path: looked.append(path) or scan(path))
    assert len(ft.predict(trained_run, [(clip, n / 25, None) for n in range(9)])) == 9
    assert looked == [clip]


@pytest.mark.parametrize("times", [(2, 1), (1, 1), (-1, None), (np.nan, 1)])
def test_what_is_no_interval_is_refused(trained_run, clip, times):
    with pytest.raises(ft.ArgumentError, match=r"a\.mp4: no interval from .* start of at least 0 and an end after it"):
        ft.predict(trained_run, (clip, *times))


def test_an_interval_outside_its_file_is_named_with_its_times(trained_run, clip):
    found = ft.predict(trained_run, [(clip, 0, 0.2), (clip, 7, 9)], on_error="skip")
    assert len(found) == 1 and found.skipped == {
        clip.with_name("a.mp4 (7–9 s)"): f"{clip}: has no frame in 7–9 s; it lasts 0.36 s"
    }


def test_rows_of_a_csv_are_predicted_as_evaluated(trained_run, clip, clips_csv, tmp_path, finetune):
    table = clips_csv.with_name("labelled.csv")
    classes = sorted(ft.open_run(trained_run).classes)[:2]
    rows = ["../a.mp4,0.04,0.2", "../a.mp4,0.1,0.31", "../a.mp4,0.2,"]
    lines = [f"{row},{classes[number % 2]}" for number, row in enumerate(rows)]
    table.write_text("\n".join(["path,start,end,label", *lines]) + "\n", encoding="utf-8")
    status, _, err = finetune("evaluate", trained_run, f"data.manifest={table}", "--out", tmp_path / "out")
    assert status == 0, err
    (evaluated,) = (tmp_path / "out").rglob("predictions.csv")
    assert finetune("predict", trained_run, table, "--csv", tmp_path / "x.csv")[0] == 0
    expected, found = (list(csv.DictReader(path.read_text().splitlines())) for path in (evaluated, tmp_path / "x.csv"))
    columns = ("start", "end", "predicted", "probability", "top_k")
    assert [[row[name] for name in columns] for row in found] == [[row[name] for name in columns] for row in expected]
    status, printed, _ = finetune("predict", trained_run, table, "--json")
    assert [(item["start"], item["end"]) for item in json.loads(printed)] == [(0.04, 0.2), (0.1, 0.31), (0.2, None)]
    assert f"{table.parent / '../a.mp4'} (0.04–0.2 s)\n" in finetune("predict", trained_run, table)[1]
    status, _, err = finetune("predict", trained_run, table, "--draw", tmp_path / "drawn")
    assert status == 2 and "--draw draws whole videos, not the rows of a CSV" in err
