"""Built-in schedules are lists of phases that can be read, and each names what it says."""

import pytest

from finetune.errors import RecipeError
from finetune.model.freezing.selectors import stages_from
from finetune.recipe.phase_presets import SCHEDULES, resolve_phases
from finetune.recipe.schema import Phase, Recipe, Schedule

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "temporal", "head")


def plan(schedule, **settings):
    return resolve_phases(Schedule(schedule=schedule, **settings), STAGES)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "surgical"] + ["surgical:layer2"])
@pytest.mark.parametrize("epochs", [1, 2, 7, 20])
def test_a_schedule_takes_the_epochs_it_is_given(name, epochs):
    phases = plan(name, epochs=epochs, epochs_per_stage=1)
    least = len(phases)  # a phase has one epoch at least
    assert sum(phase.epochs for phase in phases) == max(epochs, least)
    assert resolve_phases(phases, STAGES) == phases


def test_gradual_unfreezing_adds_one_stage_at_a_time():
    phases = plan("gradual", epochs=3, epochs_per_stage=2)
    learning = [stages_from(STAGES, phase.unfreeze) for phase in phases]
    assert [len(names) for names in learning] == [2, 3, 4, 5, 6, 7]
    assert all(names == list(STAGES[-len(names) :]) for names in learning)
    assert [phase.epochs for phase in phases] == [2] * 6


def test_probing_comes_before_fine_tuning_at_a_low_rate():
    assert plan("lp_ft", epochs=9, lr=1e-2, backbone_lr=1e-5) == (
        Phase(unfreeze="head", epochs=4, lr=1e-2),
        Phase(unfreeze="all", epochs=5, lr=1e-5),
    )


def test_surgery_is_on_the_stage_that_is_named():
    assert plan("surgical:layer2")[1].unfreeze == ("layer2", "temporal", "head")


def test_rates_of_the_backbone_are_those_asked_for():
    (full,) = plan("full", lr=1e-2, backbone_lr=1e-4)
    assert full.lr * full.backbone_lr_scale == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lpft", r"unknown schedule 'lpft' \(nearest: lp_ft.*there are head_only, .*surgical:<stage>"),
        ("surgical", "'surgical': surgical, and no other, takes a stage of the backbone, as surgical:layer4"),
        ("surgical:layer9", r"'surgical:layer9'.*nearest: layer4.*this one has stem, layer1"),
        ("surgical:head", "'surgical:head'"),
        ("full:layer4", "'full:layer4'"),
    ],
)
def test_what_is_no_schedule_is_refused(name, message):
    with pytest.raises(RecipeError, match=message):
        plan(name)


def test_a_recipe_names_a_schedule_in_a_word_or_with_settings():
    assert Recipe(phases="gradual").phases == Schedule(schedule="gradual")
    assert Recipe(phases={"schedule": "gradual", "epochs_per_stage": 3}).phases.epochs_per_stage == 3
