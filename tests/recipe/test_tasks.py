"""The section `tasks` of a recipe: what of it goes together, and what is said where it does not."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import RecipeError, RunError
from finetune.recipe.load import check_recipe, known_keys, load_recipe, save_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import (
    ALLOWED_LOSSES,
    CATEGORICAL_KINDS,
    DEFAULT_COLUMNS,
    DEFAULT_LOSS,
    DENSE_KINDS,
    Multitask,
    MultitaskSpec,
    Task,
    TaskKind,
    primary_task,
    require_classes,
)

WHOLE = """tasks:
  action: {kind: classify, columns: label}
  box: {kind: box, columns: [left, top, wide, high], feature_stage: blocks.4}
  motion: {kind: motion}
  skill: {kind: ordinal, levels: [poor, fair, good]}
multitask: {weighting: pcgrad}
"""
KINDS = get_args(TaskKind)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(WHOLE)
    return str(path)


def refusal(tasks, **multitask):
    with pytest.raises(RecipeError) as error:
        check_recipe({"tasks": tasks, "multitask": multitask}, where="it")
    return [line.removeprefix("it: ") for line in str(error.value).splitlines()]


def test_tasks_keep_their_order_and_know_their_columns(recipe_file):
    tasks = load_recipe(recipe_file).tasks
    assert {name: task.columns_of(name) for name, task in tasks.items()} == {
        "action": ("label",),
        "box": ("left", "top", "wide", "high"),
        "motion": ("dx", "dy"),
        "skill": ("skill",),
    }
    assert list(tasks) == ["action", "box", "motion", "skill"]


def test_a_saved_recipe_of_tasks_reads_back_equal(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file)
    save_recipe(recipe, tmp_path / "saved.yaml")
    again = load_recipe(str(tmp_path / "saved.yaml"))
    assert again == recipe and list(again.tasks) == list(recipe.tasks)


def test_an_override_reaches_into_a_task_and_may_add_one(recipe_file):
    changes = [
        "tasks.box.weight=0.5",
        "tasks.box.columns=[a,b,c,d]",
        "tasks.pose.kind=classify",
        "tasks.skill.feature_stage=s1",
    ]
    tasks = load_recipe(recipe_file, changes).tasks
    assert (tasks["box"].weight, tasks["box"].columns, tasks["box"].feature_stage) == (
        0.5,
        ("a", "b", "c", "d"),
        "blocks.4",
    )
    assert list(tasks)[-1] == "pose" and tasks["skill"].feature_stage == "s1"


KIND_WORDS = "'classify', 'multilabel', 'ordinal', 'regress', 'box', 'motion', 'detect', 'track' or 'segment'"


def test_what_is_wrong_in_several_tasks_is_said_at_once_with_the_nearest_key():
    wrong = {
        "box": {"kind": "box", "colums": ["x"], "loss": "mse"},
        "track": {"kind": "moton", "weight": 0},
        "kind": {"kind": "classify", "heads": "mlp", "qqq": 1},
    }
    assert refusal(wrong, weigthing="fixed") == [
        "unknown key 'tasks.box.colums' (nearest: tasks.box.columns)",
        "tasks.track.kind is 'moton': should be " + KIND_WORDS + " (nearest: motion)",
        "tasks.track.weight is 0: should be greater than 0",
        "unknown key 'tasks.kind.heads' (nearest: tasks.kind.head)",
        f"unknown key 'tasks.kind.qqq' (there are {', '.join(Task.model_fields)})",
        "unknown key 'multitask.weigthing' (nearest: multitask.weighting)",
    ]


def test_a_key_outside_of_its_task_is_found_there():
    with pytest.raises(RecipeError, match=r"unknown key 'columns' \(nearest: tasks.<name>.columns\)"):
        check_recipe({"columns": ["x"]}, where="it")
    with pytest.raises(RecipeError, match=r"unknown key 'temporal' \(nearest: model.temporal\)"):
        check_recipe({"temporal": "gru"}, where="it")
    with pytest.raises(RecipeError, match=r"unknown key 'task' \(nearest: tasks, multitask\)"):
        check_recipe({"task": {}}, where="it")
    assert {f"tasks.<name>.{key}" for key in Task.model_fields} <= set(known_keys())


def test_a_task_needs_a_kind_and_is_a_mapping():
    assert refusal({"box": {}}) == ["tasks.box.kind is missing"]
    (line,) = refusal({"box": "box"})
    assert line.startswith("tasks.box is 'box': should be Task or a mapping of its keys")


@pytest.mark.parametrize("kind", ["box", "motion"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_kind_with_columns_of_its_own_wants_as_many(kind, count):
    columns = [f"c{number}" for number in range(count)]
    (line,) = refusal({"it": {"kind": kind, "columns": columns}})
    assert (
        line == f"tasks.it: a {kind} has {len(DEFAULT_COLUMNS[kind])} columns, "
        f"{', '.join(DEFAULT_COLUMNS[kind])}, in this order"
    )


@pytest.mark.parametrize("kind", CATEGORICAL_KINDS)
def test_a_kind_that_chooses_among_names_has_one_column(kind):
    (line,) = refusal({"it": {"kind": kind, "columns": ["a", "b"]}})
    assert line == f"tasks.it: columns are a, b; a task of kind {kind} has one column"


def test_numbers_may_have_any_columns_but_each_once():
    assert Task(kind="regress", columns=("a", "b", "c")).columns_of("it") == ("a", "b", "c")
    assert refusal({"it": {"kind": "box", "columns": ["x", "y", "w", "w"]}}) == [
        "tasks.it: columns are x, y, w, w; name each column once"
    ]


def test_each_kind_has_its_own_losses():
    every = sorted({loss for losses in ALLOWED_LOSSES.values() for loss in losses})
    assert set(ALLOWED_LOSSES) == set(KINDS) - set(DENSE_KINDS)
    for kind in ALLOWED_LOSSES:
        assert DEFAULT_LOSS.get(kind, "cross_entropy") in ALLOWED_LOSSES[kind]
        for loss in every:
            if loss in ALLOWED_LOSSES[kind]:
                assert Task(kind=kind, loss=loss).loss == loss
                continue
            (line,) = refusal({"it": {"kind": kind, "loss": loss}})
            allowed = ", ".join(ALLOWED_LOSSES[kind])
            assert line == f"tasks.it: loss {loss} cannot be used with kind {kind}; use one of {allowed}"


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            {"kind": "detect", "loss": "mse", "head": "mlp"},
            "loss, head cannot be set for kind detect, which reads a feature pyramid",
        ),
        ({"kind": "segment"}, "a task of kind segment needs classes, the names of the mask's values 0, 1, 2, …"),
        ({"kind": "detect", "classes": ["a"]}, "a task of kind detect has no classes"),
        ({"kind": "detect", "motion_weight": 2}, "motion_weight is for kind track only"),
        ({"kind": "classify", "detector": "fcos"}, "detector is for kind detect and track only"),
    ],
)
def test_keys_of_detection_and_segmentation_belong_to_their_kinds(task, problem):
    assert refusal({"it": task}) == [f"tasks.it: {problem}"]


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "classify", "levels": ["a", "b"]},
        {"kind": "ordinal", "levels": ["a"]},
        {"kind": "ordinal", "levels": []},
        {"kind": "ordinal", "levels": ["a", "b", "a"]},
    ],
)
def test_levels_are_different_names_of_an_ordinal_task(task):
    assert refusal({"it": task}) == [
        "tasks.it: levels must be two or more different names, and are for kind ordinal only"
    ]


@pytest.mark.parametrize("name", ["a b", "1st", "a.b", "_a", "é", "a-b", ""])
def test_a_task_is_named_by_letters_digits_and_underscores(name):
    (line,) = refusal({name: {"kind": "box"}, "good_1": {"kind": "box"}})
    assert line == f"invalid names of tasks: {name}; use letters, digits and _, starting with a letter"


@pytest.mark.slow
@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_]*", fullmatch=True))
def test_a_key_in_a_task_of_any_good_name_is_placed_there(name):
    assert refusal({name: {"kind": "box", "spatial_poling": 1}}) == [
        f"unknown key 'tasks.{name}.spatial_poling' (nearest: tasks.{name}.spatial_pooling)"
    ]


def test_what_has_no_tasks_has_nothing_to_share():
    with pytest.raises(RecipeError, match="multitask is set, but there are no tasks"):
        check_recipe({"multitask": {"weighting": "dwa"}}, where="it")
    assert Recipe(multitask=Multitask()).tasks == {}


@pytest.mark.parametrize(
    ("task", "multitask"), [({"tower": 1}, {}), ({}, {"soft_sharing_towers": 0.1}), ({"tower": 0}, {"sharing": "hard"})]
)
def test_towers_want_a_sharing_that_has_them(task, multitask):
    (line,) = refusal({"it": {"kind": "box"} | task}, **multitask)
    assert line == "tower and multitask.soft_sharing_towers need multitask.sharing towers or cross_stitch"
    check_recipe({"tasks": {"it": {"kind": "box"} | task}, "multitask": multitask | {"sharing": "towers"}}, where="it")


def test_the_data_are_multilabel_only_without_tasks():
    tasks = {"it": {"kind": "multilabel"}}
    with pytest.raises(RecipeError, match="data.multilabel is for recipes without tasks; give the task kind"):
        check_recipe({"tasks": tasks, "data": {"multilabel": True}}, where="it")


def test_the_first_task_that_chooses_among_names_is_the_primary_one():
    tasks = {"box": Task(kind="box"), "skill": Task(kind="ordinal"), "action": Task(kind="classify")}
    assert primary_task(tasks) == primary_task({name: {"kind": task.kind} for name, task in tasks.items()}) == "skill"
    assert primary_task({"box": Task(kind="box"), "motion": Task(kind="motion")}) == "box"


def test_boxes_and_motion_read_places_and_pool_for_themselves():
    box, motion, action = Task(kind="box"), Task(kind="motion"), Task(kind="classify")
    assert [task.uses_keypoints for task in (box, motion, action)] == [True, True, False]
    assert [task.pooling("gru") for task in (box, motion, action)] == ["middle", "slope", "gru"]
    assert [task.has_own_pooling for task in (box, motion, action)] == [True, True, False]
    assert (
        Task(kind="classify", feature_stage="layer1").has_own_pooling
        and Task(kind="regress", temporal="max").has_own_pooling
    )
    assert not Task(kind="box", spatial_pooling="mean").uses_keypoints


def test_all_tasks_but_the_first_are_in_the_other_tower_unless_they_say():
    tasks = {"a": Task(kind="classify"), "b": Task(kind="box"), "c": Task(kind="box", tower=0)}
    several = MultitaskSpec(tasks, {}, Multitask(sharing="towers"))
    assert [several.tower_index(name) for name in tasks] == [0, 1, 0]
    assert several.uses_shared_pooling and not MultitaskSpec({"b": tasks["b"]}, {}).uses_shared_pooling


def test_what_needs_classes_is_refused_for_a_run_without_in_one_sentence():
    kinds = {"objects": {"kind": "detect"}, "where": {"kind": "box"}}
    said = r"^runs/a: a timeline needs a task with classes; this run has objects \(detect\), where \(box\)$"
    with pytest.raises(RunError, match=said):
        require_classes(kinds, "runs/a", "a timeline")
    with pytest.raises(RunError, match=r"where \(box\); see `finetune runs`$"):
        require_classes(kinds, "runs/a", "a timeline", advice="see `finetune runs`")
    require_classes(kinds | {"action": {"kind": "ordinal"}}, "runs/a", "a timeline")
