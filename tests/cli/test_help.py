"""`finetune --help`: every command in a group, each line within 80 columns."""

import inspect
import shlex
from itertools import pairwise

import pytest
import typer.main

from finetune.cli.main import COMMANDS, app


def functions():
    """Every command, with those of groups, as (name, function)."""
    for _, name, command, _ in COMMANDS:
        if callable(command) and not hasattr(command, "registered_commands"):
            yield name, command
        else:
            yield from ((f"{name} {each.callback.__name__}", each.callback) for each in command.registered_commands)


def test_every_command_stands_in_one_group_with_one_line(finetune, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    status, out, _ = finetune("--help")
    assert status == 0
    rows = [line.strip("│ \n") for line in out.splitlines()]
    for _, name, _, text in COMMANDS:
        assert sum(row.split() == [name, *text.split()] for row in rows) == 1, name
    headings = [line.strip("╭─╮ ") for line in out.splitlines() if line.startswith("╭")]
    assert headings == ["Options", "Data", "Train", "Evaluate", "Use"]
    assert len(app.registered_commands) + len(app.registered_groups) == len(COMMANDS)


@pytest.mark.parametrize(("name", "function"), list(functions()))
def test_the_description_of_a_command_fits_into_80_columns(name, function):
    lines = inspect.cleandoc(function.__doc__).splitlines()
    assert len(lines[0]) <= 78
    broken = [line for line, following in pairwise(lines) if len(line) > 78 and following and line[-1] != "."]
    assert not broken, "help keeps the line breaks of a paragraph, and a long line gets a second one"


@pytest.mark.parametrize(("name", "function"), list(functions()))
def test_the_help_of_a_command_has_an_example_that_it_takes(name, function):
    command = typer.main.get_command(app)
    (example,) = (line for line in inspect.cleandoc(function.__doc__).splitlines() if line.startswith("Example: "))
    program, *words = shlex.split(example.removeprefix("Example: "))
    assert program == "finetune"
    path = [words.pop(0)]
    while hasattr(command := command.commands[path[-1]], "commands"):
        path.append(words.pop(0))
    assert function is command.callback.__wrapped__
    command.make_context(" ".join(path), words)  # raises for what the command does not take


@pytest.mark.parametrize("name", [name for name, _ in functions()])
def test_help_says_what_a_value_is_and_cuts_nothing(finetune, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    words = [word.removesuffix("_command").replace("_", "-") for word in name.split()]
    status, out, _ = finetune(*words, "-h")
    assert status == 0
    assert not {"<bool>", "<path>", "<str>", "<list[str]>", "<list[Path]>"} & set(out.split())
    assert out.count("…") == out.count("compare-….html") + out.count("A,B,…")
    assert max(map(len, out.splitlines())) <= 80


def test_a_shell_completes_commands_recipes_settings_and_choices(finetune, monkeypatch):
    monkeypatch.setenv("_FINETUNE_COMPLETE", "complete_bash")
    completed = {}
    for line in (
        "finetune kf",
        "finetune train fold",
        "finetune kfold folder train.batch",
        "finetune evaluate r --split v",
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
        completed[line.split()[-1]] = finetune()[1].split()
    assert completed == {"kf": ["kfold"], "fold": ["folder"], "train.batch": ["train.batch_size="], "v": ["val"]}
