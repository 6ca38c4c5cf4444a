"""Cached features give exactly the losses and weights of features that are computed anew."""

import json
from itertools import count

import pytest
import torch
from contract import slowly
from grey import TINY

import finetune as ft
from finetune.model.temporal_pooling import POOLINGS

LEARNING = ft.Phase(unfreeze="head", epochs=3, lr=1e-2)
numbers = count()


@pytest.fixture
def train(clip_folder, tmp_path):
    """A run on the clip folder: (records, weights, model)."""

    def run(cache, *, backbone=TINY, temporal="concat", phases=(), views=2, size=32, num_frames=2, resume=(), **more):
        manifest = ft.Manifest.from_folder(clip_folder)
        torch.manual_seed(0)
        model = ft.build_model(
            backbone, manifest.classes, weights="none", temporal=temporal, num_frames=num_frames, size=size
        )
        settings = {"batch_size": 3, "precision": "fp32", "cache": cache, "cache_dir": tmp_path / "kept"}
        augment = ft.Augment(cached_views=views, **more.pop("augment", {}))
        out = tmp_path / f"run-{next(numbers)}"
        arguments = {"clip": ft.Clip(num_frames=num_frames), "augment": augment, "out": out, "quiet": True}
        evaluate = more.pop("evaluate", ft.Evaluate())
        ft.fit(model, manifest, phases or [LEARNING], **arguments, evaluate=evaluate, train=ft.Train(**settings | more))
        return records(out), weights(model), out

    return run


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    ours, theirs = (
        [(each["train_loss"], each["train_top1"], each["val_loss"], each["val_top1"]) for each in run[0]]
        for run in (one, other)
    )
    return ours == theirs and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def entries(run):
    return [(each["cache"]["entry"], each["cache"]["kept"]) if "cache" in each else None for each in run[0]]


FAMILIES = [
    (TINY, "layer4", 32, "layer4"),
    ("convnext_atto", "stages.3", 32, "stages.3"),
    ("mobilenetv3_small_050", "blocks.4", 32, "blocks.4"),
    ("vit_tiny_patch16_224", "blocks.11", 32, "blocks.11"),
]
MORE = [
    ("efficientnet_b0", "blocks.6", 32, "blocks.6"),
    ("regnety_002", "s4", 32, "s4"),
    ("swin_tiny_patch4_window7_224", "layers.3", 56, "layers.3"),
    ("torchvision/r3d_18", "layer4", 32, "layer4"),
    ("torchvision/swin_t", "features.7", 32, "features.7"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "stage", "size", "entry"), [*FAMILIES, *slowly(MORE)])
def test_of_each_family_of_backbones(train, backbone, stage, size, entry):
    phases = [ft.Phase(unfreeze="head", epochs=1, lr=1e-2), ft.Phase(unfreeze=stage, epochs=2, lr=1e-3)]
    settings = {"backbone": backbone, "phases": phases, "size": size}
    computed, kept = train("off", **settings), train("boundary", **settings)
    assert entries(kept) == [("features", True), *2 * [(entry, True)]] and entries(computed) == [None] * 3
    assert same(computed, kept)


@pytest.mark.slow
@pytest.mark.parametrize("temporal", POOLINGS)
def test_of_each_kind_of_temporal_pooling(train, temporal):
    computed, kept = (train(cache, temporal=temporal, num_frames=4) for cache in ("off", "features"))
    assert entries(kept) == 3 * [("features", True)]
    assert same(computed, kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"augment": {"mixup": 0.4}},
        {"augment": {"preset": "strong", "speed": (0.8, 1.25)}, "views": 3},
        {"accumulate": 2, "ema": 0.9, "sampler": "balanced"},
        {"evaluate": ft.Evaluate(views=2)},
        {"cache_dtype": "fp32"},
        {"cache_dtype": "bf16", "label_smoothing": 0.1},
        {"activation_checkpointing": True},
    ],
    ids=str,
)
def test_whatever_else_the_recipe_says(train, settings):
    phases = [ft.Phase(unfreeze="layer3", epochs=3, lr=1e-3, batch_norm="train"), ft.Phase(unfreeze="all", epochs=1)]
    computed, kept = (train(cache, phases=phases, **settings) for cache in ("off", "boundary"))
    assert entries(kept) == [*3 * [("layer3", True)], None]
    assert same(computed, kept)


@pytest.mark.slow
def test_what_auto_decides_changes_nothing(train):
    phases = [ft.Phase(unfreeze="head", epochs=2), ft.Phase(unfreeze="layer4", epochs=1)]
    auto, kept = (train(cache, phases=phases, views=None) for cache in ("auto", "boundary"))
    assert entries(auto) == [("features", False), ("features", False), ("layer4", False)]
    assert "recomputing frozen features in each epoch is faster" in auto[0][0]["cache"]["words"]
    assert same(auto, kept)


def test_in_lower_precision_within_its_rounding(train):
    settings = {"precision": "bf16", "phases": [ft.Phase(unfreeze="layer4", epochs=2, lr=1e-3)]}
    computed, kept = (train(cache, **settings) for cache in ("off", "boundary"))
    for one, other in zip(computed[0], kept[0], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=2e-2, abs=2e-2)
    assert kept[0][0]["cache"]["kept_as"] == "bf16"


def test_kept_features_are_rounded_by_no_more_than_their_type_does(train):
    rounded, exact = train("features"), train("features", cache_dtype="fp32")
    for one, other in zip(rounded[0], exact[0], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-2, abs=1e-3)


def test_features_alone_leaves_other_phases_as_they_were(train):
    phases = [ft.Phase(unfreeze="head", epochs=1), ft.Phase(unfreeze="layer4", epochs=1)]
    assert entries(train("features", phases=phases)) == [("features", True), None]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(train, signal_at):
    phases = [ft.Phase(unfreeze="head", epochs=2, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=3, lr=1e-3)]
    whole = train("boundary", phases=phases)
    signal_at(11)  # in the second phase: there are three steps an epoch
    with pytest.raises(KeyboardInterrupt):
        train("boundary", phases=phases)
    out = whole[2].with_name(f"run-{next(numbers) - 1}")
    assert len(records(out)) == 3
    ft.resume(out, quiet=True)
    assert same(whole, (records(out), weights(ft.load(out))))


@pytest.mark.slow
def test_a_run_goes_on_when_what_was_kept_has_gone(train, signal_at, tmp_path):
    phases = [ft.Phase(unfreeze="layer4", epochs=3, lr=1e-3)]
    whole = train("boundary", phases=phases)
    signal_at(5)
    with pytest.raises(KeyboardInterrupt):
        train("boundary", phases=phases)
    out = whole[2].with_name(f"run-{next(numbers) - 1}")
    for shard in tmp_path.glob("kept/*/*.shard"):
        shard.unlink()
    ft.resume(out, quiet=True)
    assert same(whole, (records(out), weights(ft.load(out))))


def test_later_runs_and_other_seeds_compute_nothing_anew(train):
    first = train("boundary")
    again = train("boundary", loss="focal")
    assert first[0][0]["cache"]["rows"] == 12 and again[0][0]["cache"]["rows"] == 0
    assert "all were in the cache already" in again[0][0]["cache"]["words"]
