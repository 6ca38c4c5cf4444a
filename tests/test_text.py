import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.cli.terminal import SanitizedOutput, sanitized_output
from finetune.data.manifest import Manifest
from finetune.report.words import relative_link
from finetune.run.predictions_csv import read_clip_names, read_prediction_rows, write_class_predictions
from finetune.text import UNPRINTABLE, escape_control_characters, from_spreadsheet_cell, spreadsheet_cell, with_unit


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\u001b[31mred\\u001b[0m"),
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("\x9b2J", "\\u009b2J"),
        ("clip\rgood", "clip\\u000dgood"),
        ("\u202egpm.exe", "\\u202egpm.exe"),
        ("\udcff.mp4", "\\udcff.mp4"),
        ("打太极 👩‍👩‍👧 naïve \u200bzero\n\ttab", "打太极 👩‍👩‍👧 naïve \u200bzero\n\ttab"),
    ],
)
def test_what_steers_a_terminal_is_written_out_and_all_other_writing_stays(name, shown):
    assert escape_control_characters(name) == shown


@given(st.text())
def test_printed_text_has_no_control_characters_and_json_reads_the_same(text):
    assert not UNPRINTABLE.search(escape_control_characters(text))
    assert json.loads(escape_control_characters(json.dumps(text, ensure_ascii=False))) == text


def test_print_is_cleaned_in_one_place_and_rich_draws_as_ever(capsys):
    from rich.console import Console

    with sanitized_output():
        print("\x1b[31mred")
        Console(force_terminal=True, color_system="standard").print("[red]drawn[/red]")
    out = capsys.readouterr().out
    assert "\\u001b[31mred" in out and "\x1b[31mdrawn" in out
    assert not isinstance(__import__("sys").stdout, SanitizedOutput)


def test_names_in_errors_and_predictions_do_not_reach_the_terminal_as_they_are(trained_run, tmp_path, finetune):
    import shutil

    run = shutil.copytree(trained_run, tmp_path / "run")
    for file in ("classes.json", "manifest.csv"):
        text = (run / file).read_text().replace("it's bright", "\\u001b[2J" if file == "classes.json" else "\x1b[2J")
        (run / file).write_text(text)
    with (run / "manifest.csv").open(newline="") as file:
        clip = next(csv.DictReader(file))["path"]
    status, out, err = finetune("predict", run, clip)
    assert status == 0 and "\\u001b[2J" in out and "\x1b" not in out + err
    status, out, err = finetune("evaluate", tmp_path / "\x1b[31mno run")
    assert status == 2 and "\x1b" not in out + err


TRIGGERS = st.text(st.sampled_from("'=+-@\t\r1a"), max_size=5) | st.text()


@given(TRIGGERS)
def test_no_cell_is_a_formula_and_each_reads_back(text):
    cell = spreadsheet_cell(text)
    assert from_spreadsheet_cell(cell) == text
    if cell[:1] in set("=+-@\t\r"):
        float(cell)  # a number is none


@pytest.mark.parametrize("text", ["=1+1", "=HYPERLINK(1)", "+cmd", "-x.mp4", "@SUM(A1)", "\t=1", "\r=1", "'=1"])
def test_what_a_spreadsheet_would_compute_gets_an_apostrophe(text):
    assert spreadsheet_cell(text) == f"'{text}"
    assert spreadsheet_cell(f"a{text}") == f"a{text}"


def test_predictions_of_odd_names_are_safe_to_open_and_read_back(tmp_path):
    import numpy as np

    classes = ("=1+1", "@two", "-1")
    paths = np.array([b"-a.mp4", b"/b.mp4", b"=c.mp4"])
    splits, groups = np.array(["test"] * 3), np.array(["+g", "g", "'=h"])
    manifest = Manifest(tmp_path, classes, paths, np.arange(3), splits, groups)
    write_class_predictions(tmp_path, manifest, np.arange(3), np.eye(3, dtype=np.float32))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["'-a.mp4", "/b.mp4", "'=c.mp4"]
    assert [row["label"] for row in rows] == [row["predicted"] for row in rows] == ["'=1+1", "'@two", "-1"]
    read = read_prediction_rows(tmp_path)
    assert [(each.path, each.label, each.group) for each in read] == [
        ("-a.mp4", "=1+1", "+g"),
        ("/b.mp4", "@two", "g"),
        ("=c.mp4", "-1", "'=h"),
    ]
    assert read_clip_names(tmp_path / "predictions.csv") == ["-a.mp4", "/b.mp4", "=c.mp4"]


@pytest.mark.parametrize(
    "href",
    ["javascript:alert(1)", "data:text/html,x", " javascript:x", "java\nscript:x", "//there/x", "/etc/passwd", "\\\\x"],
)
def test_only_what_lies_beside_a_page_is_linked(href):
    assert relative_link(href) is None
    assert relative_link("../seed-1/evaluation/report.html") == "../seed-1/evaluation/report.html"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (812, "812 B"), (268_912, "269 kB"), (999_900, "1 MB"), (1_684_000, "1.68 MB"), (4.2e12, "4200 GB")],
)
def test_a_size_has_a_decimal_prefix_and_three_digits(value, shown):
    assert with_unit(value, "B") == shown
