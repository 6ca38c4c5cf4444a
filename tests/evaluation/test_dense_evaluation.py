"""Runs of detection, tracking and segmentation: evaluated, on another set too, and cross-validated."""

import csv
import json

import numpy as np
import pytest
from framed import draw_labelled_videos, manifest_of_frames, recipe_of_frames

from finetune.errors import DataError
from finetune.evaluation.evaluate import evaluate
from finetune.run.detections_csv import read_detections
from finetune.run.fitted import read_fitted
from finetune.run.folder import EvaluationFolder
from finetune.run.read import open_run
from finetune.study.kfold import kfold
from finetune.train.from_recipe import train_from_recipe

pytestmark = pytest.mark.slow
TASKS = ("objects", "tracks", "pixels")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_labelled_videos(tmp_path_factory.mktemp("data"), test=2)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    recipe = recipe_of_frames(data, TASKS, phases=[{"unfreeze": "all", "epochs": 2, "lr": 3e-3}])
    return train_from_recipe(recipe, manifest_of_frames(recipe), out=tmp_path_factory.mktemp("runs") / "run")


def test_a_run_without_classes_of_clips_is_evaluated(run, tmp_path):
    results = evaluate(run, out=tmp_path)
    objects, tracks, pixels = (results["tasks"][task] for task in TASKS)
    assert (objects["num_rows"], objects["num_objects"], pixels["num_rows"]) == (8, tracks["num_objects"], 8)
    assert "motion_correlation" in tracks and "motion_correlation" not in objects
    for task in (objects, tracks):
        assert 0 < task["ap"] < 1 and task["ap_ci"][0] < task["ap"] < task["ap_ci"][1]
        assert len(task["confusion"]) == 3
        assert (task["num_identities"], task["score_threshold_from"]) == (4, "val")
        assert 0 <= task["hota"] <= 1
    assert objects["score_threshold"] == read_fitted(open_run(run))["objects"].score_threshold
    assert np.sum(pixels["confusion"]) == pixels["num_pixels"] == 8 * 64**2
    assert pixels["num_neighbours"] == 6 and pixels["steadiness"] > 0.5
    shown = read_detections(EvaluationFolder(tmp_path), "objects")
    assert sum(map(len, shown.values())) == objects["num_detections"]
    assert all(detection.motion is None for of_clip in shown.values() for detection in of_clip)
    epoch = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"val_ap", "val_loss"} <= set(epoch["tasks"]["tracks"]) and 0 <= epoch["tasks"]["pixels"]["val_miou"] <= 1


def test_evaluation_on_val_gives_the_figures_of_the_best_epoch(run, tmp_path):
    tasks = evaluate(run, split="val", out=tmp_path)["tasks"]
    best = json.loads((run / "checkpoints/best/meta.json").read_text())["tasks"]
    for name, key in (("objects", "ap"), ("tracks", "ap"), ("pixels", "miou")):
        assert tasks[name][key] == pytest.approx(best[name][f"val_{key}"], abs=1e-6)


def test_metrics_are_printed_with_switches_of_identity(run, finetune):
    status, out, _ = finetune("evaluate", run, "--split", "val")
    assert status == 0
    for start in ("objects ap ", "tracks motion_correlation ", "tracks hota ", "pixels miou ", "tracks switches "):
        assert any(line.startswith(start) for line in out.splitlines()), start


def test_another_set_is_matched_by_the_names_of_classes(run, data, tmp_path):
    with data.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    other, renamed = data.with_name("other.csv"), data.with_name("renamed.csv")
    for path, name in ((other, "bar"), (renamed, "rod")):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "start", "end", "objects"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row | {"objects": row["objects"].replace("bar:", f"{name}:")} for row in rows)
    results = evaluate(run, f"data.manifest={other}", out=tmp_path / "other")
    own = evaluate(run, out=tmp_path / "own")
    assert set(results["tasks"]) == {"objects", "tracks"}
    assert results["tasks"]["objects"]["ap"] == pytest.approx(own["tasks"]["objects"]["ap"])
    with pytest.raises(DataError, match=r"classes that the run does not know: rod \(\d+ rows\)"):
        evaluate(run, f"data.manifest={renamed}")


def test_frames_of_several_folds_are_scored_together(data, tmp_path):
    recipe = recipe_of_frames(data, ("tracks", "pixels"))
    results = kfold(recipe, manifest_of_frames(recipe), folds=2, out=tmp_path / "folds")
    tracks, pixels = results["tasks"]["tracks"], results["tasks"]["pixels"]
    assert tracks["num_rows"] == pixels["num_rows"] == 24
    assert (tracks["score_threshold_from"], tracks["num_sequences"]) == ("these frames", pytest.approx(11, abs=1))
    assert np.sum(pixels["confusion"]) == 24 * 64**2
    assert [set(fold) >= {"ap", "ap_ci"} for fold in results["folds"]] == [True, True]
