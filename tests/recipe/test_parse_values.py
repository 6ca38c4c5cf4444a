"""Values on the command line and in files: text is what was typed, everything else is YAML."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import RecipeError
from finetune.recipe.load import load_recipe

WHOLE = "data: {folder: clips}\ntasks:\n  it: {kind: ordinal, levels: [low, high]}\n"
TYPED = ["my clips #1", "a: b", "2024", "2024-05-01", "1e3", "0x10", "no", "off", "~x", "- a", "[a]", "{a: b}", "a, b"]
TYPED += [
    "'quoted'",
    '"',
    "${oc.env:HOME}",
    r"a\${b}",
    "${",
    "*all",
    "&a",
    "!tag",
    "%",
    "@",
    "|",
    "बैठना",
    "a=b",
    "  x ",
]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "mine.yaml"
    path.write_text(WHOLE)
    return str(path)


@pytest.mark.parametrize("text", TYPED)
def test_a_folder_on_the_command_line_is_the_text_that_was_typed(recipe_file, text):
    assert load_recipe(recipe_file, [f"data.folder={text}"]).data.folder == Path(text)
    assert load_recipe(recipe_file, [f"model.weights={text}"]).model.weights == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text != "null"))
@settings(max_examples=150, deadline=None)
def test_any_text_for_a_key_that_takes_text_arrives_unchanged(recipe_file, text):
    if not text.startswith("~"):
        assert load_recipe(recipe_file, [f"tasks.it.feature_stage={text}"]).tasks["it"].feature_stage == text


@pytest.mark.parametrize("pattern", ["[^/]+/([^/]+)/", r"^(\d+): #", r"person(\d+)", "(yes|no)", "{(a)}", "- (x)"])
def test_a_pattern_needs_no_quotes_of_yaml(recipe_file, pattern):
    assert load_recipe(recipe_file, [f"data.group_pattern={pattern}"]).data.group_pattern == pattern


def test_a_path_may_begin_with_the_home_folder(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    texts = ["data.folder=~/clips", "data.packed=~/packed", "train.cache_dir=~", "model.weights=~/w.safetensors"]
    recipe = load_recipe(recipe_file, [*texts, "tasks.it.manifest=~/own.csv"])
    assert (recipe.data.folder, recipe.data.packed) == (tmp_path / "clips", tmp_path / "packed")
    assert (recipe.train.cache_dir, recipe.model.weights) == (tmp_path, f"{tmp_path}/w.safetensors")
    assert recipe.tasks["it"].manifest == tmp_path / "own.csv"
    assert load_recipe(recipe_file, ["data.folder=~nobody-here/a"]).data.folder == Path("~nobody-here/a")
    assert load_recipe(recipe_file, ["data.manifest=s3://a/~/b.csv"]).data.manifest == "s3://a/~/b.csv"


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        ("[no, yes]", ("no", "yes")),
        ("[1, 2, 10]", ("1", "2", "10")),
        ("[1.0, 2.50]", ("1.0", "2.50")),
        ("[off, 'on', \"y\"]", ("off", "on", "y")),
        ("[2024-05-01, 1_000, 1:30]", ("2024-05-01", "1_000", "1:30")),
    ],
)
def test_levels_are_the_text_as_it_is_written_in_a_file_and_on_the_command_line(recipe_file, tmp_path, levels, wanted):
    path = tmp_path / "levels.yaml"
    path.write_text(f"tasks:\n  it: {{kind: ordinal, levels: {levels}}}\n")
    assert load_recipe(str(path)).tasks["it"].levels == wanted
    for override in (f"tasks.it.levels={levels}", f"tasks={{it: {{kind: ordinal, levels: {levels}}}}}"):
        assert load_recipe(recipe_file, [override]).tasks["it"].levels == wanted


def test_text_in_a_file_is_as_it_is_written(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {folder: 2024, group_pattern: (1)}\nmodel: {weights: no}\ntrain: {cache: off, optimizer: null}\n"
    )
    with pytest.raises(RecipeError, match="train.optimizer is None"):
        load_recipe(str(path))
    recipe = load_recipe(str(path), ["train.optimizer=adamw"])
    assert (recipe.data.folder, recipe.data.group_pattern) == (Path("2024"), "(1)")
    assert (recipe.model.weights, recipe.train.cache) == ("no", "off")


def test_numbers_lists_and_mappings_are_yaml(recipe_file):
    texts = ["seed=7", "data.val=1e-1", "augment.speed=[0.8, 1.25]", "augment.flip=no", "data.workers=auto"]
    texts += ["phases=[{unfreeze: [layer4, head], lr: 1e-4, stage_lr: {layer4: 1e-5}}]", "train.compile=true"]
    recipe = load_recipe(recipe_file, [*texts, "train.early_stopping={patience: 3}", "clip.size=null"])
    assert (recipe.seed, recipe.data.val, recipe.augment.speed, recipe.augment.flip) == (7, 0.1, (0.8, 1.25), False)
    assert (recipe.data.workers, recipe.train.compile, recipe.train.early_stopping.patience) == ("auto", True, 3)
    (phase,) = recipe.phases
    assert (phase.unfreeze, phase.lr, phase.stage_lr) == (("layer4", "head"), 1e-4, {"layer4": 1e-5})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("[no, head]", ("no", "head")),
        ("match([^/]+: #1)", "match([^/]+: #1)"),
        ("match(a: b)", "match(a: b)"),
        ("match({a})", "match({a})"),
        ("last(2)", "last(2)"),
    ],
)
def test_a_key_that_takes_text_or_a_number_takes_as_text_what_is_no_number_or_list(recipe_file, text, value):
    recipe = load_recipe(recipe_file, ["phases=[{epochs: 1}]", f"phases.0.unfreeze={text}"])
    assert recipe.phases[0].unfreeze == value


def test_null_and_nothing_unset_a_key(recipe_file):
    for text in ("null", ""):
        assert load_recipe(recipe_file, [f"data.folder={text}"]).data.folder is None
        assert load_recipe(recipe_file, [f"tasks.it.levels={text}"]).tasks["it"].levels is None


def test_lines_of_a_mistake_are_those_of_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# a comment\n\ndata:\n\n  folder: 1\n  folder: 2\n")
    with pytest.raises(RecipeError, match=r"line 6.*duplicate key|duplicate key.*line 6"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match=r"unknown key 'data.foldr' \(nearest: data.folder"):
        load_recipe("quickstart", ["data.foldr=my clips #1: [x"])
