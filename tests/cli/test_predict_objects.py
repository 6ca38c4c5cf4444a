"""`finetune predict` with a run of objects: text, JSON, drawings, annotation files, and what is refused."""

import json
import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from framed import FRAMES, HEIGHT, WIDTH, draw_labelled_videos, manifest_of_frames, recipe_of_frames
from grey import make_clip

import finetune as ft
from finetune.annotations.objects.export_objects import read_labelled_frames
from finetune.errors import VideoError
from finetune.inference.predict_split import predict_rows
from finetune.objects.detect import RunDetector, read_recording
from finetune.objects.predict_frames import ObjectPredictor
from finetune.train.from_recipe import train_from_recipe
from finetune.video.decode.probe import probe
from finetune.video.row_loader import row_loader


@pytest.fixture(scope="module")
def object_run(tmp_path_factory):
    """A run of objects and pixels, hardly trained, beside its videos; do not write into it."""
    folder = tmp_path_factory.mktemp("objects")
    recipe = recipe_of_frames(draw_labelled_videos(folder), ("tracks", "pixels"))
    return train_from_recipe(recipe, manifest_of_frames(recipe), out=folder / "run")


@pytest.fixture
def video(object_run):
    return object_run.parent / "test0.mp4"


def test_the_objects_of_every_frame_are_printed_as_json(object_run, video, finetune):
    status, printed, _ = finetune("predict", object_run, video, "--json", "--score", 0.02)
    (item,) = json.loads(printed)
    assert status == 0
    assert (item["path"], item["width"], item["height"]) == (str(video), WIDTH, HEIGHT)
    assert [frame["frame"] for frame in item["frames"]] == list(range(FRAMES))
    objects = [one for frame in item["frames"] for one in frame["objects"]]
    assert {one["class"] for one in objects} <= {"bar", "square"}
    assert len(objects) > FRAMES
    assert all(len(one["box"]) == 4 and len(one["motion"]) == 2 for one in objects)
    assert len({one["track"] for one in objects if one["track"] is not None}) > 1
    for frame in item["frames"]:
        assert list(frame["pixels"]) == ["background", "bar", "square"]
        assert sum(frame["pixels"].values()) == pytest.approx(1, abs=1e-3)


def test_predictions_from_python_are_the_same(object_run, video, finetune):
    _, printed, _ = finetune("predict", object_run, video, "--json", "--score", 0.2, "--every", 3)
    frames = list(ft.predict_objects(object_run, video, every=3, score=0.2))
    expected = [[one["box"] for one in frame["objects"]] for frame in json.loads(printed)[0]["frames"]]
    assert [len(frame.objects) for frame in frames] == list(map(len, expected))
    for frame, boxes in zip(frames, expected, strict=True):
        assert np.allclose([one.box for one in frame.objects], np.array(boxes).reshape(-1, 4), atol=0.01)


def test_detections_are_those_that_evaluation_gives_for_the_frame(object_run, video):
    model, recipe = ft.load(object_run), recipe_of_frames(object_run.parent / "objects.csv", ("tracks", "pixels"))
    dataset = ft.ClipDataset(manifest_of_frames(recipe), "test", clip=recipe.clip, views=1, outputs=model.outputs)
    rows = predict_rows(model, row_loader(dataset, recipe.data), precision="fp32")
    recording = read_recording(video, image_rate=25)
    outputs = list(RunDetector(ft.open_run(object_run))(recording, np.arange(0, FRAMES, 3)))
    for expected_D8, output in zip(rows.tasks["tracks"], outputs, strict=True):
        assert np.allclose(output.detections_D8, expected_D8, atol=1e-3, equal_nan=True)


def test_files_are_drawn_and_bad_ones_named(object_run, video, tmp_path, finetune):
    (tmp_path / "bad.mp4").write_text("nothing")
    status, printed, err = finetune("predict", object_run, tmp_path / "bad.mp4", video, "--draw", tmp_path / "drawn")
    assert status == 1
    assert f"{video}: {FRAMES} frames" in printed and "% of the pixels" in printed
    assert f"finetune: {tmp_path / 'bad.mp4'}: is not a video" in err
    (drawn,) = (tmp_path / "drawn").rglob("*.mp4")
    assert probe(drawn).num_frames == FRAMES


