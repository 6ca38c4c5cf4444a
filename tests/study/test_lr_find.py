"""The range test tells a rate at which a model learns from one that does nothing, and from one that breaks it."""

import json

import numpy as np
import pytest
from grey import TINY

import finetune as ft
from finetune.errors import RecipeError
from finetune.study.lr_find import analyze_losses, find_lr, has_exploded, running_mean
from finetune.train.from_recipe import train_from_recipe

RECIPE = ft.Recipe(
    clip=ft.Clip(num_frames=2, size=32),
    model=ft.Model(backbone=TINY, weights="none"),
    phases=(ft.Phase(unfreeze="head"), ft.Phase(unfreeze="all", backbone_lr_scale=0.1)),
    train=ft.Train(batch_size=4),
    data=ft.Data(workers=0),
)


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def test_the_steepest_fall_is_before_the_lowest_loss_and_that_before_the_explosion():
    rates = np.logspace(-6, 0, 100)
    exponents = np.log10(rates)
    losses = 2 - 1.5 / (1 + np.exp(-4 * (exponents + 3))) + np.exp(6 * (exponents + 0.8))  # falls at 1e-3, rises at 0.1
    test = analyze_losses(rates.tolist(), losses.tolist())
    assert 10**-3.2 < test.steepest < 10**-2.3
    assert 10**-2.3 < test.lowest < 10**-0.9
    assert has_exploded([2.0] * 5 + [50.0])
    assert not has_exploded([2.0] * 5 + [3.0])


def test_a_running_mean_of_one_value_is_that_value():
    assert running_mean([3.0] * 5) == pytest.approx([3.0] * 5)


def test_where_no_rate_helps_none_is_named():
    test = analyze_losses([1e-3, 1e-2, 1e-1], [1.0, 1.0, 1.0])
    assert (test.lowest, test.steepest) == (None, None)


@pytest.mark.slow
def test_a_real_model_has_a_rate_and_is_stopped_when_it_breaks(manifest):
    # A probe separates these clips, and no rate makes its loss explode.
    recipe = RECIPE.model_copy(update={"train": ft.Train(batch_size=4, head_start="random")})
    test = find_lr(recipe, manifest, lr_range=(1e-5, 1e3), steps=80)
    assert test.steepest is not None
    assert 1e-5 < test.steepest < test.lowest < 100
    assert len(test.rates) < 80
    assert test == find_lr(recipe, manifest, lr_range=(1e-5, 1e3), steps=80)


@pytest.mark.parametrize("phase", ["head", "layer4", "lora(r=2)"])
def test_its_losses_are_those_of_training(manifest, tmp_path, phase):
    """To the last digit, at the same rate on the same batches; one step an epoch, so that each loss is recorded."""
    settings = {"clip_grad": 0.05, "l2_sp": 0.1, "ema": 0.9, "precision": "fp32", "accumulate": 2, "batch_size": 4}
    recipe = RECIPE.model_copy(
        update={
            "phases": (ft.Phase(unfreeze=phase, epochs=5, lr=3e-3, schedule="constant", warmup=0.0),),
            "train": ft.Train(**settings),
            "augment": ft.Augment(mixup=0.4),
        }
    )
    run = train_from_recipe(recipe, manifest, out=tmp_path / "run")
    recorded = [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    test = find_lr(recipe, manifest, lr_range=(3e-3, 3e-3), steps=5)
    assert list(test.losses) == recorded
    without = recipe.model_copy(update={"train": ft.Train(**settings | {"clip_grad": None, "l2_sp": 0.0})})
    assert list(find_lr(without, manifest, lr_range=(3e-3, 3e-3), steps=5).losses) != recorded


def test_a_phase_that_is_not_there_is_said(manifest):
    with pytest.raises(RecipeError, match="there is no phases.2; this recipe has 2, counted from 0"):
        find_lr(RECIPE, manifest, phase=2)


@pytest.mark.slow
def test_of_a_schedule_by_name_the_rate_is_that_of_the_schedule(clip_folder, tmp_path, finetune, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey.yaml").write_text(
        f"data: {{folder: {clip_folder}, workers: 0}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: none}}\nphases: lp_ft\ntrain: {{batch_size: 4}}\n"
    )
    status, out, err = finetune("lr-find", "grey.yaml", "phases.epochs=4", "--low", "1e-5", "--high", "1e2")
    assert status == 0, err
    assert "In the recipe: phases.lr=" in out
    assert finetune("train", "grey.yaml", "phases.epochs=4", "phases.lr=1e-2", "--out", "run")[0] == 0


@pytest.mark.slow
def test_the_command_draws_it_and_keeps_no_run(clip_folder, tmp_path, finetune, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey.yaml").write_text(
        f"data: {{folder: {clip_folder}, workers: 0}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: none}}\nphases: [{{unfreeze: head}}]\ntrain: {{batch_size: 4}}\n"
    )
    status, out, err = finetune("lr-find", "grey.yaml", "--low", "1e-5", "--high", "1e2", "--steps", "60")
    assert status == 0, err
    assert "In the recipe: phases.0.lr=" in out
    assert out.splitlines()[-1] == "plot runs/grey-phase-0-rates.svg"
    assert "steepest descent" in (tmp_path / "runs/grey-phase-0-rates.svg").read_text()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["grey-phase-0-rates.svg"]
    assert finetune("lr-find", "grey.yaml", "--low", "1")[0] == 2
