import pytest

from finetune.errors import RecipeError
from finetune.recipe.load import known_keys, load_recipe, save_recipe
from finetune.recipe.schema import Clip, Phase, Recipe

WHOLE = """# A comment.
data: {manifest: clips.csv}
clip: {num_frames: 4}
phases:
  - {unfreeze: head, epochs: 2, lr: 1e-2}
  - {unfreeze: [layer3, head], lr: 1e-4}
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(WHOLE)
    return path


def test_a_recipe_is_read_with_its_defaults(recipe_file):
    recipe = load_recipe(str(recipe_file))
    assert recipe.clip == Clip(num_frames=4)
    assert recipe.phases == (
        Phase(unfreeze="head", epochs=2, lr=1e-2),
        Phase(unfreeze=("layer3", "head"), lr=1e-4),
    )


def test_1e_3_is_a_number(recipe_file):
    assert load_recipe(str(recipe_file)).phases[0].lr == 0.01


def test_overrides_reach_sections_lists_and_the_top(recipe_file):
    recipe = load_recipe(str(recipe_file), ["train.batch_size=3", "phases.1.epochs=7", "seed=5", "clip.size=null"])
    assert (recipe.train.batch_size, recipe.phases[1].epochs, recipe.seed, recipe.clip.size) == (3, 7, 5, None)


def test_an_override_may_hold_spaces_and_quotes(recipe_file):
    recipe = load_recipe(str(recipe_file), ["data.manifest=/a b/child's pose.csv"])
    assert str(recipe.data.manifest) == "/a b/child's pose.csv"


def test_a_saved_recipe_reads_back_equal(recipe_file, tmp_path):
    recipe = load_recipe(str(recipe_file), ["model.backbone=resnet18", "phases.0.layer_decay=0.9"])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(str(tmp_path / "saved.yaml")) == recipe


def test_everything_wrong_is_said_at_once_with_the_nearest_key(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "clip: {num_frame: 8, size: big}\nnum_frames: 3\nphases:\n  - {unfreeze: head, epochs: 0}\n"
        "  - {unfreez: layer4, batch_norm: thawed}\ntrain: {precision: fp8}\n"
    )
    with pytest.raises(RecipeError) as error:
        load_recipe(str(path))
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "clip.size is 'big': should be a valid integer",
        "unknown key 'clip.num_frame' (nearest: clip.num_frames)",
        "phases.0.epochs is 0: should be greater than or equal to 1",
        "phases.1.batch_norm is 'thawed': should be 'frozen', 'partial' or 'train'",
        "unknown key 'phases.1.unfreez' (nearest: phases.1.unfreeze)",
        "train.precision is 'fp8': should be 'auto', 'fp32', 'bf16' or 'fp16'",
        "unknown key 'num_frames' (nearest: clip.num_frames)",
    ]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("epochs=3", "phases.0.epochs"),
        ("lr=1e-3", "phases.0.lr"),
        ("train.epochs=3", "phases.0.epochs"),
        ("batch_size=4", "train.batch_size"),
        ("backbone=resnet50", "model.backbone"),
    ],
)
def test_a_key_without_its_section_gets_the_one_key_of_that_name(override, nearest):
    with pytest.raises(RecipeError, match=rf"unknown key '{override.partition('=')[0]}' \(nearest: {nearest}\)"):
        load_recipe("folder", [override])


def test_a_key_of_a_schedule_is_suggested_where_the_recipe_has_one():
    with pytest.raises(RecipeError, match=r"unknown key 'epochs' \(nearest: phases.epochs\)"):
        load_recipe("folder", ["phases=lp_ft", "epochs=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "duplicate key"),
        ("[1, 2]", "a recipe is a mapping"),
        ("a: {b: [", "cannot be read as YAML"),
        ("phases: []", "phases: needs at least one item"),
        ("data: {group_pattern: 'x'}", "needs exactly one"),
        ("data: {group_pattern: '('}", "is not a valid regular expression"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize("override", ["seed", "=3", "phases.9.lr=1", "seed.deep=1"])
def test_an_override_that_fits_nowhere_is_refused(recipe_file, override):
    with pytest.raises(RecipeError):
        load_recipe(str(recipe_file), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases[9].lr=1", "the list has no such item; the first item is 0"),
        ("phases.lr=1", "phases is a list, whose items have numbers; write phases.0 for the first"),
    ],
)
def test_an_override_of_no_item_of_a_list_is_refused_in_plain_words(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(recipe_file), [override])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no recipe 'quickstat' \(nearest: quickstart"):
        load_recipe("quickstat")


def test_every_key_of_a_recipe_says_what_it_is():
    keys = known_keys()
    assert "phases.layer_decay" in keys
    assert "model.temporal" in keys
    assert Recipe().phases[0].unfreeze == "head"
