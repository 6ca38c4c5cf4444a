"""`finetune predict`: damaged files among good ones, interrupts, and places that cannot be written."""

import csv
import json

import pytest
from grey import make_clip

import finetune as ft
from finetune.errors import DataError, VideoError
from finetune.prediction.predict import Prediction


@pytest.fixture
def files(tmp_path):
    """Two good files, and between them one that is no video and one that breaks off after its index was read."""
    folder = tmp_path / "new"
    good = [make_clip(folder / name, start=200) for name in ("a.mp4", "d.mp4")]
    (folder / "b.mp4").write_text("nothing")
    (folder / "c.mp4").write_bytes(good[0].read_bytes()[:-900])
    return folder


@pytest.mark.slow
def test_good_files_are_predicted_and_bad_ones_named(trained_run, files, tmp_path, finetune):
    table = tmp_path / "out" / "named.csv"
    status, printed, err = finetune("predict", trained_run, files, "--csv", table)
    assert (status, printed.strip()) == (1, str(table))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = ft.predict(trained_run, [files / "a.mp4", files / "d.mp4"])
    assert [(row["path"], row["predicted"], row["probability"]) for row in rows] == [
        (str(each.path), each.predicted, str(each.probability)) for each in expected
    ]
    assert f"finetune: {files / 'b.mp4'}: is not a video, or is cut off" in err
    assert f"finetune: {files / 'c.mp4'}: " in err
    assert "2 of 4 files have no complete prediction" in err
    status, printed, _ = finetune("predict", trained_run, files, "--json", "--top-k", 1)
    assert status == 1
    assert [item["path"] for item in json.loads(printed)] == [str(each.path) for each in expected]


@pytest.mark.slow
def test_on_error_fail_predicts_nothing_where_a_file_is_bad(trained_run, files, tmp_path, finetune):
    status, printed, err = finetune("predict", trained_run, files, "--on-error", "fail", "--csv", tmp_path / "x.csv")
    assert (status, printed) == (2, "")
    assert "b.mp4: is not a video" in err and "c.mp4: " in err
    assert not (tmp_path / "x.csv").exists()
    with pytest.raises(DataError, match=r"(?s)b.mp4: is no.*c.mp4: "):
        ft.predict(trained_run, [files])
    assert finetune("predict", trained_run, files, "--on-error", "maybe")[0] == 2
    with pytest.raises(ft.ArgumentError, match="on_error is 'maybe'; it takes 'fail' or 'skip'"):
        ft.predict(trained_run, [files], on_error="maybe")


def test_from_python_the_skipped_files_are_listed(trained_run, files):
    found = ft.predict(trained_run, [files], on_error="skip")
    assert [each.path.name for each in found] == ["a.mp4", "d.mp4"]
    assert [path.name for path in found.skipped] == ["b.mp4", "c.mp4"]
    assert "is not a video, or is cut off" in found.skipped[files / "b.mp4"]
    assert found == ft.predict(trained_run, [files / "a.mp4", files / "d.mp4"])


def test_only_bad_files_are_an_error(trained_run, files, finetune):
    status, printed, err = finetune("predict", trained_run, files / "b.mp4", "--json")
    assert (status, printed) == (2, "")
    assert "b.mp4: is not a video" in err


def test_a_file_that_breaks_while_it_is_drawn_is_named(trained_run, files, tmp_path, finetune, monkeypatch):
    def breaks(prediction, target, **settings):
        if prediction.path.name == "a.mp4":
            raise VideoError(f"{prediction.path}: cannot be decoded after frame 5: damaged")
        target.parent.mkdir(exist_ok=True)
        target.write_text(str(prediction.path))

    monkeypatch.setattr("finetune.prediction.render.draw", breaks)
    status, _, err = finetune("predict", trained_run, files, "--draw", tmp_path / "drawn")
    assert status == 1
    assert "a.mp4: cannot be decoded after frame 5" in err
    assert (tmp_path / "drawn" / "d.mp4").read_text() == str(files / "d.mp4")
    assert not (tmp_path / "drawn" / "b.mp4").exists()


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_an_interrupt_keeps_what_is_predicted(trained_run, files, tmp_path, finetune, monkeypatch, option):
    """Valid to the last byte, and whole for the files that are done."""

    def interrupted(run, paths, **settings):
        for number in range(3):
            yield files / f"{number}.mp4", Prediction(files / f"{number}.mp4", (("jump, high", 0.75), ("é", 0.25)))
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.prediction.predict.iter_predictions", interrupted)
    place = [tmp_path / "x.csv"] if option == "--csv" else []
    status, printed, err = finetune("predict", trained_run, files, option, *place)
    assert status == 130
    assert "predictions of 3 files are complete" in err
    if option == "--json":
        assert [item["predicted"] for item in json.loads(printed)] == ["jump, high"] * 3
    else:
        with place[0].open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == [str(files / f"{n}.mp4") for n in range(3)]


def test_places_are_tried_before_the_work(trained_run, files, tmp_path, finetune, monkeypatch):
    monkeypatch.setattr("finetune.prediction.predict.iter_predictions", lambda *_, **__: pytest.fail("predicted"))
    (tmp_path / "file").write_text("something else")
    clip = files / "a.mp4"
    before = clip.read_bytes()
    for option, place, message in (
        ("--csv", tmp_path, "is a folder"),
        ("--csv", tmp_path / "file" / "x.csv", "cannot be written: Not a directory"),
        ("--csv", "/proc/x.csv", "cannot be written: "),
        ("--csv", clip, "is also an input file"),
        ("--draw", tmp_path / "file" / "x.mp4", "cannot be written: Not a directory"),
        ("--draw", "/proc/x.mp4", "cannot be written: "),
    ):
        status, _, err = finetune("predict", trained_run, clip, option, place)
        assert status == 2
        assert message in err
    assert clip.read_bytes() == before
