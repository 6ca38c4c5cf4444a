"""The recipe in a run folder may be anybody's: nothing in it is followed, and no place that it names is asked."""

import shutil
import sys

import pytest

import finetune as ft
from finetune.errors import DataError, RecipeError
from finetune.recipe.load import load_recipe, save_recipe
from finetune.storage.object_store import UntrustedUrl, local_copy, user_cache_dir
from finetune.train.resume import without_foreign_cache_dir

SECRET = "do not tell"
PLACE = "http://127.0.0.1:9/pack"


@pytest.fixture
def run(trained_run, tmp_path, monkeypatch):
    """A copy of a finished run. Whoever asks for an address or connects to one fails the test."""
    monkeypatch.setenv("SECRET", SECRET)
    asked = []
    watching = [True]

    def note(event, arguments):
        if watching[0] and event in {"socket.connect", "socket.getaddrinfo", "urllib.Request"}:
            asked.append((event, arguments))

    sys.addaudithook(note)
    yield shutil.copytree(trained_run, tmp_path / "run")
    watching[0] = False
    assert not asked


def with_line(run, old, new):
    path = run / "recipe.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


REFERENCES = ["${oc.env:SECRET}", "s3://there/${oc.env:SECRET}", "${data.val}", "${oc.decode:'[1]'}"]


@pytest.mark.parametrize("reference", REFERENCES)
def test_references_in_a_run_are_refused_and_never_resolved(run, finetune, reference):
    with_line(run, "packed: null", f"packed: {reference!r}")
    clip = next(run.parent.rglob("*.yaml"))
    for command in (["evaluate", run], ["predict", run, clip], ["train", "--resume", run], ["average", run]):
        status, out, err = finetune(*command)
        assert status == 2, command
        assert "is not resolved in a run folder" in err and "recipe.yaml, line" in err
        assert SECRET not in out + err
    assert load_recipe_error(run / "recipe.yaml")


def load_recipe_error(path):
    with pytest.raises(RecipeError, match="not resolved") as error:
        load_recipe(str(path))
    return error


def test_a_reference_in_place_of_a_section_or_of_phases_is_not_resolved_on_the_way(run):
    text = (run / "recipe.yaml").read_text()
    for section in ("phases", "data", "train"):
        (run / "recipe.yaml").write_text(f"{section}: ${{oc.env:SECRET}}\n")
        assert SECRET not in str(load_recipe_error(run / "recipe.yaml").value)
    (run / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match="data.workers is '.{oc.env:SECRET}'"):
        ft.resume(run, ["data.workers=${oc.env:SECRET}"])


def test_an_own_recipe_may_name_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPS", "there")
    (tmp_path / "mine.yaml").write_text("data: {folder: '${oc.env:CLIPS}/clips'}\n")
    assert str(load_recipe(str(tmp_path / "mine.yaml")).data.folder) == "there/clips"


def test_text_that_only_looks_like_a_reference_reads_back_from_a_run(run):
    for text in ("a${b}", "a\\${b}", "\\\\${b}${c}"):
        recipe = load_recipe(str(run / "recipe.yaml"), [f"data.group_pattern=({text})"])
        save_recipe(recipe, run / "recipe.yaml")
        assert load_recipe(str(run / "recipe.yaml")) == recipe
        assert recipe.data.group_pattern == f"({text})"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "an alias .a is not followed"),
        ("seed: " + "[" * 3000 + "]" * 3000, "nested more than"),
        ("seed: !!python/object/apply:os.system ['touch executed']", "cannot be read as YAML"),
        ("seed: " + "9" * 5000, "cannot be read as YAML"),
        ("# " + "x" * 1_000_001, "is not a recipe"),
        ("data: {group_pattern: '(a){99999999999999999999}'}", "is not a valid regular expression"),
    ],
)
def test_what_can_only_do_harm_is_refused_in_words(run, text, reason):
    (run / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=reason):
        load_recipe(str(run / "recipe.yaml"))


def test_a_pack_in_an_object_store_is_fetched_only_when_the_user_names_it(run, finetune):
    with_line(run, "packed: null", f"packed: {PLACE}")
    for command in (["evaluate", run], ["average", run]):
        status, _, err = finetune(*command)
        assert (status, f"{PLACE}: this URL comes from the run folder" in err) == (2, True), (command, err)
    recipe = load_recipe(str(run / "recipe.yaml"))
    assert isinstance(recipe.data.packed, UntrustedUrl)
    assert type(load_recipe(str(run / "recipe.yaml"), [f"data.packed={PLACE}"]).data.packed) is str
    save_recipe(recipe, run / "recipe.yaml")
    assert load_recipe(str(run / "recipe.yaml")) == recipe


@pytest.mark.parametrize("line", ["num_frames: 4", "size: 32", "views: 1"])
def test_numbers_that_would_fill_the_memory_are_refused(run, line):
    with_line(run, line, f"{line.split(':')[0]}: 9999999")
    with pytest.raises(RecipeError, match="less than or equal to|a clip of more than 6 GB"):
        load_recipe(str(run / "recipe.yaml"))


def test_a_run_names_no_folder_for_a_cache_that_is_none_already(run, tmp_path):
    with_line(run, "cache_dir: null", f"cache_dir: {tmp_path / 'elsewhere'}")
    assert without_foreign_cache_dir(load_recipe(str(run / "recipe.yaml"))).train.cache_dir is None
    (tmp_path / "elsewhere" / "set").mkdir(parents=True)
    (tmp_path / "elsewhere" / "set" / "set.json").write_text("{}")
    assert without_foreign_cache_dir(load_recipe(str(run / "recipe.yaml"))).train.cache_dir == tmp_path / "elsewhere"


def test_what_was_fetched_before_is_taken_as_it_is_without_asking(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pytest.importorskip("fsspec").filesystem("memory").pipe("/lab/pack/pack.json", b"{}")
    there = local_copy("memory://lab/pack")
    assert there.is_relative_to(user_cache_dir("objects"))
    assert local_copy(UntrustedUrl("memory://lab/pack")) == there
    with pytest.raises(DataError, match="this URL comes from the run folder"):
        local_copy(UntrustedUrl("memory://lab/other"))
