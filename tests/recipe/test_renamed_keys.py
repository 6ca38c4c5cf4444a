"""Old names of recipe keys work for one version: in files, overrides and Python, with a warning; in runs, without."""

import sys
import warnings
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import finetune as ft
from finetune.cli.main import main
from finetune.errors import RecipeError
from finetune.recipe.load import check_saved_recipe, known_keys, load_recipe, save_recipe
from finetune.recipe.renamed_keys import RENAMED_KEYS, RenamedKeyWarning, rename_recipe_keys
from finetune.recipe.schema import Phase, Recipe, Schedule
from finetune.recipe.tasks import Task
from finetune.run.read import read_recipe

OLD = """\
clip: {num_frames: 4, short: loop}
augment: {color: 0.1, auto: none, erase: 0.2, views: 2}
tasks: {box: {kind: box, at: layer2, space: mean}, way: {kind: classify, columns: label}}
multitask: {divide_by: running, relation: 0.1, sharing: towers, structure: 0.2}
phases:
  - {train: head, epochs: 2, carry: false}
  - {train: all, anchor: 0.01}
data: {time_limit: 7}
train: {anchor: 0.1, recalibrate: true, skip_nan: 3, keep: 2, checkpointing: true}
"""
END = "the old name works in this version only"


@pytest.fixture
def old_file(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD)
    return tmp_path / "old.yaml"


def check_values(recipe):
    assert (recipe.clip.short_clips, recipe.data.decode_timeout) == ("loop", 7)
    augment, box, first, last = recipe.augment, recipe.tasks["box"], *recipe.phases
    assert (augment.color_jitter, augment.auto_augment, augment.random_erasing, augment.cached_views) == (
        *(0.1, "none", 0.2, 2),
    )
    assert (box.feature_stage, box.spatial_pooling) == ("layer2", "mean")
    together = recipe.multitask
    assert (together.normalize_losses, together.soft_sharing_heads, together.soft_sharing_towers) == (
        *("running", 0.1, 0.2),
    )
    assert (first.unfreeze, first.keep_optimizer_state) == ("head", False)
    assert (last.unfreeze, last.keep_optimizer_state, last.l2_sp) == ("all", True, 0.01)
    train = recipe.train
    assert (train.l2_sp, train.precise_bn, train.max_nan_steps) == (0.1, True, 3)
    assert (train.keep_checkpoints, train.activation_checkpointing) == (2, True)


def test_every_new_name_is_a_key_and_no_old_name_is():
    keys = {key.replace("<name>.", "") for key in known_keys()}
    for section, names in RENAMED_KEYS.items():
        for old, new in names.items():
            assert f"{section}.{new}" in keys and f"{section}.{old}" not in keys


def test_old_keys_of_a_file_are_read_with_one_warning_each(old_file):
    with pytest.warns(RenamedKeyWarning) as caught:
        check_values(load_recipe(str(old_file)))
    texts = [str(warning.message) for warning in caught]
    assert f"{old_file}: phases.1.train is now called phases.1.unfreeze; {END}" in texts
    assert f"{old_file}: tasks.box.at is now called tasks.box.feature_stage; {END}" in texts
    assert len(texts) == len(set(texts)) == 20


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("clip.short=error", lambda recipe: recipe.clip.short_clips, "error"),
        ("phases[0].train=layer4", lambda recipe: recipe.phases[0].unfreeze, "layer4"),
        ("tasks[box].at=1e3", lambda recipe: recipe.tasks["box"].feature_stage, "1e3"),
        ("phases.0.train=layer4", lambda recipe: recipe.phases[0].unfreeze, "layer4"),
        ("phases.-1.carry=false", lambda recipe: recipe.phases[-1].keep_optimizer_state, False),
        ("tasks.box.at=1e3", lambda recipe: recipe.tasks["box"].feature_stage, "1e3"),
        ("phases=[{train: last(2)}]", lambda recipe: recipe.phases[0].unfreeze, "last(2)"),
    ],
)
def test_an_override_may_have_an_old_key_and_counts_over_the_file(old_file, override, read, value):
    new_file = old_file.with_name("new.yaml")
    new_file.write_text(OmegaConf.to_yaml(rename_recipe_keys(OmegaConf.to_container(OmegaConf.create(OLD)))[0]))
    with pytest.warns(RenamedKeyWarning, match="is now called"):
        assert read(load_recipe(str(new_file), [override])) == value


