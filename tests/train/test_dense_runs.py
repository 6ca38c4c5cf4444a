"""Runs of detection, tracking and segmentation: they train alone and beside classes, go on exactly, and load again."""

import json

import pytest
import torch
from framed import CLASSES, draw_labelled_videos, manifest_of_frames, recipe_of_frames
from safetensors.torch import load_file

import finetune as ft
from finetune.errors import RunError
from finetune.export.settings import ExportSettings, check_before_work
from finetune.inference.forward import predict_batch
from finetune.prediction.predict import Predictor
from finetune.run.read import open_run
from finetune.train.from_recipe import new_model, train_from_recipe
from finetune.train.setup.dry_run import estimate_phases

TWO_STEPS = [{"unfreeze": "all", "steps": 2, "lr": 1e-3}]
ALL = ("tracks", "pixels", "label")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_labelled_videos(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    def run(tasks=ALL, *, out="run", **sections):
        recipe = recipe_of_frames(data, tasks, **sections)
        return train_from_recipe(recipe, manifest_of_frames(recipe), out=tmp_path / out)

    return run


def records(run):
    other = {"seconds", "clips_per_second", "cache", "peak_gb"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in other} for line in lines]


def weights(run, which="last"):
    return load_file(run / f"checkpoints/{which}/model.safetensors")


def assert_same(run, other):
    assert records(run) == records(other)
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys() and [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_a_run_of_boxes_alone_trains_and_loads_to_the_same_detections(train, detector):
    run = train({"boxes": {"kind": "detect", "columns": "objects", "detector": detector}}, phases=TWO_STEPS)
    (record,) = records(run)
    assert set(record["tasks"]["boxes"]["train_loss_parts"]) == {"class", "box"}
    assert record["train_top1"] is None and "val_ap" in record["tasks"]["boxes"]
    recipe = open_run(run).recipe
    again = new_model(recipe, manifest_of_frames(recipe)).eval()
    again.load_state_dict(weights(run, "best"))
    clips = torch.randint(0, 256, (2, 1, 3, 3, 64, 64), dtype=torch.uint8)
    loaded, other = (predict_batch(model, clips, precision="fp32")["boxes"] for model in (ft.load(run), again))
    assert loaded.shape == (2, 100, 8)
    torch.testing.assert_close(loaded, other, rtol=0, atol=0, equal_nan=True)  # motion is not known


def test_the_parts_of_the_loss_sum_to_it_with_the_weights_of_the_recipe(train):
    tracks = {"kind": "track", "columns": "objects", "box_weight": 0.5, "class_weight": 0.3, "motion_weight": 0.2}
    (record,) = records(train({"tracks": tracks}, phases=TWO_STEPS, multitask={"normalize_losses": "none"}))
    task = record["tasks"]["tracks"]
    parts = task["train_loss_parts"]
    expected = 0.5 * parts["box"] + 0.3 * parts["class"] + 0.2 * parts["motion"]
    assert min(parts.values()) > 0 and task["train_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm", "pcgrad", "cagrad"])
def test_rules_of_weighting_compare_the_gradients_of_pixels_boxes_and_classes(train, weighting):
    pytest.importorskip("torchjd")
    (record,) = records(train(multitask={"weighting": weighting}, phases=TWO_STEPS))
    assert list(record["weights"]) == list(ALL) and all(weight > 0 for weight in record["weights"].values())
    assert set(record["cosines"]) == {"tracks | pixels", "tracks | label", "pixels | label"}


@pytest.mark.slow
def test_stopped_inside_an_epoch_a_run_goes_on_bit_for_bit(train, tmp_path, signal_at):
    settings = {
        "multitask": {"weighting": "uncertainty", "normalize_losses": "running"},
        "phases": [{"unfreeze": "layer3", "epochs": 2, "lr": 1e-3}],
        "train": {"batch_size": 3, "cache": "off", "ema": 0.9},
    }
    unbroken = train(**settings)
    signal_at(3)
    with pytest.raises(KeyboardInterrupt):
        train(**settings, out="stopped")
    assert_same(ft.resume(tmp_path / "stopped", quiet=True), unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", ["head", "layer4"])
def test_a_run_on_cached_features_is_the_run_without_a_cache(train, tmp_path, unfreeze):
    settings = {"phases": [{"unfreeze": unfreeze, "epochs": 2, "lr": 1e-2}], "augment": {"preset": "none"}}
    cache = {"cache": "boundary", "cache_dtype": "fp32", "cache_dir": str(tmp_path / "cache")}
    cached = train(**settings, train={"optimizer": "sgd"} | cache, out="cached")
    uncached = train(**settings, train={"optimizer": "sgd", "cache": "off"})
    assert json.loads((cached / "metrics.jsonl").read_text().splitlines()[0])["cache"]["kept"]
    for ours, theirs in zip(records(cached), records(uncached), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
    one, two = weights(cached), weights(uncached)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5


@pytest.mark.slow
def test_activation_checkpointing_computes_the_same_run(train):
    plain, checkpointed = (
        train(phases=TWO_STEPS, train={"activation_checkpointing": on}, out=f"run-{on}") for on in (False, True)
    )
    one, two = weights(plain), weights(checkpointed)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6


@pytest.mark.slow
def test_lora_is_merged_into_a_run_with_a_pyramid(train):
    pytest.importorskip("peft")
    run = train(phases=[{"unfreeze": ["lora(r=2)", "pyramid", "head"], "steps": 2, "lr": 1e-3}])
    assert not [name for name in weights(run) if "lora" in name]
    assert predict_batch(ft.load(run), torch.zeros(1, 1, 3, 3, 64, 64, dtype=torch.uint8), precision="fp32")


@pytest.mark.slow
def test_trials_and_automatic_settings_know_positions(data, train):
    recipe = recipe_of_frames(data, ("tracks", "pixels"), train={"batch_size": "auto"}, phases=TWO_STEPS)
    (estimate,) = estimate_phases(new_model(recipe, manifest_of_frames(recipe)), manifest_of_frames(recipe), recipe)
    assert estimate.seconds > 0 and estimate.learns == "stem … head"
    run = train(("tracks", "pixels"), train={"batch_size": "auto"}, phases=TWO_STEPS)
    assert records(run)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["head_only", "lp_ft", "gradual", "surgical:layer3", "bitfit"])
def test_schedules_train_the_pyramid_with_the_new_parts(train, schedule):
    run = train(("objects",), phases={"schedule": schedule, "epochs": 2, "epochs_per_stage": 1})
    assert all({"pyramid", "head"} <= set(record["learning"]) for record in records(run))


@pytest.mark.slow
def test_what_needs_outputs_of_whole_clips_is_refused_in_words(train, tmp_path):
    run = train(("objects",), phases=TWO_STEPS)
    with pytest.raises(RunError, match="tasks of kind detect, track and segment cannot be exported: objects"):
        check_before_work(open_run(run), ExportSettings(to="torch", out=tmp_path / "exported"))
    model = ft.load(run)
    with pytest.raises(RunError, match="predicts single frames, not clips"):
        Predictor(model, open_run(run).recipe, 1)


def test_a_mask_has_the_classes_of_its_task(train):
    run = train(("pixels",), phases=TWO_STEPS)
    model = ft.load(run)
    masks = predict_batch(model, torch.zeros(1, 1, 3, 3, 64, 64, dtype=torch.uint8), precision="fp32")["pixels"]
    assert masks.shape == (1, 64, 64) and masks.dtype == torch.uint8 and int(masks.max()) < len(CLASSES)
    (record,) = records(run)
    assert 0 <= record["tasks"]["pixels"]["val_miou"] <= 1
