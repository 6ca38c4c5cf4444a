"""Evaluating and predicting: the same numbers, and nothing left out in silence."""

import csv
import json
import shutil

import numpy as np
import pytest
from grey import make_clip

import finetune as ft
from finetune.errors import DataError, RunError


@pytest.fixture(scope="module")
def results(trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    return ft.evaluate(trained_run, out=out), out


def predictions_of(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_hold_what_readers_rely_on(results):
    found, out = results
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(found))
    assert found["schema"] == 1
    assert found["num_rows"] == 4
    assert found["skipped"] == []
    task = found["tasks"]["label"]
    assert set(task) >= {"top1", "top1_ci", "top5", "macro_f1", "per_class", "confusion", "classes"}
    assert task["classes"] == ["dark ones", "it's bright"]
    assert np.array(task["confusion"]).sum() == 4
    assert found["protocol"]["num_frames"] == 4
    assert found["class_counts"]["train"] == {"dark ones": 4, "it's bright": 4}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_rows_of_a_split_are_scored_and_no_others_whatever_their_order(trained_run, tmp_path, split):
    run = shutil.copytree(trained_run, tmp_path / "run")
    with (run / "manifest.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    mixed = [row for start in range(3) for row in rows[start::3]]
    assert [row[2] for row in mixed] != sorted(row[2] for row in mixed)
    with (run / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *mixed])
    ft.evaluate(run, split=split, out=tmp_path / "mixed")
    ft.evaluate(trained_run, split=split, out=tmp_path / "sorted")
    found = predictions_of(tmp_path / "mixed")
    assert [(row["path"], row["label"]) for row in found] == [(row[0], row[1]) for row in mixed if row[2] == split]
    assert sorted(map(str, found)) == sorted(map(str, predictions_of(tmp_path / "sorted")))


def test_prediction_gives_the_very_numbers_of_evaluation(results, trained_run):
    _, out = results
    rows = predictions_of(out)
    alone = [ft.predict(trained_run, [row["path"]])[0] for row in rows]
    for row, prediction in zip(rows, alone, strict=True):
        assert prediction.predicted == row["predicted"]
        assert prediction.probability == float(row["probability"])
        assert [list(pair) for pair in prediction.top_k] == json.loads(row["top_k"])


def test_views_are_averaged_and_stated(trained_run, tmp_path):
    found = ft.evaluate(trained_run, views=3, out=tmp_path)
    assert found["protocol"]["views"] == 3
    row = predictions_of(tmp_path)[0]
    assert ft.predict(trained_run, [row["path"]], views=3)[0].probability == float(row["probability"])


def test_a_loaded_model_is_the_one_that_was_trained(trained_run):
    model = ft.load(trained_run)
    assert model.classes == ("dark ones", "it's bright")
    assert not model.training


def test_other_splits_have_a_folder_of_their_own(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    ft.evaluate(run, split="val")
    assert (run / "evaluation/val/results.json").is_file()
    assert not (run / "evaluation/results.json").exists()
    with pytest.raises(RunError, match="no split 'tset'"):
        ft.evaluate(run, split="tset")


def test_a_folder_is_predicted_file_by_file(trained_run, tmp_path):
    make_clip(tmp_path / "b" / "dark é.mp4", start=16, step=1)
    make_clip(tmp_path / "a.mp4", start=210, step=1)
    found = ft.predict(trained_run, [tmp_path], top_k=1)
    assert [prediction.path.name for prediction in found] == ["a.mp4", "dark é.mp4"]
    assert [prediction.predicted for prediction in found] == ["it's bright", "dark ones"]
    assert all(len(prediction.top_k) == 1 for prediction in found)


def test_bad_files_to_predict_are_all_named(trained_run, tmp_path):
    for name in ("x.mp4", "y.mp4"):
        (tmp_path / name).write_text("nothing")
    with pytest.raises(DataError, match=r"(?s)x.mp4: is no.*y.mp4: is no"):
        ft.predict(trained_run, [tmp_path])


def test_a_bad_test_file_fails_the_evaluation_unless_told_to_skip(trained_run, clip_folder, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    data = shutil.copytree(clip_folder, tmp_path / "data")
    manifest = (run / "manifest.csv").read_text().replace(str(clip_folder), str(data))
    (run / "manifest.csv").write_text(manifest)
    bad = data / "test" / "dark ones" / "0.mp4"
    bad.write_bytes(bad.read_bytes()[:700])
    with pytest.raises(DataError, match=r"(?s)dark ones/0.mp4: .*1 of 4 files of the split 'test'.*--on-error skip"):
        ft.evaluate(run)
    found = ft.evaluate(run, on_error="skip")
    assert found["num_rows"] == 3
    assert [item["path"] for item in found["skipped"]] == [str(bad)]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for command in (ft.evaluate, ft.load, lambda run: ft.predict(run, ["x.mp4"])):
        with pytest.raises(RunError, match="is not a run folder with a checkpoint: it has no recipe.yaml"):
            command(tmp_path)