@pytest.mark.parametrize(("kind", "name"), [("coco", "out.json"), ("mot", "out"), ("cvat", "out")])
def test_annotation_files_hold_the_objects_of_each_frame(kind, name, object_run, video, tmp_path, finetune):
    out = tmp_path / name
    status, printed, err = finetune("predict", object_run, video, "--json", "--score", 0.1, "--to", kind, "--out", out)
    frames = json.loads(printed)[0]["frames"]
    expected = sum(len(frame["objects"]) for frame in frames)
    assert status == 0 and str(out) in err
    file = next(path for path in (out, *out.rglob("*")) if path.suffix in {".json", ".xml"} or path.name == "gt.txt")
    imported = read_labelled_frames(file, video.parent)
    assert sum(len(row.objects) for row in imported.rows) == expected


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(KeyboardInterrupt(), 130, "Stopped; predictions of 1 file are complete"), (VideoError("bad"), 1, "bad")],
)
def test_annotation_files_have_complete_recordings_only(
    error, status, message, object_run, video, tmp_path, finetune, monkeypatch
):
    files = [shutil.copy(video, tmp_path / name) for name in ("first.mp4", "second.mp4")]
    predict = ObjectPredictor.__call__

    def fail_in_the_second(self, path):
        recording, frames = predict(self, path)
        return recording, frames if path.name == "first.mp4" else fail_after_three_frames(frames)

    def fail_after_three_frames(frames):
        yield from islice(frames, 3)
        raise error

    monkeypatch.setattr(ObjectPredictor, "__call__", fail_in_the_second)
    out = tmp_path / "out.json"
    found = finetune("predict", object_run, *files, "--json", "--to", "coco", "--out", out)
    assert found[0] == status and message in found[2] and str(out) in found[2]
    assert [len(item["frames"]) for item in json.loads(found[1])] == [FRAMES, 3]
    images = [image["file_name"] for image in json.loads(out.read_text())["images"]]
    assert len(images) == FRAMES and all("first" in name for name in images)


def test_a_place_that_cannot_be_written_is_refused_before_predicting(object_run, video, tmp_path, finetune):
    (tmp_path / "file").write_text("something else")
    status, printed, err = finetune("predict", object_run, video, "--to", "coco", "--out", tmp_path / "file/x.json")
    assert (status, printed) == (2, "")
    assert "x.json: cannot be written: Not a directory" in err


def test_an_annotation_file_that_exists_is_left_alone(object_run, video, tmp_path, finetune):
    (tmp_path / "out.json").write_text("corrected")
    status, printed, err = finetune("predict", object_run, video, "--to", "coco", "--out", tmp_path / "out.json")
    assert (status, printed) == (2, "")
    assert "out.json exists already, and may hold corrections" in err
    assert (tmp_path / "out.json").read_text() == "corrected"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "coco"), "need both: --to coco, mot or cvat, and --out"),
        (("--csv", "x.csv"), "--csv is for runs that predict clips; this run does not"),
        (("--views", 2), "--views is for runs that predict clips"),
        (("--top-k", 3), "--top-k is for runs that predict clips"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, object_run, video, finetune):
    status, printed, err = finetune("predict", object_run, video, *options)
    assert (status, printed) == (2, "")
    assert message in err


def test_options_of_objects_are_refused_for_a_run_of_clips(trained_run, tmp_path, finetune):
    status, _, err = finetune("predict", trained_run, make_clip(tmp_path / "a.mp4"), "--every", 5)
    assert status == 2
    assert "--every is for runs that predict objects; this run does not" in err
    with pytest.raises(ft.RunError, match="has no task of kind detect, track, segment"):
        ft.predict_objects(trained_run, tmp_path / "a.mp4")


def test_a_run_of_pixels_alone_is_refused_where_objects_are_needed(object_run, video, tmp_path, finetune, monkeypatch):
    opened = ft.open_run(object_run)
    of_pixels = replace(opened, outputs={"pixels": opened.outputs["pixels"]})
    monkeypatch.setattr("finetune.run.read.open_run", lambda run, **_: of_pixels)
    for command in ("predict", object_run, video, "--to", "coco"), ("tubes", object_run, video):
        status, printed, err = finetune(*command, "--out", tmp_path / "out")
        assert (status, printed) == (2, "")
        assert "has no task of kind detect or track, so it finds no objects" in err


@pytest.mark.parametrize("command", [("predict",), ("tubes", "--out", "tubes")])
def test_rows_of_a_csv_are_refused(command, object_run, finetune):
    status, _, err = finetune(*command, object_run, object_run.parent / "objects.csv")
    assert status == 2
    assert "objects.csv: objects are predicted in whole recordings, not in the rows of a CSV" in err


def test_predictions_of_clips_are_refused_in_words(object_run, video):
    with pytest.raises(
        ft.RunError, match=r"objects or pixels of frames \(tracks, pixels\), not clips; .*ft.predict_objects"
    ):
        ft.predict(object_run, video)
