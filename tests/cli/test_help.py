"""`finetune --help`: every command in a group, each line within 80 columns."""

import inspect
from itertools import pairwise

import pytest

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
