"""A run scored on another labelled set, and on its own files wherever they are now."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from framed import draw_labelled_videos, manifest_of_frames, recipe_of_frames
from grey import make_clip
from tasked import TASKS, draw_clips, manifest_of, recipe_of

import finetune as ft
from finetune.checks.split_warnings import overlap_warnings
from finetune.errors import DataError, RecipeError, RunError
from finetune.evaluation.external_set import read_external_set
from finetune.run.manifest import relocated, saved_manifest
from finetune.run.read import open_run
from finetune.train.from_recipe import train_from_recipe


@pytest.fixture
def run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture
def other(tmp_path):
    """Clips that the run has not seen: six dark, four bright, of five groups."""
    lines = ["path,label,split,group"]
    for number in range(10):
        label, start = ("dark ones", 16) if number < 6 else ("it's bright", 200)
        make_clip(tmp_path / "new" / f"{number}.mp4", 7, start=start + 3 * number, step=1)
        lines.append(f"{number}.mp4,{label},{'val' if number in (0, 9) else 'test'},g{number // 2}")
    path = tmp_path / "new/new clips.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def changed(path, old, new, name="changed.csv"):
    (path.parent / name).write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path.parent / name


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def told(results):
    return [each["what"] for each in results["warnings"]]


@pytest.mark.slow
def test_another_set_is_scored_in_a_folder_of_its_own_and_changes_nothing_else(run, other, finetune):
    ft.evaluate(run)
    before = files_of(run)
    status, out, _ = finetune("evaluate", run, f"data.manifest={other}")
    assert (status, "clips     10" in out) == (0, True)
    folder = run / "evaluation/new-clips"
    assert out.splitlines()[-1] == f"report    {folder / 'report.html'}"
    assert before.items() <= files_of(run).items()
    results = json.loads((folder / "results.json").read_text())
    assert results["num_rows"] == 10 and results["num_groups"] == 5
    assert results["protocol"]["data"] == f"{other}, all 10 rows"
    assert results["class_counts"]["test"] == {"dark ones": 6, "it's bright": 4}
    assert results["class_counts"]["train"] == {"dark ones": 4, "it's bright": 4}
    assert "another set than the run&#39;s own" in (folder / "report.html").read_text()
    with (folder / "predictions.csv").open(newline="") as file:
        predicted = {line["path"]: line["predicted"] for line in csv.DictReader(file)}
    assert {str(each.path): each.predicted for each in ft.predict(run, sorted(predicted))} == predicted
    assert told(results) == []
    assert finetune("report", run, "--data", "new-clips")[0] == 0
    again = changed(other, "0.mp4", "0.mp4", "deep.csv").rename(other.parent.parent / "new clips.csv")
    again.write_text(other.read_text().replace("\n", "\nnew/").removesuffix("new/"))
    ft.evaluate(run, [f"data.manifest={again}"], pictures=False)
    assert (run / "evaluation/new-clips-2/results.json").is_file()


def test_rows_of_its_own_split_are_scored_where_that_is_asked(run, other):
    results = ft.evaluate(run, [f"data.manifest={other}"], split="val", pictures=False)
    assert results["num_rows"] == 2 and results["protocol"]["data"].endswith("2 rows of its split val")
    bare = changed(other, ",split", ",part")
    with pytest.raises(DataError, match="has no rows in the split 'val'; omit --split for all rows"):
        ft.evaluate(run, [f"data.manifest={bare}"], split="val")


def test_classes_are_matched_by_name_and_what_is_missing_on_either_side_is_told(run, other, finetune):
    unknown = changed(other, "9.mp4,it's bright", "9.mp4,striped")
    status, _, err = finetune("evaluate", run, f"data.manifest={unknown}")
    assert status == 2
    assert "has classes that the run does not know: striped (1 rows); it knows dark ones, it's bright" in err
    assert "--unknown-classes skip" in err and not (run / "evaluation/changed").exists()
    results = ft.evaluate(run, [f"data.manifest={unknown}"], unknown_classes="skip", pictures=False)
    assert results["num_rows"] == 9
    assert told(results)[0].startswith("Skipped: rows of classes that the model does not know, striped (1 rows)")
    one = changed(other, "it's bright", "dark ones")
    results = ft.evaluate(run, [f"data.manifest={one}"], pictures=False)
    assert results["num_rows"] == 10 and told(results) == ["This set has no clip of it's bright."]


def test_a_folder_of_classes_is_another_set_too(run, tmp_path):
    for number in range(3):
        make_clip(tmp_path / "more/it's bright" / f"{number}.mp4", 5, start=190 + number)
    results = ft.evaluate(run, [f"data.folder={tmp_path / 'more'}"], pictures=False)
    assert results["num_rows"] == 3 and (run / "evaluation/more/results.json").is_file()
    assert [each.split(",")[0] for each in told(results)] == [
        "This set has no clip of dark ones.",
        "There are no groups",
    ]


def test_what_the_model_learned_from_is_a_leak_in_another_set(run, other, clip_folder):
    shutil.copy(clip_folder / "train/dark ones/0.mp4", other.parent / "0.mp4")
    (other.parent / "1.mp4").unlink()
    (other.parent / "1.mp4").symlink_to(clip_folder / "val/dark ones/1.mp4")
    (leak,) = told(ft.evaluate(run, [f"data.manifest={other}"], pictures=False))
    opened = open_run(run)
    trained = saved_manifest(opened)
    tested = read_external_set(opened, trained, [f"data.manifest={other}"]).manifest
    trained = replace(trained, groups=np.where(trained.splits == "val", "g3", "g2"))
    trained.groups[trained.splits == "test"] = "g4"
    possible = overlap_warnings(trained, tested)[-1]["what"]
    assert possible == "Possible leak: 4 clips in groups whose names are also in the training data: g2, g3."
    assert leak.startswith("Leak: 2 evaluated files are exact duplicates of files that the model was trained or")


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        (["train.epochs=3"], RecipeError, "train: is a setting of training"),
        (
            ["data.val=0.3", "data.manifest=x.csv"],
            DataError,
            "data.val: an evaluation takes only data.manifest, data.folder",
        ),
        (
            ["data.group_pattern=(a)"],
            DataError,
            "name one set to evaluate on: data.manifest=FILE.csv or data.folder=DIR",
        ),
        (["data.manifest=nowhere.csv"], DataError, "there is no manifest 'nowhere.csv'"),
        (["data.manifst=x.csv"], RecipeError, "unknown key 'data.manifst'"),
    ],
)
def test_what_is_no_other_set_is_said(run, overrides, kind, words):
    with pytest.raises(kind, match=words):
        ft.evaluate(run, overrides)


@pytest.mark.slow
def test_tasks_that_the_other_set_lacks_are_left_out(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "new").mkdir()
    recipe = recipe_of(draw_clips(tmp_path / "clips"))
    manifest = manifest_of(recipe)
    run = train_from_recipe(recipe, manifest, out=tmp_path / "run")
    with draw_clips(tmp_path / "new", train=0, val=0, test=6).open(newline="") as file:
        lines = list(csv.DictReader(file))
    path = tmp_path / "new/few.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "x", "y", "w", "h", "size"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    results = ft.evaluate(run, [f"data.manifest={path}"], pictures=False)
    assert set(results["tasks"]) == {"way", "box", "size"} == set(TASKS) - {"track", "shade"}
    assert "It has no labels of track, shade." in told(results)
    whole = ft.evaluate(run, [f"data.manifest={tmp_path / 'new/manifest.csv'}"], pictures=False)
    assert whole["tasks"]["box"]["mean_iou"] == pytest.approx(results["tasks"]["box"]["mean_iou"])


@pytest.mark.slow
def test_moved_files_are_found_below_the_folder_that_stands_for_theirs(run, clip_folder, tmp_path, finetune):
    before = ft.evaluate(run, pictures=False)
    old = tmp_path / "old/place"
    shutil.copytree(clip_folder, old / "clips")
    recorded = (run / "manifest.csv").read_text()
    (run / "manifest.csv").write_text(recorded.replace(str(clip_folder), str(old / "clips")))
    (tmp_path / "old").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"16 of 16 files do not exist: .*if they were moved, .*--data-root DIR"):
        ft.evaluate(run)
    for root in (tmp_path / "away/place/clips", tmp_path / "away/place", tmp_path / "away"):
        after = ft.evaluate(run, data_root=root)
        assert after["tasks"] == before["tasks"]
    status, _, err = finetune("evaluate", run, "--data-root", tmp_path / "away", "--explain")
    assert status == 0
    assert f"16 files recorded below {old / 'clips'} are read below {tmp_path / 'away/place/clips'}" in err
    status, _, err = finetune("report", run, "--explain", "--data-root", tmp_path / "away/place")
    assert (status, f"are read below {tmp_path / 'away/place/clips'}" in err) == (0, True)
    status, _, err = finetune("report", run, "--data-root", tmp_path / "away/place")
    assert (status, "--data-root is only for --explain" in err) == (2, True)
    index = json.loads((run / "evaluation/pictures/index.json").read_text())
    assert index and all("cam" in each for each in index.values())
    (tmp_path / "away/place/clips/val/dark ones/1.mp4").unlink()
    words = r"1 of 16 files do not exist: .*val/dark ones/1.mp4; the run recorded them below .*old/place/clips: "
    with pytest.raises(DataError, match=words):
        ft.evaluate(run, data_root=tmp_path / "away")


@pytest.mark.slow
def test_a_run_goes_on_with_moved_files_and_remembers_where_they_are(trained_run, run, clip_folder, tmp_path, finetune):
    shutil.copytree(clip_folder, tmp_path / "moved")
    text = (run / "manifest.csv").read_text()
    (run / "manifest.csv").write_text(text.replace(str(clip_folder), "/gone/clips"))
    status, _, err = finetune("train", "--resume", run, "phases.2.epochs=2")
    assert (status, "--data-root DIR" in err) == (2, True)
    status, _, err = finetune("train", "--resume", run, "phases.2.epochs=2", "--data-root", tmp_path / "moved")
    assert status == 0, err
    assert f"16 files recorded below /gone/clips are read below {tmp_path / 'moved'}" in err
    assert str(saved_manifest(open_run(run)).path(0)).startswith(str(tmp_path / "moved"))
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 5
    status, _, err = finetune("train", "folder", "--data-root", tmp_path)
    assert (status, "with --resume" in err) == (2, True)


def test_paths_below_several_folders_are_mapped_by_the_longest_they_share(run, tmp_path):
    manifest = saved_manifest(open_run(run))
    names = [b"/data/a/x/1.mp4", b"/data/a/y/1.mp4", b"/data/b/1.mp4"] + [b"/data/b/2.mp4"] * 13
    there = replace(manifest, paths=np.array(names))
    for name in set(names):
        path = tmp_path / "store" / name.decode().removeprefix("/data/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = relocated(there, tmp_path / "store").paths.tolist()
    assert found == [str(tmp_path / "store" / name.decode().removeprefix("/data/")).encode() for name in names]
    with pytest.raises(DataError, match="1[0-9] of 16 files do not exist"):
        relocated(there, tmp_path / "store/a")


def test_masks_move_with_the_folder_of_the_videos(tmp_path):
    recipe = recipe_of_frames(draw_labelled_videos(tmp_path / "old", train=1, val=1, test=0), ("pixels", "objects"))
    manifest = manifest_of_frames(recipe)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = relocated(manifest, tmp_path / "new")
    masks = [Path(os.fsdecode(path)) for path in moved.tasks["pixels"].values]
    assert all(path.is_file() and path.parent == tmp_path / "new" / "masks" for path in masks)
    assert moved.tasks["objects"] is manifest.tasks["objects"]


def test_one_file_under_two_labels_is_refused_in_another_set(run, other):
    twice = changed(other, "1.mp4,dark ones,test", "1.mp4,dark ones,test,g\n./1.mp4,it's bright,test")
    opened = open_run(run)
    with pytest.raises(DataError, match="one file has two labels"):
        read_external_set(opened, saved_manifest(opened), [f"data.manifest={twice}"])
    with pytest.raises(RunError, match="no split 'tset'"):
        ft.evaluate(run, [f"data.manifest={other}"], split="tset")
