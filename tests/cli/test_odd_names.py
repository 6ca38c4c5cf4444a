"""A run of clips and classes with odd names, from the check to the report; and names that stop it at its beginning."""

import csv
import json
import os
from pathlib import Path

import pytest
from grey import TINY, make_clip

from finetune.cli.manifest import load_manifest
from finetune.recipe.schema import Data, Recipe
from finetune.text import from_spreadsheet_cell

CLASSES = ("=1+1", 'a;b, "c" ', "<b>é|'x'")
RECIPE = f"""clip: {{num_frames: 2, size: 32}}
model: {{backbone: {TINY}, weights: none}}
phases: [{{unfreeze: head, epochs: 1}}]
train: {{batch_size: 4}}
data: {{workers: 0}}
"""


def odd_clips(root):
    for number, name in enumerate(CLASSES):
        for split, count in (("train", 2), ("val", 1), ("test", 1)):
            for clip in range(count):
                make_clip(
                    root / split / name / f'{clip},"; #1 .mp4',
                    3 + clip,
                    start=16 + 80 * number + 7 * clip + {"train": 0, "val": 20, "test": 40}[split],
                )


@pytest.mark.slow
def test_odd_names_go_through_a_whole_run(finetune, tmp_path):
    data, recipe, run = tmp_path / "my clips; #1, [x]", tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    odd_clips(data)
    status, out, _ = finetune("check", recipe, f"data.folder={data}", "--out", tmp_path / "check.html")
    assert status == 0, out
    status, _, err = finetune("train", recipe, f"data.folder={data}", "--out", run)
    assert status == 0, err
    names = sorted(name.strip() for name in CLASSES)
    assert json.loads((run / "classes.json").read_text(encoding="utf-8")) == names
    before = (run / "evaluation/predictions.csv").read_text(encoding="utf-8")
    status, _, err = finetune("evaluate", run)
    assert status == 0, err
    assert (run / "evaluation/predictions.csv").read_text(encoding="utf-8") == before
    with (run / "evaluation/predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: from_spreadsheet_cell(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    assert sorted(row["label"] for row in rows) == names and {row["predicted"] for row in rows} <= set(names)
    assert all(Path(row["path"]).is_file() for row in rows)
    assert finetune("report", run)[0] == 0
    page = (run / "evaluation/report.html").read_text(encoding="utf-8")
    assert "<b>é" not in page and "&lt;b&gt;é" in page
    status, out, _ = finetune("predict", run, data / "test", "--json")
    assert status == 0 and len(json.loads(out)) == 3


def test_names_that_a_run_cannot_keep_end_a_check_and_a_training_in_words(finetune, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    odd_clips(tmp_path / "data")
    for odd in (b"caf\xe9", b"two\nlines\x1b[31m"):
        make_clip(tmp_path / "data/train" / os.fsdecode(odd) / "0.mp4", 3)
    status, out, err = finetune("check", tmp_path / "data", "--out", tmp_path / "check.html")
    assert status == 1 and "Traceback" not in err
    assert "Names of classes with bytes that are not UTF-8: “caf\\xe9”; rename them." in out
    status, out, err = finetune("train", recipe, f"data.folder={tmp_path / 'data'}", "--out", tmp_path / "run")
    assert status == 2 and not (tmp_path / "run").exists() and "\x1b" not in err
    assert "names of classes with control characters or line breaks: “two\\nlines\\x1b[31m”; rename them" in err


def test_a_note_before_training_says_what_was_skipped_and_what_looks_alike(tmp_path, capfd, monkeypatch):
    for name in ("Cat", "cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.mp4").write_bytes(b"x")
    (tmp_path / "train/cat/notes.txt").write_text("x")
    settings = Recipe(data=Data(folder=tmp_path))
    load_manifest(settings)
    assert capfd.readouterr().err.splitlines() == [
        f"{tmp_path}: 3 clips of 3 classes (3 train, 0 val, 0 test)",
        "note: skipped: 1 × not a video or image (.txt)",
        "note: classes that look alike: “Cat” and “cat”; if they are the same, spell them the same way",
    ]
    monkeypatch.setenv("RANK", "1")  # of several processes the first alone says it
    load_manifest(settings)
    assert capfd.readouterr().err == ""
