"""Which settings differ from the defaults, of recipes good and bad."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.recipe.schema import Phase, Recipe
from finetune.report.run.changed_settings import ChangedSetting, recipe_changes


def test_changed_settings_are_listed_with_both_values_in_the_order_of_the_recipe():
    recipe = """
seed: 3
model: {backbone: resnet18.a1_in1k, temporal: mean}
clip: {num_frames: 8, fps: 12.5}
phases: [{unfreeze: head, epochs: 2, lr: 0.001}, {unfreeze: all, lr: 0.01}]
"""
    assert recipe_changes(recipe) == [
        ChangedSetting("seed", "3", "0"),
        ChangedSetting("model.backbone", "resnet18.a1_in1k", Recipe().model.backbone),
        ChangedSetting("clip.fps", "12.5", "null"),
        ChangedSetting("phases.0.unfreeze", "head", "none"),
        ChangedSetting("phases.0.epochs", "2", "null"),
        ChangedSetting("phases.1.unfreeze", "all", "none"),
        ChangedSetting("phases.1.lr", "0.01", str(Phase(unfreeze="head").lr)),
    ]


def test_the_defaults_written_out_change_nothing():
    written = yaml.safe_dump(Recipe().model_dump(mode="json", exclude={"phases"}))
    assert recipe_changes(written) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "text", "- a", "a: [", "a: ${", "null", "\x00", "phases: 3", "phases: [1]", "phases: lp_ft"),
        *("a: &x [*x]", "a: !!python/object/apply:os.system [true]"),
    ],
)
def test_a_text_that_is_no_recipe_has_no_changed_settings(text):
    assert recipe_changes(text) == []


def test_unknown_settings_are_listed_and_no_reference_is_resolved():
    recipe = "a: !!binary aGk=\nb: ${oc.env:HOME}\nmodel: 5\ntrain: null\n"
    values = {change.key: change.value for change in recipe_changes(recipe)}
    assert values == {"a": "\"b'hi'\"", "b": "${oc.env:HOME}", "model": "5", "train": "null"}


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:{}[]-!&*\"'|>\n 1.#?%@`$,", max_size=30))
def test_no_text_makes_it_fail(text):
    assert all(isinstance(part, str) for change in recipe_changes(text) for part in change)
