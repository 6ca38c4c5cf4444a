"""A newer format is refused in words, an older one is read, and nothing is written that the reader refuses."""

import json
import shutil

import pytest

import finetune as ft
from finetune.errors import RunError
from finetune.run.read import read_results_file
from finetune.run.write import write_epochs, write_results

RESULTS = {
    "schema": 1,
    "run": "r",
    "split": "test",
    "num_rows": 1,
    "tasks": {"label": {"kind": "classify", "top1": 1.0}},
}


@pytest.fixture
def run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def test_a_run_of_a_newer_format_is_refused_by_its_version(run):
    path = run / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    for command in (ft.evaluate, ft.load, ft.resume, lambda folder: ft.predict(folder, ["a.mp4"])):
        with pytest.raises(RunError, match="has format version 3; this finetune reads up to 1: update finetune"):
            command(run)


def test_a_run_of_before_format_versions_is_read(run):
    path = run / "environment.json"
    environment = json.loads(path.read_text())
    assert environment.pop("format") == 1
    path.write_text(json.dumps(environment))
    assert ft.load(run).classes
    path.unlink()
    assert ft.load(run).classes


def test_results_are_read_as_they_were_written(tmp_path):
    write_results(tmp_path, RESULTS)
    assert read_results_file(tmp_path / "results.json") == RESULTS


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_rows": -1}, "num_rows"),
        ({"split": "tset"}, "split"),
        ({"tasks": {"label": {"top1": 1.0}}}, "tasks.label"),
    ],
)
def test_results_that_the_reader_refuses_are_not_written(tmp_path, changes, what):
    with pytest.raises(RunError, match=what):
        write_results(tmp_path, RESULTS | changes)
    assert not list(tmp_path.iterdir())


def test_an_epoch_that_the_reader_refuses_is_not_written(tmp_path):
    with pytest.raises(RunError, match="metrics.jsonl, line 2: .*epoch"):
        write_epochs(tmp_path, [{"epoch": 1}, {"epoch": "2"}])
    assert not list(tmp_path.iterdir())


def test_evaluation_opens_the_run_once_and_reads_no_predictions_back(trained_run, tmp_path, monkeypatch):
    recipes = []
    load_recipe = ft.run.read.load_recipe
    monkeypatch.setattr(
        "finetune.run.read.load_recipe", lambda *args, **kwargs: recipes.append(args) or load_recipe(*args, **kwargs)
    )
    monkeypatch.setattr("finetune.run.predictions_csv._parse_rows", lambda *_: pytest.fail("read back"))
    ft.evaluate(trained_run, out=tmp_path)
    assert len(recipes) == 1 and (tmp_path / "predictions.csv").is_file()
