import pytest

import finetune as ft

WRONG = {
    "a key with a spelling mistake": (lambda: ft.Phase(unfreez="head"), r"Phase: unknown key 'unfreez' \(nearest: unf"),
    "a key of another section": (lambda: ft.Train(epochs=3), r"Train: unknown key 'epochs' \(there are batch_size, "),
    "no name": (lambda: ft.Phase("head"), r"Phase takes its settings by name, for example Phase\(unfreeze=…\)"),
    "a word": (lambda: ft.Clip(sampling="segment"), r"Clip: sampling is 'segment': should be .*\(nearest: segments\)"),
    "a number": (lambda: ft.Phase(epochs=0), "Phase: epochs is 0: should be greater than or equal to 1$"),
    "a text for a number": (lambda: ft.Phase(epochs="two"), "Phase: epochs is 'two': should be a valid integer$"),
    "keys that exclude each other": (lambda: ft.Phase(epochs=1, steps=3), "Phase: epochs and steps are both set; keep"),
    "a missing key": (lambda: ft.Schedule(epochs=3), "Schedule: schedule is missing$"),
    "another section": (
        lambda: ft.Recipe(train=ft.Clip()),
        "Recipe: train: should be Train or a mapping .*, not Clip$",
    ),
    "a nested key": (
        lambda: ft.Recipe(train={"early_stopping": {"patienc": 3}}),
        r"Recipe: unknown key 'train.early_stopping.patienc' \(nearest: train.early_stopping.patience\)$",
    ),
    "phases that are none": (lambda: ft.Recipe(phases=3), "Recipe: phases is 3: should be a list$"),
    "an invalid phase": (lambda: ft.Recipe(phases=[{"unfreez": 1}]), r"\ARecipe: unknown key 'phases.0.unfreez' .*\Z"),
    "no phase": (lambda: ft.Recipe(phases=[]), "Recipe: phases: needs at least one item$"),
    "a changed value": (lambda: setattr(ft.Phase(), "lr", 1), "Phase: lr cannot be changed; .*model_copy"),
}


@pytest.mark.parametrize("call", WRONG)
def test_wrong_settings_in_python_are_errors_in_words(call):
    wrong, message = WRONG[call]
    with pytest.raises(ft.RecipeError, match=message) as error:
        wrong()
    assert "pydantic" not in str(error.value) and "Input" not in str(error.value)


def test_one_phase_and_the_name_of_a_schedule_are_phases():
    phase = ft.Phase(unfreeze="head", epochs=1)
    assert ft.Recipe(phases=phase).phases == (phase,)
    assert ft.Recipe(phases="lp_ft").phases == ft.Schedule(schedule="lp_ft")


def test_one_override_may_be_given_as_text():
    assert ft.load_recipe("folder", "train.batch_size=3") == ft.load_recipe("folder", ["train.batch_size=3"])


def test_a_section_prints_what_differs_from_its_defaults_and_help_explains_its_keys():
    assert repr(ft.Phase(unfreeze="head", epochs=2)) == "Phase(unfreeze='head', epochs=2)"
    assert "\nlr: peak learning rate of new layers" in ft.Phase.__doc__
