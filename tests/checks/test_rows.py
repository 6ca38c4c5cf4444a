import csv
import shutil

import numpy as np
import pytest

from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.errors import DataError

SHARES = (0.15, 0.2, 0)


def read(source, pattern=None):
    return read_rows(source, group_pattern=pattern, shares=SHARES)


def write_csv(path, rows, columns=("path", "label", "split", "group")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def files(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def agrees(rows, manifest):
    order = np.argsort([str(path.absolute()) for path in rows.paths])
    theirs = np.argsort([str(manifest.path(row)) for row in range(len(manifest))])
    assert [str(rows.paths[row].absolute()) for row in order] == [str(manifest.path(row)) for row in theirs]
    assert [rows.labels[row] for row in order] == [manifest.classes[manifest.labels[row]] for row in theirs]
    assert [rows.splits[row] for row in order] == manifest.splits[theirs].tolist()
    assert rows.findings == []


def test_rows_are_those_that_training_takes_divided_alike(tmp_path):
    names = [f"{label}/person{number % 12}_{number}.mp4" for label in ("a b", "c") for number in range(24)]
    files(tmp_path / "data", names)
    for pattern in (None, r"person(\d+)_"):
        rows = read(tmp_path / "data", pattern)
        assert rows.divided
        agrees(rows, Manifest.from_folder(tmp_path / "data", group_pattern=pattern))
    table = write_csv(tmp_path / "clips.csv", [[f"data/{name}", name[0]] for name in names], ("path", "label"))
    for pattern in (None, r"person(\d+)_"):
        agrees(read(table, pattern), Manifest.from_csv(table, group_pattern=pattern))


def test_folders_named_as_splits_are_splits(clip_folder):
    rows = read(clip_folder)
    assert not rows.divided
    agrees(rows, Manifest.from_folder(clip_folder))


def test_columns_of_a_csv_are_taken_as_they_are(tmp_path):
    files(tmp_path, "abcdefgh")
    lines = [
        [name, "x" if name < "e" else "y", "train" if name in "abef" else "TEST", f"g{name}"] for name in "abcdefgh"
    ]
    table = write_csv(tmp_path / "clips.csv", lines)
    rows = read(table)
    assert not rows.divided and rows.groups == [f"g{name}" for name in "abcdefgh"]
    agrees(rows, Manifest.from_csv(table))


@pytest.mark.parametrize(
    ("lines", "columns", "kind", "words"),
    [
        ([["a", "x"], ["", "y"]], ("path", "label"), "no_path", "1 row has no path: line 3"),
        ([["a", "x"], ["b", ""]], ("path", "label"), "no_label", "1 of 2 files have no label"),
        (
            [["a", "x", "train"], ["b", "y", "tset"]],
            ("path", "label", "split"),
            "split",
            "1 row has no valid split: “tset”",
        ),
        ([["a", "x", "train"], ["b", "y", ""]], ("path", "label", "split"), "split", "1 row has no valid split: “”"),
        ([["a", "x"], ["b", "y"]], ("file", "label"), "column", "There is no column “path”; “file” was read instead"),
        ([["a", "x"], ["b", "y"]], ("path", "label"), "too_few", "too few to hold out"),
    ],
)
def test_what_training_refuses_is_a_finding_and_the_other_rows_are_there(tmp_path, lines, columns, kind, words):
    files(tmp_path, "ab")
    table = write_csv(tmp_path / "clips.csv", lines, columns)
    with pytest.raises(DataError):
        Manifest.from_csv(table)
    rows = read(table)
    found = {finding.kind: finding for finding in rows.findings}
    assert words in found[kind].what and found[kind].severity == "mend"
    assert [path.name for path in rows.paths] == [line[0] for line in lines if line[0]]


def test_a_pattern_that_finds_no_group_names_the_rows(tmp_path):
    files(tmp_path / "data", ["a/p1_x.mp4", "b/who.mp4"])
    rows = read(tmp_path / "data", r"(p\d)_")
    (finding,) = [finding for finding in rows.findings if finding.kind == "no_group"]
    assert finding.rows == (1,) and rows.groups == ["p1", ""]


def test_files_without_any_labels_are_rows_too(tmp_path):
    files(tmp_path / "data", ["b.mp4", "a.mp4", "notes.txt", ".hidden.mp4"])
    rows = read(tmp_path / "data")
    assert [path.name for path in rows.paths] == ["a.mp4", "b.mp4"]
    assert not rows.labelled and rows.splits == ["", ""]
    assert {finding.kind: finding.severity for finding in rows.findings} == {
        "no_labels": "warning",
        "passed_over": "note",
    }
    assert rows.findings[-1].what == "Skipped: 1 × hidden, 1 × not a video or image (.txt)."
    table = write_csv(tmp_path / "clips.csv", [["data/a.mp4", ""], ["data/b.mp4", ""]], ("path", "label"))
    assert {finding.kind for finding in read(table).findings} == {"no_labels"}


def test_an_empty_class_folder_and_a_file_beside_the_folders_are_named(tmp_path):
    files(tmp_path / "data", ["a/1.mp4", "b/1.mp4", "stray.mp4"])
    (tmp_path / "data/c").mkdir()
    found = {finding.kind: finding for finding in read(tmp_path / "data").findings}
    assert "No video or image in c." in found["empty_class"].what
    assert found["no_label"].rows == (2,)


@pytest.mark.parametrize(
    ("text", "words"),
    [("path,label\n", "has a header but no rows"), ("where,label\na,b\n", "no column path; it has where, label")],
)
def test_where_there_are_no_rows_at_all_that_is_said(tmp_path, text, words):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "clips.csv")
    shutil.rmtree(tmp_path / "empty", ignore_errors=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video or image in this folder"):
        read(tmp_path / "empty")
