"""The folder of a study, and its runs: finished, resumed or new."""

import shutil
from dataclasses import replace

import pytest

import finetune as ft
from finetune.errors import RunError
from finetune.storage.atomic import exclusive_lock
from finetune.study.several_runs import StudyRun, evaluation_split, finish_run, finish_runs, study_folder

RECIPE = ft.Recipe(model=ft.Model(backbone="resnet18", weights="none"))


@pytest.fixture
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def test_a_folder_is_reopened_by_the_same_study_alone(manifest, tmp_path):
    out, settings = tmp_path / "study", {"folds": 3, "rates": (0.1, 0.2)}
    for _ in range(2):
        with study_folder(out, RECIPE, manifest, settings):
            pass
    with pytest.raises(RunError, match="was started with another recipe; choose another --out"):
        study_folder(out, RECIPE.model_copy(update={"seed": 1}), manifest, settings).__enter__()
    with pytest.raises(RunError, match="was started with folds 3, not 4; choose another --out"):
        study_folder(out, RECIPE, manifest, settings | {"folds": 4}).__enter__()
    others = replace(manifest, paths=manifest.paths[::-1].copy())
    with pytest.raises(RunError, match="was started with other clips, groups or splits"):
        study_folder(out, RECIPE, others, settings).__enter__()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        study_folder(tmp_path, RECIPE, manifest, settings).__enter__()


def test_one_program_at_a_time_trains_in_a_folder(manifest, tmp_path):
    with study_folder(tmp_path / "study", RECIPE, manifest, {}):
        pass
    with (
        exclusive_lock(tmp_path / "study/.lock", "held"),
        pytest.raises(RunError, match="another program is training into it; wait until it ends"),
        study_folder(tmp_path / "study", RECIPE, manifest, {}),
    ):
        pass


def test_an_interrupt_prints_how_to_resume(manifest, tmp_path, capsys):
    out = tmp_path / "a study"
    with pytest.raises(KeyboardInterrupt), study_folder(out, RECIPE, manifest, {}):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == (
        f"Stopped; finished runs are kept. Resume with the same command and --out '{out}'\n"
    )


@pytest.mark.slow
def test_a_run_is_trained_once_and_its_results_are_the_same_afterwards(trained_run, manifest, tmp_path, capsys):
    shutil.copytree(trained_run, tmp_path / "trained", ignore=shutil.ignore_patterns("evaluation"))
    runs = [StudyRun("trained", ft.load_recipe(str(trained_run / "recipe.yaml")), manifest)]
    finished = finish_run(runs[0], out=tmp_path, split="val", position="first")
    (again,) = finish_runs(runs, out=tmp_path, split="val")
    first, resumed, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("first: trained, resuming", "run 1 of 1: trained, already finished")
    assert resumed.startswith("resumed; the last finished epoch: epoch 4 ")
    assert finished.evaluation.path == again.evaluation.path == tmp_path / "trained/evaluation/val"
    assert finished.headline == again.headline
    assert finished.primary_metrics["confusion"] == again.primary_metrics["confusion"]


def test_runs_are_evaluated_on_test_rows_or_else_on_val_rows(manifest):
    assert evaluation_split(manifest) == "test"
    assert evaluation_split(manifest.without(manifest.rows("test"))) == "val"
    assert evaluation_split(manifest.for_split("train")) == "train"
