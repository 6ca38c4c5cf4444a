"""Folders of numbered images from end to end: checked, trained on, resumed, evaluated, predicted and drawn."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
from grey import TINY, make_images
from scenes import make_scene, scene

import finetune as ft
from finetune.checks.check_data import audit
from finetune.checks.rows import read_rows
from finetune.cli.manifest import load_manifest
from finetune.errors import RunError
from finetune.prediction.render import output_paths
from finetune.train.from_recipe import train_from_recipe
from finetune.train.state.data_digest import fingerprint, refuse_changed_files
from finetune.video.dataset import ClipDataset
from finetune.video.decode.probe import probe
from finetune.video.probe_files import inspect_files, scan_files


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`<split>/<class>/<video>/img_00001.png`: dark and bright videos of 6 images, more of each class to train on."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            make_images(root / split / "dark" / f"v{number}.avi", 6, start=16 + number, step=2)
            make_images(root / split / "bright" / f"v{number}.avi", 6, start=200 + number, step=2)
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Do not write into it, but for its evaluation."""
    recipe = ft.Recipe.model_validate(
        {
            "data": {"folder": str(data), "workers": 0, "image_rate": 5},
            "clip": {"num_frames": 3, "size": 32, "sampling": "fps", "fps": 5},
            "model": {"backbone": TINY, "weights": "none"},
            "augment": {"preset": "none", "flip": False},
            "phases": [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}],
            "train": {"batch_size": 4, "device": "cpu"},
        }
    )
    return train_from_recipe(recipe, load_manifest(recipe), out=tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.slow
def test_what_predict_says_of_a_folder_is_what_evaluation_says(run, data, tmp_path, finetune):
    assert finetune("evaluate", run)[0] == 0
    with (run / "evaluation/predictions.csv").open() as file:
        evaluated = {row["path"]: float(row["probability"]) for row in csv.DictReader(file)}
    assert sorted(evaluated) == sorted(str(path) for path in data.glob("test/*/*"))
    status, printed, err = finetune("predict", run, data / "test", "--json")
    assert status == 0
    assert {each["path"]: each["probability"] for each in json.loads(printed)} == evaluated
    assert "4 folders of numbered images: one clip each; --single-images treats each image as a clip" in err
    status, printed, err = finetune("predict", run, data / "test/dark/v0.avi", "--single-images", "--json")
    assert status == 0 and len(json.loads(printed)) == 6 and "numbered images" not in err


def test_the_rate_of_the_images_is_that_which_was_trained_with(run, data, tmp_path):
    from finetune.run.manifest import saved_manifest
    from finetune.run.read import open_run

    opened = open_run(run)
    assert opened.recipe.data.image_rate == saved_manifest(opened).image_rate == 5


def test_a_folder_is_drawn_to_a_video_of_its_images_at_their_rate(run, data, tmp_path, finetune):
    folder = data / "test/dark/v0.avi"
    status, _, err = finetune("predict", run, folder, "--draw", tmp_path / "drawn.mp4")
    assert status == 0, err
    info = probe(tmp_path / "drawn.mp4")
    assert (info.num_frames, info.fps, info.width) == (6, 5.0, 32)
    assert output_paths([data / "test"], tmp_path / "out")[0] == tmp_path / "out/bright/v0.avi"
    with pytest.raises(RunError, match="drawn.mp4: lies inside .*v0.avi"):
        output_paths([folder], folder / "drawn.mp4")


def test_a_run_of_images_by_themselves_predicts_images_by_themselves(run, data, tmp_path, finetune):
    alone = shutil.copytree(run, tmp_path / "run")
    rows = "".join(f"{number}.png,{label}\n" for number in range(4) for label in ("dark", "bright"))
    (alone / "manifest.csv").write_text("path,label\n" + rows)
    status, printed, err = finetune("predict", alone, data / "test/dark/v0.avi", "--json")
    images = [each["path"] for each in json.loads(printed)]
    assert status == 0 and images == [str(path) for path in sorted((data / "test/dark/v0.avi").iterdir())]
    assert "1 folder of numbered images: each image is a clip, as in training" in err


def test_a_run_notices_that_an_image_has_changed_before_it_goes_on(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    manifest = ft.Manifest.from_folder(tmp_path / "data")
    before = fingerprint(manifest, scan_files(manifest))
    dataset = ClipDataset(manifest, "test", clip=ft.Clip(num_frames=2, size=16), views=1)
    stamps = [dataset.stamp(row) for row in range(2)]
    make_images(manifest.path(1), 1, first=3, start=90)
    (manifest.path(1) / "img_00003.png").write_bytes((manifest.path(1) / "img_00003.png").read_bytes() + b" ")
    assert dataset.stamp(0) == stamps[0] and dataset.stamp(1) != stamps[1]
    with pytest.raises(ft.DataError, match=r"v1\.avi: changed since the run began \(1 of 16 files\)"):
        refuse_changed_files(manifest, before, fingerprint(manifest, scan_files(manifest)))


def checked(folder, **settings):
    rows = read_rows(folder, group_pattern=None, shares=(0.15, 0.2, 0), **settings)
    result, left = audit(rows, inspect_files(rows.paths, seconds=60))
    return {finding["kind"]: finding for finding in result["findings"]}, result, left


def frames_of_scenes(folder, *, name, seeds, loose=False, count=6):
    """Scenes as folders of images; `loose`: all in the folder itself."""
    for video, seed in enumerate(seeds):
        for number, frame_HWC in enumerate(scene(seed, count), start=1):
            path = folder / (name.format(video, number) if loose else f"v{video}/{name.format(number)}")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.ascontiguousarray(frame_HWC))


@pytest.mark.slow
def test_check_takes_folders_as_clips_and_names_the_image_that_is_broken(tmp_path):
    for split, start in (("train", 0), ("val", 10), ("test", 20)):
        for number, label in enumerate(("jumps", "waves")):
            seeds = range(start + 100 * number, start + 100 * number + 3)
            frames_of_scenes(tmp_path / split / label, name="frame{}.jpg", seeds=seeds)
    found, result, left = checked(tmp_path)
    assert "image_sequences" in found and not any(each["severity"] == "mend" for each in found.values())
    assert found["image_sequences"]["what"].startswith("18 folders of numbered images: each folder is one clip")
    assert result["num_files"] == len(left) == 18 and result["files"][0]["num_frames"] == 6
    (tmp_path / "train/jumps/v0/frame4.jpg").write_bytes(b"broken")
    shutil.copytree(tmp_path / "test/waves/v1", tmp_path / "train/waves/v9")
    make_images(tmp_path / "train/waves/v0", 2, name="mask_{}.png")
    found, result, _ = checked(tmp_path)
    assert [(each["file"], each["reason"].split(":")[0]) for each in result["unreadable"]] == [
        ("train/jumps/v0", "frame4.jpg")
    ]
    assert sorted(found["exact_copies"]["files"]) == ["test/waves/v1", "train/waves/v9"]
    assert "train/waves/v0: holds frame*.jpg, mask_*.png" in found["unclear_images"]["what"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["img_{0}{1:04}.jpg", "v{}_{}.jpg"])
def test_frames_beside_one_another_in_the_folder_of_their_class_are_a_warning(tmp_path, name):
    for label, start in (("jumps", 0), ("waves", 50)):
        frames_of_scenes(tmp_path / label, name=name, seeds=range(start, start + 6), loose=True)
    found, _, _ = checked(tmp_path)
    assert found["loose_frames"]["severity"] == "warning" and len(found["loose_frames"]["files"]) == 72
    assert found["loose_frames"]["what"].startswith("72 images look like numbered video frames")


def test_numbered_images_of_different_things_are_no_frames(tmp_path):
    for label, start in (("jumps", 0), ("waves", 50)):
        frames_of_scenes(tmp_path / label, name="{0:05}.jpg", seeds=range(start, start + 20), loose=True, count=1)
    make_scene(tmp_path / "jumps/1.mp4", 99)
    assert "loose_frames" not in checked(tmp_path)[0]
