"""README and docs say what is true: their Python runs, their commands exist, their tables are those of the code."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
import torch
from contract import moved, snapshot
from tasked import draw_clips

import finetune as ft
from finetune.cli.main import app
from finetune.model.classifier import build_from_settings
from finetune.model.freezing.freeze import trainable_stages
from finetune.recipe.load import list_recipes, load_recipe
from finetune.recipe.own_parts import own_parts
from finetune.recipe.schema import Phase, Recipe, Schedule, Section
from finetune.recipe.tasks import Task
from finetune.run.manifest import saved_manifest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "<!-- the table below is written by tests/test_docs.py"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def choices_of(annotation):
    """The words that a key takes, in their order; not those of a key that takes numbers or null as well."""
    args = get_args(annotation)
    if len(args) == 2 and (get_origin(args[0]), get_origin(args[1])) == (Literal, Annotated):  # or an own part
        args = get_args(args[0])
    return [arg for arg in args if isinstance(arg, str)]


def recipe_table():
    rows = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if name == "phases":
            rows += [(f"phases.*n*.{key}", sub) for key, sub in Phase.model_fields.items()]
            rows += [(f"phases.{key}", sub) for key, sub in Schedule.model_fields.items()]
        elif name == "tasks":
            rows += [(f"tasks.*name*.{key}", sub) for key, sub in Task.model_fields.items()]
        elif isinstance(section, type) and issubclass(section, Section):
            rows += [(f"{name}.{key}", sub) for key, sub in section.model_fields.items()]
        else:
            rows.append((name, field))
    lines = ["| key | default | what |", "|---|---|---|"]
    for key, field in rows:
        choices = choices_of(field.annotation)
        what = "; ".join(filter(None, [" · ".join(choices), field.description or ""]))
        default = "null" if field.default is None else "needed" if field.is_required() else str(field.default)
        lines.append(f"| `{key}` | `{default}` | {what.replace('|', '·')} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_recipe_keys_is_that_of_the_code(request):
    page = ROOT / "docs" / "recipes.md"
    text = page.read_text(encoding="utf-8")
    start = text.index("\n", text.index(MARK)) + 1
    wanted = text[:start] + "\n" + recipe_table()
    if request.config.getoption("--write"):
        page.write_text(wanted, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == wanted


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_runs(page, tmp_path, clip_folder, monkeypatch):
    found = blocks(page, "python")
    assert found or page.name not in {"README.md", "python.md"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(clip_folder)
    if page.name == "tasks.md":
        draw_clips(tmp_path).rename("clips.csv")
    names = {}
    for code in found:
        tiny = code.replace("resnet50.a1_in1k", "test_resnet").replace('weights="imagenet"', 'weights="none"')
        tiny = tiny.replace("num_frames=8", "num_frames=2").replace("size=224", "size=32")
        tiny = tiny.replace("RandomCrop(224)", "RandomCrop(32)")
        torch.manual_seed(0)
        exec(compile(tiny, str(page), "exec"), names)
        if "opened = " in tiny:
            check_example_of_own_parts(names["model"], names["run"], names["opened"])
    if page.name == "README.md":
        assert 0 <= names["results"]["tasks"]["label"]["top1"] <= 1
    if page.name == "tasks.md":
        assert set(ft.evaluate(names["run"])["tasks"]) == {"action", "box"}


def check_example_of_own_parts(model, run, opened):
    """What is trained is learnt, what is frozen stays bit-identical, and the saved run predicts as the model does."""
    torch.manual_seed(0)  # as before the example, whose model has the first random numbers
    begun = build_from_settings(model.settings, model.classes, num_frames=model.num_frames, size=model.size)
    assert set(moved(model, snapshot(begun))) - {"temporal"} == set(trainable_stages(model)) - {"temporal"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    if any(key.startswith("model.") for key in own_parts(opened.recipe)):
        with pytest.raises(ft.RecipeError, match=r"code that was not imported.*open_run\(run, parts="):
            ft.load(run)
    loaded, saved = ft.load(opened), model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    tested = saved_manifest(opened).for_split("test")
    predictions = ft.predict(opened, [tested.path(row) for row in range(len(tested))])
    right = [each.predicted == tested.label(row) for row, each in enumerate(predictions)]
    assert ft.evaluate(opened)["tasks"]["label"]["top1"] == sum(right) / len(right)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page):
    import typer.main

    known = typer.main.get_command(app).commands
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for line in re.findall(r"^(?: {4}|\$ )?(finetune .*)$", text, flags=re.MULTILINE)]
    lines += re.findall(r"`(finetune [^`]*)`", text)
    for line in lines:
        words = shlex.split(line.replace("…", ""), comments=True)
        if len(words) < 2 or words[1] == "|":
            continue
        assert words[1] in known or words[1].startswith("-"), line
        group = known.get(words[1])
        if getattr(group, "commands", None) and len(words) > 2:
            assert words[2] in group.commands, line


def test_the_readme_names_every_recipe_and_every_part_of_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in list_recipes():
        assert f"`{name}`" in text
        load_recipe(name)
    for path in [*(ROOT / "finetune").glob("*.py"), *(ROOT / "finetune").glob("*/")]:
        if path.name not in {"__pycache__", "__init__.py"}:
            assert path.name in text, path.name


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_picture_of_the_schedules_is_that_of_the_code(request):
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_schedules.py"))["drawing"]()
    picture = ROOT / "docs" / "schedules.svg"
    if request.config.getoption("--write"):
        picture.write_text(drawn, encoding="utf-8")
    assert picture.read_text(encoding="utf-8") == drawn


def test_changelog_fragments_have_a_kind_and_a_text():
    for path in (ROOT / "changelog.d").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(r"\+[a-z0-9-]+\.(added|changed|fixed|removed)\.md", path.name), path
            assert path.read_text(encoding="utf-8").strip(), path
