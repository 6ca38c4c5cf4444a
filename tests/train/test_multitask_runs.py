"""Runs of several tasks: every rule and way of sharing trains, goes on exactly, and may read what was kept."""

import json
from itertools import count
from threading import current_thread, main_thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tasked import TASKS, draw_clips, manifest_of, recipe_of

import finetune as ft
from finetune.errors import DataError, RecipeError
from finetune.inference.forward import predict_batch
from finetune.report.run.page import write_report
from finetune.run.read import open_run
from finetune.study.lr_find import find_lr
from finetune.train.from_recipe import new_model, train_from_recipe
from finetune.train.loss.task_weighting import WEIGHTINGS
from finetune.train.setup.dry_run import estimate_phases
from finetune.video.dataset import ClipDataset

THREE = ("way", "box", "shade")
TAPPED = {
    "way": TASKS["way"] | {"temporal": "gru"},
    "box": TASKS["box"] | {"feature_stage": "layer2"},
    "size": TASKS["size"],
}
TWO_STEPS = [{"unfreeze": "all", "steps": 2, "lr": 1e-3}]
numbers = count()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    """A run of a recipe on the clips of several tasks."""

    def run(tasks=THREE, *, csv=data, out=None, **sections):
        recipe = recipe_of(csv, tasks, **sections)
        return train_from_recipe(recipe, manifest_of(recipe), out=out or tmp_path / f"run-{next(numbers)}")

    return run


def records(run):
    """Less what a clock says."""
    other = {"seconds", "clips_per_second", "cache", "peak_gb"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in other} for line in lines]


def weights(run, which="last"):
    return load_file(run / f"checkpoints/{which}/model.safetensors")


def assert_same(run, other):
    assert records(run) == records(other)
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys() and [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_rule_trains_and_tells_its_weights(train, weighting):
    pytest.importorskip("torchjd")
    (record,) = records(train(multitask={"weighting": weighting}, phases=TWO_STEPS))
    assert list(record["weights"]) == list(THREE) == list(record["tasks"])
    assert all(weight > 0 for weight in record["weights"].values())
    assert set(record["cosines"]) == {"way | box", "way | shade", "box | shade"}
    assert all(-1 <= cosine <= 1 for cosine in record["cosines"].values())
    headlines = [record["tasks"]["way"]["val_top1"], record["tasks"]["box"]["val_mean_iou"]]
    assert record["val_score"] == pytest.approx(np.mean([*headlines, record["tasks"]["shade"]["val_r2"]]))


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["hard", "towers", "cross_stitch"])
@pytest.mark.parametrize("how", ["shared", "tapped"])
def test_every_way_of_sharing_trains_and_loads_to_the_same_answers(train, sharing, how):
    structure = 0.0 if sharing == "hard" else 0.01
    run = train(
        TAPPED if how == "tapped" else THREE,
        multitask={
            "sharing": sharing,
            "soft_sharing_towers": structure,
            "soft_sharing_heads": 0.01,
            "weighting": "pcgrad",
        },
        phases=[{"unfreeze": "layer3", "steps": 2, "lr": 1e-2}],
        train={"activation_checkpointing": True, "cache": "off", "ema": 0.9, "accumulate": 2, "batch_size": 2},
    )
    recipe = open_run(run).recipe
    again = new_model(recipe, manifest_of(recipe)).eval()
    again.load_state_dict(weights(run, "best"))
    clips = torch.randint(0, 256, (2, 1, 4, 3, 32, 32), dtype=torch.uint8)
    told, other = (predict_batch(model, clips, precision="fp32") for model in (ft.load(run), again))
    assert list(told) == list(recipe.tasks)
    assert all(torch.equal(told[name], other[name]) for name in told)


@pytest.mark.slow
def test_a_single_task_learns_as_a_recipe_without_tasks(data, train, tmp_path):
    """The rows without the class are left out, which only a recipe with tasks can do."""
    labelled = tmp_path / "labelled.csv"
    lines = data.read_text().splitlines()
    labelled.write_text(
        "\n".join(
            line.replace(line.split(",")[0], str(data.parent / line.split(",")[0])) if n else line
            for n, line in enumerate(lines)
            if line.split(",")[1]
        )
    )
    phases = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}, {"unfreeze": "layer4", "epochs": 1, "lr": 1e-3}]
    settings = {"csv": labelled, "phases": phases, "model": {"dropout": 0.2}, "train": {"batch_size": 3}}
    settings["train"] |= {"head_start": "random"}  # as with tasks
    one = train({"label": {"kind": "classify", "columns": "label"}}, multitask={"normalize_losses": "none"}, **settings)
    other = train({}, **settings)
    for ours, theirs in zip(records(one), records(other), strict=True):
        for key in ("train_loss", "train_top1", "val_loss", "val_top1"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-6), key
    assert all(torch.allclose(value, weights(other)[name], atol=1e-6) for name, value in weights(one).items())


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "famo", "gradnorm", "dwa", "pcgrad"])
def test_stopped_inside_an_epoch_a_run_goes_on_bit_for_bit(train, tmp_path, signal_at, weighting):
    settings = {
        "tasks": TAPPED,
        "multitask": {"weighting": weighting, "normalize_losses": "running"},
        "phases": [{"unfreeze": "layer3", "epochs": 3, "lr": 1e-3}],
        "train": {"batch_size": 2, "accumulate": 2, "cache": "off"},
        "model": {"dropout": 0.3},
    }
    whole = train(**settings)
    signal_at(5)
    with pytest.raises(KeyboardInterrupt):
        train(**settings, out=tmp_path / "stopped")
    meta = json.loads((tmp_path / "stopped/checkpoints/last/meta.json").read_text())
    assert meta == {"epoch": 2, "batches": 1}
    ft.resume(tmp_path / "stopped", quiet=True)
    assert_same(tmp_path / "stopped", whole)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["hard", "cross_stitch"])
