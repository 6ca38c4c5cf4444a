"""What watches over training: steps without a number, phases that get no better, a first loss that is far off."""

import json
from types import SimpleNamespace

import pytest
import torch
from grey import TINY
from safetensors.torch import load_file

import finetune as ft
from finetune.errors import FinetuneError, RecipeError
from finetune.recipe.schema import EarlyStopping
from finetune.train.divergence import hint_at_first_loss, should_stop_early
from finetune.train.loss import objective

HEAD = (ft.Phase(unfreeze="head", epochs=2, lr=1e-2),)
ALL = (*HEAD, ft.Phase(unfreeze="all", epochs=2, lr=1e-3))


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


TWO = SimpleNamespace(classes=("a", "b"), multitask_spec=None)


def fit(manifest, out, *, phases=HEAD, **train):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, dropout=0.0)
    settings = {"batch_size": 4, "precision": "fp32", **train}
    return ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=2), train=ft.Train(**settings), out=out, quiet=True)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_parts_of_a_batch_make_the_step_of_the_whole(manifest, tmp_path):
    one = fit(manifest, tmp_path / "one", phases=ALL, batch_size=6)
    parts = fit(manifest, tmp_path / "parts", phases=ALL, batch_size=2, accumulate=3)
    weights = [load_file(run / "checkpoints/last/model.safetensors") for run in (one, parts)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-5
    assert [each["train_loss"] for each in records(one)] == pytest.approx(
        [each["train_loss"] for each in records(parts)], abs=1e-5
    )


def spoil(monkeypatch, steps):
    """Have the loss of some steps be infinite."""
    build, count = objective.build_loss, [0]

    def spoilt(*arguments, **named):
        loss_fn = build(*arguments, **named)

        def loss(logits, targets):
            count[0] += 1
            return loss_fn(logits, targets) * (float("inf") if count[0] in steps else 1.0)

        return loss

    monkeypatch.setattr(objective, "build_loss", spoilt)


def test_as_many_steps_without_a_number_are_left_out_as_allowed(manifest, tmp_path, monkeypatch):
    spoil(monkeypatch, {1, 3})
    run = fit(manifest, tmp_path / "run", max_nan_steps=2)
    assert all(value.isfinite().all() for value in load_file(run / "checkpoints/last/model.safetensors").values())
    state = torch.load(run / "checkpoints/last/state.pt", weights_only=True)
    assert (state["position"]["left_out"], state["position"]["steps"]) == (2, 4)


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_one_more_ends_the_run_before_it_is_learnt_from(manifest, tmp_path, monkeypatch, clip_grad):
    spoil(monkeypatch, {2, 3})
    with pytest.raises(FinetuneError, match=r"(?s)the loss is .*; start another run with a lower lr.*\.mp4"):
        fit(manifest, tmp_path / "run", max_nan_steps=1, clip_grad=clip_grad)
    last = load_file(tmp_path / "run/checkpoints/last/model.safetensors")
    assert all(value.isfinite().all() for value in last.values())


def history(*losses, phase=0):
    return [{"phase": phase, "val_loss": loss, "val_top1": 1 - loss} for loss in losses]


def test_a_phase_has_stalled_after_so_many_epochs_that_are_no_better():
    rule = EarlyStopping(patience=2)
    assert not should_stop_early(history(0.5), 0, rule)
    assert not should_stop_early(history(0.5, 0.6, 0.4, 0.6), 0, rule)
    assert should_stop_early(history(0.5, 0.4, 0.4, 0.6), 0, rule)
    assert not should_stop_early(history(0.5, 0.4, 0.4, 0.6), 1, rule)
    assert not should_stop_early(history(0.5, 0.4, 0.4, 0.6), 0, None)
    assert should_stop_early(history(0.5, 0.49, 0.48), 0, EarlyStopping(patience=2, min_delta=0.1))
    assert should_stop_early(history(0.5, 0.6, 0.6), 0, EarlyStopping(patience=2, metric="val_top1"))


@pytest.mark.slow
def test_a_phase_that_gets_no_better_ends_and_the_next_begins(manifest, tmp_path):
    phases = (ft.Phase(unfreeze="head", epochs=9, lr=1e-9), ft.Phase(unfreeze="head", epochs=1, lr=1e-2))
    rule = EarlyStopping(patience=1, metric="val_top1")
    run = fit(manifest, tmp_path / "run", phases=phases, early_stopping=rule)
    assert [each["phase"] for each in records(run)] == [0, 0, 1]


def test_without_clips_to_look_at_it_is_refused(manifest, tmp_path):
    with pytest.raises(RecipeError, match="train.early_stopping needs the split val, which has no rows"):
        fit(manifest.without(manifest.rows("val")), tmp_path / "run", early_stopping=EarlyStopping())


def test_a_first_loss_far_above_guessing_is_hinted_at():
    assert hint_at_first_loss(1.1, TWO, "cross_entropy") is None
    assert hint_at_first_loss(9.0, TWO, "bce") is None
    assert "the first loss is 9.00, but guessing among 2 classes gives 0.69" in hint_at_first_loss(
        9.0, TWO, "cross_entropy"
    )
