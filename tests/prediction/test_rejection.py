"""`predict --reject`: thresholds from the scores of the val clips, refusals, and how rejected clips are named."""

import csv
import json
import shutil

import numpy as np
import pytest
from grey import make_clip

import finetune as ft
from finetune.prediction.predict import Prediction
from finetune.prediction.rejection import NONE_OF_THE_CLASSES, Rejection, choose_rejection, usual_share
from finetune.prediction.render import build_overlay
from finetune.run.checkpoint import save_checkpoint
from finetune.run.read import open_run


@pytest.fixture
def run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def set_scores(run, values):
    path = run / "checkpoints/best/meta.json"
    meta = json.loads(path.read_text()) | {"known_scores": {"score": "max_probability", "values": values}}
    path.write_text(json.dumps(meta))


def test_a_share_of_the_val_clips_lies_below_the_threshold(run):
    set_scores(run, [number / 100 for number in range(1, 41)])
    opened = open_run(run)
    assert choose_rejection(opened, 0.05) == Rejection("max_probability", 0.03)  # 2 of 40 are below
    assert choose_rejection(opened, 0.025).threshold == 0.02
    assert choose_rejection(opened, 0.049).threshold == 0.02  # rounded down to whole clips
    assert choose_rejection(opened, 0.99).threshold == 0.4


def test_the_usual_share_is_taken_where_the_val_clips_support_it(run):
    assert usual_share(open_run(run)) is None  # 4 val clips
    set_scores(run, [number / 100 for number in range(1, 21)])
    assert usual_share(open_run(run)) == 0.05


def test_a_clip_at_the_threshold_is_accepted():
    rejection = Rejection("energy", 1.5)
    assert not rejection.rejects({"energy": 1.5, "max_logit": 0})
    assert rejection.rejects({"energy": 1.499, "max_logit": 9})


def test_few_val_clips_say_which_share_they_support(run):
    set_scores(run, [0.5, 0.6, 0.7])
    with pytest.raises(ft.RunError, match=r"3 val clips.* 1/3 = 0.333, not 0.05; use --reject 0.334 or more"):
        choose_rejection(open_run(run), 0.05)
    assert choose_rejection(open_run(run), 0.334).threshold == 0.6


@pytest.mark.parametrize("share", [0, 1, -0.1, 5, float("nan")])
def test_a_share_is_between_0_and_1(run, share):
    with pytest.raises(ft.ArgumentError, match="it is a share of the val clips, above 0 and below 1"):
        choose_rejection(open_run(run), share)


def test_other_views_than_those_of_the_scores_are_refused(run):
    with pytest.raises(ft.RunError, match="scored with 1 view, not 3; omit --views or --reject"):
        choose_rejection(open_run(run), 0.3, views=3)


def test_an_older_run_names_the_command_that_adds_the_scores(run, finetune, tmp_path):
    meta_path = run / "checkpoints/best/meta.json"
    meta = json.loads(meta_path.read_text())
    scores = meta.pop("known_scores")
    meta_path.write_text(json.dumps(meta))
    clip = make_clip(tmp_path / "a.mp4", start=200)
    status, _, err = finetune("predict", run, clip, "--reject", 0.5)
    assert status == 1 or status == 2
    assert f"finetune evaluate {run} --split val" in err
    ft.evaluate(run, split="val", pictures=False)
    added = json.loads(meta_path.read_text())
    assert added["known_scores"]["values"] == pytest.approx(scores["values"], abs=1e-5)
    assert {key: value for key, value in added.items() if key != "known_scores"} == meta
    assert ft.predict(run, clip, reject=0.5)[0].rejected is not None


def test_evaluating_other_clips_or_views_adds_no_scores(run):
    meta_path = run / "checkpoints/best/meta.json"
    meta = {key: value for key, value in json.loads(meta_path.read_text()).items() if key != "known_scores"}
    meta_path.write_text(json.dumps(meta))
    ft.evaluate(run, split="test", pictures=False)
    ft.evaluate(run, split="val", views=2, pictures=False)
    assert json.loads(meta_path.read_text()) == meta


def test_a_rejected_clip_is_none_of_the_classes_and_its_nearest_class_is_listed(run, tmp_path, finetune):
    set_scores(run, [1.0, 1.0])  # which no clip reaches
    clip = make_clip(tmp_path / "a.mp4", start=200)
    (prediction,) = ft.predict(run, clip, reject=0.9)
    assert (prediction.rejected, prediction.predicted) == (True, NONE_OF_THE_CLASSES)
    assert prediction.top_k == ft.predict(run, clip)[0].top_k
    assert "none of the classes, nearest" in repr(prediction)
    status, printed, _ = finetune("predict", run, clip, "--reject", 0.9)
    assert status == 0
    assert "is none of the classes\n" in printed and prediction.top_k[0][0] in printed
    (item,) = json.loads(finetune("predict", run, clip, "--reject", 0.9, "--json")[1])
    assert (item["predicted"], item["rejected"]) == (NONE_OF_THE_CLASSES, True)
    assert item["top_k"][0]["class"] == prediction.top_k[0][0]
    assert finetune("predict", run, clip, "--reject", 0.9, "--csv", tmp_path / "a.csv")[0] == 0
    (row,) = csv.DictReader((tmp_path / "a.csv").read_text().splitlines())
    assert (row["predicted"], row["rejected"]) == (NONE_OF_THE_CLASSES, "true")


def test_without_the_option_nothing_is_said_of_rejection(run, tmp_path, finetune):
    clip = make_clip(tmp_path / "a.mp4", start=200)
    assert ft.predict(run, clip)[0].rejected is None
    (item,) = json.loads(finetune("predict", run, clip, "--json")[1])
    assert "rejected" not in item


def test_an_accepted_clip_keeps_its_class(run, tmp_path):
    set_scores(run, [0.01, 0.01])
    (prediction,) = ft.predict(run, make_clip(tmp_path / "a.mp4", start=200), reject=0.5)
    assert (prediction.rejected, prediction.predicted) == (False, prediction.top_k[0][0])


def test_the_drawn_text_names_the_nearest_class(tmp_path):
    rejected = Prediction(tmp_path / "a.mp4", (("cat", 0.6), ("dog", 0.4)), rejected=True)
    assert build_overlay(rejected).lines == (NONE_OF_THE_CLASSES, "nearest: cat 0.60")
    accepted = Prediction(tmp_path / "a.mp4", (("cat", 0.6), ("dog", 0.4)), rejected=False)
    assert build_overlay(accepted).lines == ("cat 0.60",)


def test_calibration_does_not_change_what_is_rejected(run, tmp_path):
    clips = [make_clip(tmp_path / f"{start}.mp4", start=start) for start in (20, 110, 200)]
    largest = np.sort([item.top_k[0][1] for item in ft.predict(run, clips)])
    set_scores(run, [float(largest[0]), float(largest[1]) + 1e-9])
    rejected = [item.rejected for item in ft.predict(run, clips, reject=0.5)]
    assert sorted(rejected) == [False, True, True]
    assert [item.rejected for item in ft.predict(run, clips, reject=0.5, calibrated=True)] == rejected


def test_scores_that_are_no_numbers_are_damage(run):
    set_scores(run, [])
    with pytest.raises(ft.RunError, match="meta.json"):
        choose_rejection(open_run(run), 0.5)


def test_the_scores_of_averaged_weights_are_not_those_of_the_first_run(run):
    model = ft.load(run)
    save_checkpoint(run, "best", model, {"epoch": None})
    with pytest.raises(ft.RunError, match="has no scores of its val clips"):
        choose_rejection(open_run(run), 0.5)
