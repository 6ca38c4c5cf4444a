"""Damaged and hostile annotation files give rows or an error in words, never another exception."""

import json
import os
import random

import annotation_files as files
import pytest
from mutated import ODD, mutate, mutate_text, replace_nth

from finetune.annotations.annotation import MAX_SECONDS
from finetune.annotations.export_files import default_output, export_events
from finetune.annotations.formats import WRITERS
from finetune.annotations.import_files import Imported, ImportOptions, import_annotations, write_manifest
from finetune.errors import DataError, FinetuneError

ROUNDS = 1000 if os.environ.get("FINETUNE_ALL") else 30  # of each of the 14 samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Empty files in the place of the recordings: files that count frames have to say so in words."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("rec1.mp4", "rec2.mp4"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("sample", files.SAMPLES)
def test_a_mutated_file_gives_rows_or_an_error_in_words(sample, folder, tmp_path):
    name, content, _ = files.SAMPLES[sample]
    draw = random.Random(sample)
    path = tmp_path / name
    outcomes = {"rows": 0, "problems": 0}
    for number in range(ROUNDS):
        path.write_text(content, encoding="utf-8")
        if number % 2 and not name.endswith(".json"):
            path.write_text(mutate_text(content, draw), encoding="utf-8", errors="replace")
        else:
            mutate(path, draw)
        options = ImportOptions(
            videos=folder, tier=draw.choice([None, None, None, "acts"]), fps=draw.choice([None, 25.0])
        )
        try:
            imported = import_annotations([path], options)
        except DataError as error:
            assert str(error).startswith("there is no tier 'acts'")
            continue
        outcomes["problems"] += bool(imported.problems)
        outcomes["rows"] += bool(imported.rows)
        check_rows(imported)
        for problem in imported.problems:
            assert str(path) in problem or "rec1.mp4" in problem or "rec2.mp4" in problem
            assert "Traceback" not in problem and len(problem) < 3000
        if imported.rows:
            write_manifest(imported, tmp_path / "out" / "clips.csv")
        else:
            with pytest.raises(FinetuneError):
                imported.require_rows(skip_problems=True)
    assert outcomes["problems"] > ROUNDS / 6 and outcomes["rows"] > 1, outcomes


def check_rows(imported):
    for _, row in imported.rows:
        assert row.label and row.frames is None
        assert 0 <= (row.start or 0) <= MAX_SECONDS
        assert row.end is None or (row.start or 0) <= row.end <= MAX_SECONDS + 1


@pytest.mark.parametrize(
    "sample", [name for name, (file, _, _) in files.SAMPLES.items() if file.endswith((".json", "ris"))]
)
def test_every_value_of_a_json_file_may_be_of_another_type(sample, folder, tmp_path):
    """Each value in turn is null, and one odd value."""
    name, content, kind = files.SAMPLES[sample]
    draw = random.Random(sample)
    path = tmp_path / name
    for place in range(1000):
        for value in (None, draw.choice(ODD)):
            tree = json.loads(content)
            if not replace_nth(tree, place, value):
                return
            path.write_text(json.dumps(tree), encoding="utf-8")
            try:
                imported = import_annotations([path], ImportOptions(kind=kind, videos=folder, fps=25.0))
            except FinetuneError as error:
                pytest.fail(f"{error} should be a problem of the file")
            check_rows(imported)


@pytest.mark.parametrize("depth", [10, 2000, 200_000])
def test_deeply_nested_files_are_refused(depth, tmp_path):
    for text in ("[" * depth, '{"database":' * depth, "[" * depth + "]" * depth, "<annotations>" * depth):
        path = tmp_path / "deep"
        path.write_text(text)
        assert import_annotations([path], ImportOptions()).problems


def test_labels_that_no_file_can_hold_are_named(folder, tmp_path):
    path = tmp_path / "a.json"
    segments = [{"segment": [0, 1], "label": label} for label in ("a\0b", "", "  ", "x\ny", "fine")]
    path.write_text(json.dumps({"results": {"rec1": segments}}))
    imported = import_annotations([path], ImportOptions(videos=folder))
    assert [row.label for _, row in imported.rows] == ["fine"]
    assert [problem.split(": ", 2)[2] for problem in imported.problems] == [
        "its label “a\\x00b” has control characters",
        "has no label",
        "has no label",
        "its label “x\\ny” has control characters",
    ]
    with pytest.raises(DataError, match="(?s)4 problems:.*nothing was written.*--on-error skip"):
        imported.require_rows(skip_problems=False)


@pytest.mark.parametrize("kind", [kind for kind, writer in WRITERS.items() if not writer.needs_video])
def test_odd_labels_are_written_so_that_they_come_back(kind, folder, tmp_path):
    labels = ["a,b", 'say "x"', "a;b", "<i>x</i>", "a --> b", "&amp;", "=1+1", "'x", "12", "NOTE x", "WEBVTT", "ü 漢"]
    path = tmp_path / "events.json"
    segments = [{"segment": [2 * number, 2 * number + 1], "label": label} for number, label in enumerate(labels)]
    path.write_text(json.dumps({"results": {"rec1": segments}}))
    events = import_annotations([path], ImportOptions(videos=folder))
    written = export_events(Imported(events.rows, [], []), kind, default_output(path, kind)).files
    back = import_annotations(written, ImportOptions(videos=folder))
    assert [row.label for _, row in back.rows] == labels
