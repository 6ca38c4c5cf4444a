"""Tables of commands at any width."""

import os

import pytest

from finetune.cli import table
from finetune.cli.table import format_table, print_table

COLUMNS = {
    "run": ["a", "a_run_with_a_long_name"],
    "metric": ["top-1 0.975", ""],
    "clips": [40, 7],
    "state": ["finished", "stopped"],
}


def test_in_a_pipe_a_row_is_one_line():
    assert format_table(COLUMNS, right={"clips"}).splitlines() == [
        "run                     metric       clips  state",
        "a                       top-1 0.975     40  finished",
        "a_run_with_a_long_name                   7  stopped",
    ]


def test_where_a_row_does_not_fit_its_last_columns_go_on_below():
    assert format_table(COLUMNS, right={"clips"}, width=40).splitlines() == [
        "run                     metric",
        "    clips  state",
        "a                       top-1 0.975",
        "       40  finished",
        "a_run_with_a_long_name",
        "        7  stopped",
    ]


def test_a_long_cell_in_the_last_column_leaves_the_other_rows_on_one_line():
    columns = {"run": ["a", "b"], "state": ["finished", "stopped: finetune train --resume b"]}
    assert format_table(columns, width=30).splitlines() == [
        "run  state",
        "a    finished",
        "b",
        "    stopped: finetune train --resume b",
    ]


@pytest.mark.parametrize("width", [22, 30, 52, 80])
def test_no_cell_is_cut_and_no_line_too_long(width):
    lines = format_table(COLUMNS, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert {"a_run_with_a_long_name", "0.975", "40", "finished", "stopped"} <= {
        word for line in lines for word in line.split()
    }


def test_a_table_without_rows_has_its_headings():
    assert format_table({"run": [], "clips": []}) == "run  clips"


def test_only_a_terminal_has_a_width(monkeypatch, capsys):
    monkeypatch.setattr(table.shutil, "get_terminal_size", lambda **_: os.terminal_size((40, 24)))
    print_table(COLUMNS)
    assert len(capsys.readouterr().out.splitlines()) == 3
    monkeypatch.setattr(table.sys.stdout, "isatty", lambda: True, raising=False)
    print_table(COLUMNS)
    assert len(capsys.readouterr().out.splitlines()) == 6
