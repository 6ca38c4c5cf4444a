"""Runs on rows that are intervals of recordings, from training to the report."""

import csv
import json

import numpy as np
import pytest
import torch
from grey import TINY, grey_frames
from killed import run_to_the_end
from safetensors.torch import load_file

import finetune as ft
from finetune.video.encode import write_video

RECIPE = """
data: {{manifest: {root}/clips.csv, workers: 0}}
clip: {{num_frames: 2, size: 32}}
model: {{backbone: {tiny}, weights: none}}
phases: [{{unfreeze: all, epochs: 2, lr: 1e-2, batch_norm: train}}]
train: {{batch_size: 4, cache_dir: {root}/cache}}
"""
PARTS = (("dark", 20, 10), ("bright", 180, 8))  # class, first level, frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six recordings of dark and bright parts at 25 frames a second, each part a row; two are val and test."""
    root = tmp_path_factory.mktemp("recordings")
    (root / "videos").mkdir()
    lines = ["path,start,end,label,split"]
    for number in range(6):
        parts = [(*part, place) for place, part in enumerate(PARTS * 2)]
        frames = [grey_frames(count, start=level + number + place, step=2) for _, level, count, place in parts]
        write_video(root / "videos" / f"{number}.mp4", np.concatenate(frames), fps=25)
        start = 0
        for name, _, count, _ in parts:
            split = {0: "val", 1: "test"}.get(number, "train")
            lines.append(f"videos/{number}.mp4,{start / 25:g},{(start + count) / 25:g},{name},{split}")
            start += count
    (root / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "recipe.yaml").write_text(RECIPE.format(root=root, tiny=TINY), encoding="utf-8")
    return root


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_training_evaluation_prediction_and_report_name_the_intervals(folder, tmp_path, finetune):
    status, _, err = finetune("train", folder / "recipe.yaml", "--out", tmp_path / "run")
    assert status == 0, err
    tested = rows_of(tmp_path / "run/evaluation/predictions.csv")
    times = [("0", "0.4"), ("0.4", "0.72"), ("0.72", "1.12"), ("1.12", "1.44")]
    assert [(row["start"], row["end"]) for row in tested] == times
    assert {row["group"] for row in tested} == {"videos/1.mp4"}
    found = ft.predict(tmp_path / "run", [(row["path"], float(row["start"]), float(row["end"])) for row in tested])
    assert [json.loads(row["top_k"]) for row in tested] == [list(map(list, each.top_k)) for each in found]
    page = (tmp_path / "run/evaluation/report.html").read_text(encoding="utf-8")
    assert "videos/1.mp4 (0.4–0.72 s)" in page
    table = f"data.manifest={folder / 'clips.csv'}"
    status, _, err = finetune("evaluate", tmp_path / "run", table, "--explain", "--out", tmp_path / "other")
    assert status == 0, err
    assert len(rows_of(tmp_path / "other/predictions.csv")) == 24
    assert len([*(tmp_path / "other").rglob("*-cam.jpg")]) == len([*(tmp_path / "other").rglob("*.jpg")]) / 2


@pytest.mark.slow
def test_studies_take_intervals(folder, tmp_path, finetune):
    for command in ("kfold", "probe"):
        options = ("--folds", 2) if command == "kfold" else ()
        status, out, err = finetune(command, folder / "recipe.yaml", *options, "--out", tmp_path / command)
        assert status == 0, (out, err)


@pytest.mark.slow
def test_killed_within_an_epoch_a_run_on_intervals_goes_on_bit_for_bit(folder, tmp_path):
    table = folder / "clips.csv"
    assert run_to_the_end("averaged", table, tmp_path / "whole")
    assert not run_to_the_end("averaged", table, tmp_path / "run", kill_at=41)
    assert run_to_the_end("averaged", table, tmp_path / "run")
    for which in ("best", "last"):
        one, other = (load_file(tmp_path / f"{run}/checkpoints/{which}/model.safetensors") for run in ("run", "whole"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
