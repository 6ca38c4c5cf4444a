"""Own parts on the command line: imported where the user names them, refused in words otherwise."""

import json
import sys

import pytest

CODE = """
from torch import nn


def two_layers(width, classes):
    return nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, classes))


def mean_confidence(labels, probabilities):
    return probabilities.max(1).mean()
"""
RECIPE = """
data: {folder: FOLDER, workers: 0}
clip: {num_frames: 2, size: 32}
model: {backbone: test_resnet, weights: none, head: 'shop_parts:two_layers'}
evaluate: {metric: 'shop_parts:mean_confidence'}
phases: [{unfreeze: head, epochs: 1}]
"""
PARTS = ("--part", "model.head=shop_parts:two_layers", "--part", "evaluate.metric=shop_parts:mean_confidence")


@pytest.fixture(scope="module")
def folder(clip_folder, tmp_path_factory):
    """A folder with a module of own parts and a recipe that names them."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop_parts.py").write_text(CODE)
    (folder / "mine.yaml").write_text(RECIPE.replace("FOLDER", str(clip_folder)))
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    sys.modules.pop("shop_parts", None)


@pytest.mark.slow
def test_a_run_with_own_parts_is_used_where_they_are_named_again(here, clip_folder, finetune):
    status, _, err = finetune("train", "mine.yaml", "--allow-code", "--out", "run")
    assert status == 0, err
    clip = clip_folder / "test" / "dark ones" / "0.mp4"
    status, _, err = finetune("predict", "run", clip)
    assert status == 2 and "give it again: --part model.head=shop_parts:two_layers with finetune evaluate" in err
    assert finetune("predict", "run", clip, *PARTS)[0] == 0
    status, printed, err = finetune("evaluate", "run", *PARTS)
    results = json.loads((here / "run/evaluation/results.json").read_text())["tasks"]["label"]
    assert f"mean_confidence {results['mean_confidence']:.3f}  (95 % interval" in printed
    for page in ("report.html", "report.md"):
        assert f"{results['mean_confidence']:.3f}" in (here / "run/evaluation" / page).read_text()
    for command in ("timeline", "watch"):
        assert "not imported" in finetune(command, "run", clip)[2]
    assert finetune("timeline", "run", clip, *PARTS)[0] == 0
    assert "not imported" in finetune("report", "run", "--explain")[2]
    assert "not imported" not in finetune("report", "run", "--explain", *PARTS)[2]
    assert "--part is only for --explain" in finetune("report", "run", *PARTS)[2]


@pytest.mark.slow
def test_seeds_and_folds_train_with_own_parts_and_resume(here, finetune):
    seeds, folds = ("train", "--seeds", 2), ("kfold", "--folds", 2, "data.val=0")
    for command, *options in (seeds, seeds, folds):
        status, _, err = finetune(command, "mine.yaml", *options, "--allow-code", "--out", command)
        assert status == 0, err
    for results in ("train/seed-1/evaluation/results.json", "kfold/evaluation/results.json"):
        assert json.loads((here / results).read_text())["tasks"]["label"]["own_metric"] == "mean_confidence"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("model.head", "'model.head' names no own part; write it as model.head=package.module:Name"),
        ("model.head=shop_parts:none", "model.head: shop_parts:none cannot be imported"),
        ("model.head=shop_parts:two_layers", "recipe.yaml: has no own part 'model.head'"),
    ],
)
def test_a_part_that_the_run_does_not_have_is_refused(here, trained_run, finetune, part, message):
    status, _, err = finetune("predict", trained_run, "a.mp4", "--part", part)
    assert status == 2 and message in err


def test_a_part_for_a_new_run_is_a_setting(here, finetune):
    status, _, err = finetune("train", "mine.yaml", *PARTS[:2])
    assert status == 2 and "for a new run, set model.head=shop_parts:two_layers with --allow-code" in err