def test_what_is_kept_is_what_is_computed_with_what_tasks_read_of_stages(train, tmp_path, monkeypatch, sharing):
    """Where boxes were drawn is found out by the thread that learns: it seeds the generator that others draw from."""
    asked, target = set(), ClipDataset.target

    def noted(dataset, *key):
        asked.update([current_thread()] if dataset.layout is not None else [])
        return target(dataset, *key)

    monkeypatch.setattr(ClipDataset, "target", noted)
    phases = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}, {"unfreeze": "layer4", "epochs": 2, "lr": 1e-3}]
    runs = [
        train(
            TAPPED | {"track": TASKS["track"]},
            multitask={"sharing": sharing, "weighting": "gradnorm"},
            phases=phases,
            augment={"preset": "light", "flip": True, "cached_views": 2},
            train={"cache": cache, "cache_dir": tmp_path / "kept", "save_every_minutes": 60},
        )
        for cache in ("off", "boundary")
    ]
    kept = [json.loads(line)["cache"] for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert [(each["entry"], each["kept"]) for each in kept] == [("features", True), *2 * [("layer4", True)]]
    assert_same(*runs)
    assert asked == {main_thread()}


CLASSES = {"way": TASKS["way"], "kind": {"kind": "classify", "columns": "size"}}


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_classes_of_two_tasks_are_blended(train, how):
    (record,) = records(train(CLASSES, augment=how))
    assert record["tasks"]["way"]["train_loss"] > 0 and record["tasks"]["kind"]["train_loss"] > 0


@pytest.mark.slow
def test_what_cannot_be_blended_or_drawn_is_refused_in_words(train):
    with pytest.raises(
        RecipeError, match="mixup and cutmix blend two clips, but the labels of box, shade cannot be blended"
    ):
        train(augment={"mixup": 0.2})
    with pytest.raises(
        RecipeError, match=r"cannot be applied to boxes, motion and masks; set augment.auto_augment=none"
    ):
        train(augment={"preset": "strong"})
    train(augment={"preset": "strong", "auto_augment": "none"}, phases=TWO_STEPS)


@pytest.mark.slow
def test_a_sampler_shows_the_labels_of_all_tasks_equally_often(train):
    (record,) = records(train(train={"sampler": "by_task"}))
    assert all(task["train_loss"] > 0 for task in record["tasks"].values())


@pytest.mark.slow
def test_a_phase_ends_when_the_mean_over_tasks_gets_no_better(train):
    stopping = {"early_stopping": {"patience": 1, "metric": "val_score", "min_delta": 10.0}}
    found = records(train(phases=[{"unfreeze": "head", "epochs": 4}], train=stopping))
    assert len(found) == 2


@pytest.mark.slow
def test_trials_forecasts_and_what_is_left_to_the_machine_know_several_tasks(data, train):
    recipe = recipe_of(data, TAPPED, multitask={"weighting": "pcgrad"}, phases=[{"unfreeze": "layer4", "epochs": 1}])
    manifest = manifest_of(recipe)
    (phase,) = estimate_phases(new_model(recipe, manifest), manifest, recipe)
    assert phase.steps == 2 and phase.seconds > 0
    found = find_lr(recipe, manifest, steps=4)
    assert len(found.losses) == 4 and all(np.isfinite(found.losses))
    run = train(TAPPED, phases=TWO_STEPS, train={"batch_size": "auto", "compile": "auto"})
    decided = json.loads((run / "environment.json").read_text())["decided"]
    assert decided["batch_size"]["clips"] == 8 and decided["compile"]["pays"] is False


@pytest.mark.slow
def test_files_that_cannot_be_read_are_left_out_and_listed(train, tmp_path):
    csv = draw_clips(tmp_path)
    for name in ("train0.mp4", "val1.mp4", "test2.mp4"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match="3 of 16 files cannot be read"):
        train(csv=csv)
    run = train(csv=csv, data={"on_error": "skip"})
    assert len(json.loads((run / "skipped.json").read_text())) == 3
    results = ft.evaluate(run)
    assert [task["num_rows"] for task in results["tasks"].values() if "num_rows" in task] == [3, 3]
    assert results["num_rows"] == 3 and len(results["skipped"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["box", "track", "shade"])
def test_a_run_whose_only_task_gives_numbers_is_trained_scored_and_reported(train, task):
    run = train((task,))
    (record,) = records(run)
    assert record["train_top1"] is None and record["val_top1"] is None and record["val_score"] is not None
    results = ft.evaluate(run)
    assert list(results["tasks"]) == [task] and results["num_rows"] == 4
    assert (run / f"evaluation/predictions-{task}.csv").is_file()
    assert task in write_report(run).read_text(encoding="utf-8")