def test_an_override_of_a_schedule_may_have_an_old_key(tmp_path):
    (tmp_path / "r.yaml").write_text("phases: gradual\n")
    with pytest.warns(RenamedKeyWarning, match="phases.every is now called phases.epochs_per_stage"):
        assert load_recipe(str(tmp_path / "r.yaml"), ["phases.every=3"]).phases.epochs_per_stage == 3


def test_text_under_an_old_key_needs_no_quotes(tmp_path):
    (tmp_path / "r.yaml").write_text("tasks: {it: {kind: classify, at: 10}}\n")
    with pytest.warns(RenamedKeyWarning):
        assert load_recipe(str(tmp_path / "r.yaml")).tasks["it"].feature_stage == "10"


def test_python_takes_old_keys_and_the_warning_points_at_the_caller():
    with pytest.warns(DeprecationWarning, match="Phase: train is now called unfreeze; ") as caught:
        assert ft.Phase(train="head") == Phase(unfreeze="head")
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="Train: recalibrate is now called precise_bn"):
        assert ft.Train(recalibrate=True).precise_bn
    with pytest.warns(DeprecationWarning, match="Schedule: every is now called epochs_per_stage"):
        assert Schedule(schedule="gradual", every=4).epochs_per_stage == 4
    with pytest.warns(DeprecationWarning, match="Task: at is now called feature_stage"):
        assert Task(kind="box", at="layer1").feature_stage == "layer1"


def test_an_old_key_beside_its_new_one_is_an_error_in_words(old_file, tmp_path):
    both = tmp_path / "both.yaml"
    both.write_text("phases: [{train: head, unfreeze: all}]\n")
    with pytest.raises(RecipeError, match=r"both.yaml: phases.0: train is the old name of unfreeze, and both are set"):
        load_recipe(str(both))
    with pytest.raises(
        RecipeError, match=r"^clip.short is the old name of clip.short_clips, and both are set; keep clip"
    ):
        load_recipe("folder", ["clip.short=loop", "clip.short_clips=error"])
    with pytest.raises(RecipeError, match=r"^phases.0.train is the old name of phases.0.unfreeze, and both are set"):
        load_recipe("folder", ["phases[0].train=head", "phases.0.unfreeze=all"])
    with pytest.raises(RecipeError, match="anchor is the old name of l2_sp, and both are set; keep l2_sp"):
        ft.Train(l2_sp=0.1, anchor=0.1)


def test_the_recipe_of_an_older_run_is_read_without_a_warning_and_equals_the_new_one(old_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(OLD)
    (run / "classes.json").write_text("[]")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        older = load_recipe(str(run / "recipe.yaml"))
        assert read_recipe(run)["phases"][1] == {"unfreeze": "all", "l2_sp": 0.01}
        assert check_saved_recipe(OmegaConf.to_container(OmegaConf.create(OLD)), where="state") == older
    check_values(older)
    save_recipe(older, tmp_path / "again.yaml")
    assert load_recipe(str(tmp_path / "again.yaml")) == older


@pytest.mark.parametrize(
    "recipe", [{"phases": 3}, {"phases": [1, None]}, {"tasks": []}, {"train": "x"}, {"clip": None}]
)
def test_a_recipe_of_any_other_shape_is_left_as_it_is(recipe):
    assert rename_recipe_keys(recipe) == (recipe, {})


def test_a_recipe_is_not_changed_in_place():
    before = {"phases": [{"train": "head"}], "tasks": {"it": {"at": "stem"}}}
    renamed, _ = rename_recipe_keys(before)
    assert before == {"phases": [{"train": "head"}], "tasks": {"it": {"at": "stem"}}}
    assert renamed == {"phases": [{"unfreeze": "head"}], "tasks": {"it": {"feature_stage": "stem"}}}


def test_on_the_command_line_the_warning_is_one_plain_line(old_file, capsys, monkeypatch):
    old_file.write_text("phases: [{train: head}]\n")
    monkeypatch.setattr(sys, "argv", ["finetune", "recipes", "validate", str(old_file), "clip.short=loop"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().err.splitlines() == [
        f"finetune: {old_file}: phases.0.train is now called phases.0.unfreeze; {END}",
        f"finetune: clip.short is now called clip.short_clips; {END}",
    ]


def test_recipes_that_come_with_the_package_have_no_old_keys():
    for path in (Path(ft.__file__).parent.parent / "recipes").glob("*.yaml"):
        assert isinstance(load_recipe(str(path)), Recipe)  # a warning is an error here
