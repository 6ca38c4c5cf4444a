"""Every recipe validates, and runs two steps of each phase on tiny data."""

import json

import pytest
import torch

import finetune as ft
from finetune.model.backbone.known_names import bundled_names, check_name
from finetune.recipe.load import list_recipes, load_recipe

RECIPES = sorted(list_recipes())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole_and_says_what_it_is_for(name):
    recipe = load_recipe(name)
    check_name(recipe.model.backbone)
    if recipe.model.weights == "bundled":
        assert recipe.model.backbone in bundled_names()
    text = list_recipes()[name].read_text()
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert len(comment[0]) > 40
    assert any(f"finetune train {name}" in line for line in comment)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_two_steps_of_each_phase_on_tiny_data(name, clip_folder, tmp_path):
    recipe = load_recipe(name, ["clip.size=64", "clip.num_frames=2", "model.weights=none"])
    manifest = ft.Manifest.from_folder(clip_folder)
    torch.manual_seed(0)
    model = ft.build_model(
        recipe.model.backbone,
        manifest.classes,
        weights="none",
        temporal=recipe.model.temporal,
        dropout=recipe.model.dropout,
        num_frames=2,
        size=64,
    )
    run = ft.fit(
        model,
        manifest,
        [phase.model_copy(update={"epochs": 1}) for phase in recipe.phases],
        clip=recipe.clip,
        augment=recipe.augment,
        train=recipe.train.model_copy(update={"batch_size": 4}),
        out=tmp_path / "run",
        quiet=True,
    )
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == list(range(len(recipe.phases)))
    assert ft.evaluate(run)["num_rows"] == 4
