"""Clips of classes that the model does not know: what training keeps to reject them, and what an evaluation says."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from grey import TINY, make_clip

import finetune as ft
from finetune.errors import DataError, RecipeError
from finetune.metrics.open_set import SCORES, auroc
from finetune.report.run.page import write_report
from finetune.run.manifest import saved_manifest

LEVELS = {"dark": 20, "bright": 200, "middle": 110}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Dark, bright and middle clips: 8 train, 4 val and 4 test of each, in groups of three, one of each class."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,label,split,group"]
    for number, split in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 4):
        for label, level in LEVELS.items():
            make_clip(folder / f"{label}{number}.mp4", 6, start=level + 2 * number, step=2)
            lines.append(f"{label}{number}.mp4,{label},{split},g{number}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def train(manifest, out, **evaluate):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    settings = {"clip": ft.Clip(num_frames=2), "train": ft.Train(cache="off"), "evaluate": ft.Evaluate(**evaluate)}
    return ft.fit(model, manifest, ft.Phase(epochs=2, lr=1e-2), **settings, out=out, quiet=True)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    manifest = ft.leave_out_classes(ft.Manifest.from_csv(clips), ["middle"])
    run = train(manifest, tmp_path_factory.mktemp("runs") / "run", unknown=["middle"], views=2)
    ft.evaluate(run)
    return run


def open_set_of(evaluation):
    return json.loads((evaluation / "results.json").read_text())["tasks"]["label"]["open_set"]


def test_training_keeps_the_scores_of_the_val_clips_with_the_best_weights(trained_run, tmp_path):
    saved = json.loads((trained_run / "checkpoints/best/meta.json").read_text())["known_scores"]
    assert saved["score"] == "max_probability"
    ft.evaluate(trained_run, split="val", out=tmp_path / "val", pictures=False)
    probabilities_NK = np.load(tmp_path / "val/probabilities.npy")
    assert saved["values"] == pytest.approx(np.sort(probabilities_NK.max(1)), abs=1e-5)
    assert "known_scores" not in (trained_run / "metrics.jsonl").read_text()


def test_the_model_does_not_know_the_class_and_its_test_clips_are_scored(run):
    assert ft.load(run).classes == ("bright", "dark")
    assert "middle" not in (run / "manifest.csv").read_text()
    results = open_set_of(run / "evaluation")
    assert (results["num_known"], results["num_unknown"], results["classes"]) == (8, 4, {"middle": 4})
    assert set(results["scores"]) == set(SCORES)
    assert results["rejected"] is None  # 8 val clips support no share of 0.05
    with (run / "evaluation/predictions.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"bright", "dark"}


def test_the_scores_are_those_of_predictions(run, clips):
    manifest = saved_manifest(ft.open_run(run))
    known = [manifest.path(row) for row in manifest.rows("test")]
    unknown = [clips.parent / f"middle{number}.mp4" for number in range(12, 16)]
    # With the mean of probabilities of two views, the largest is that of their mean where both name the same class.
    largest = [np.array([item.top_k[0][1] for item in ft.predict(run, paths)]) for paths in (known, unknown)]
    expected = open_set_of(run / "evaluation")["scores"]["max_probability"]["auroc"]
    assert auroc(*largest) == pytest.approx(expected, abs=0.1)


def test_a_split_and_other_settings_can_be_evaluated_again(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    ft.evaluate(own, split="val", pictures=False)
    assert open_set_of(own / "evaluation/val")["num_unknown"] == 4
    ft.evaluate(own, views=1, pictures=False)
    assert open_set_of(own / "evaluation")["rejected"] is None


def test_with_enough_val_clips_the_rejected_shares_are_stated(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    path = own / "checkpoints/best/meta.json"
    scores = {"score": "max_probability", "values": [0.0] * 2 + [2.0] * 38}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"known_scores": scores}))
    ft.evaluate(own, pictures=False)
    rejected = open_set_of(own / "evaluation")["rejected"]
    assert (rejected["share"], rejected["threshold"], rejected["known"], rejected["unknown"]) == (0.05, 2.0, 1.0, 1.0)
    assert 0 < rejected["unknown_ci"][0] < 1


def test_the_report_and_the_terminal_say_how_well_unknown_clips_are_told(run, tmp_path, finetune):
    own = shutil.copytree(run, tmp_path / "run")
    status, printed, err = finetune("evaluate", own, "--no-pictures")
    assert status == 0, err
    (line,) = (line for line in printed.splitlines() if line.startswith("unknown "))
    assert "AUROC 0." in line or "AUROC 1." in line
    assert "of 4 clips accepted with 95 % of the known" in line
    page = (own / "evaluation/report.html").read_text()
    assert '<a href="#unknown">' in page and "Unknown classes" in page and "Accuracy vs. coverage" in page
    assert "4 clips of unknown classes" in (own / "evaluation/report.md").read_text()


def test_a_run_without_unknown_classes_says_nothing_of_them(trained_run, tmp_path):
    own = shutil.copytree(trained_run, tmp_path / "run")
    results = ft.evaluate(own, pictures=False)
    assert "open_set" not in results["tasks"]["label"]
    assert "Unknown classes" not in write_report(own).read_text()
    assert not (own / "unknown.csv").exists()


def test_rows_of_another_set_with_unknown_classes_are_scored_on_request(run, clips, tmp_path):
    lines = [f"{clips.parent / f'{label}{number}.mp4'},{label}" for number in (12, 13, 14) for label in LEVELS]
    other = tmp_path / "other.csv"
    other.write_text("\n".join(["path,label", *lines]) + "\n")
    with pytest.raises(DataError, match="middle .3 rows.*use them with --unknown-classes score"):
        ft.evaluate(run, [f"data.manifest={other}"])
    results = ft.evaluate(
        run, [f"data.manifest={other}"], unknown_classes="score", out=tmp_path / "out", pictures=False
    )
    assert results["num_rows"] == 6
    open_set = results["tasks"]["label"]["open_set"]
    assert (open_set["num_known"], open_set["classes"]) == (6, {"middle": 3})
    skipped = ft.evaluate(
        run, [f"data.manifest={other}"], unknown_classes="skip", out=tmp_path / "skip", pictures=False
    )
    assert "open_set" not in skipped["tasks"]["label"]


def test_a_manifest_that_still_has_the_class_is_refused_before_training(clips, tmp_path):
    with pytest.raises(RecipeError, match=r"evaluate.unknown is \['middle'\], but the classes left out .* are \[\]"):
        train(ft.Manifest.from_csv(clips), tmp_path / "run", unknown=["middle"])


def test_an_unknown_file_that_cannot_be_read_is_found_before_training(clips, tmp_path):
    folder = shutil.copytree(clips.parent, tmp_path / "clips")
    (folder / "middle13.mp4").write_text("nothing")
    manifest = ft.leave_out_classes(ft.Manifest.from_csv(folder / "clips.csv"), ["middle"])
    with pytest.raises(DataError, match="(?s)middle13.mp4: is not a video.*1 of 16 files cannot be read"):
        train(manifest, tmp_path / "run", unknown=["middle"])


@pytest.mark.slow
def test_the_command_trains_without_the_class_and_resumes(clips, tmp_path, finetune):
    settings = [f"data.manifest={clips}", f"model.backbone={TINY}", "model.weights=none", "clip.size=32"]
    settings += ["clip.num_frames=2", "phases={schedule: head_only, epochs: 1}", "train.cache=off", "data.workers=0"]
    status, printed, err = finetune(
        "train", "folder", *settings, "evaluate.unknown=[middle]", "--out", tmp_path / "run"
    )
    assert status == 0, err
    assert "left out of training: 16 clips of middle" in err
    assert "test unknown: AUROC" in printed
    assert finetune("train", "folder", *settings, "evaluate.unknown=[midle]")[0] == 2
    before = (tmp_path / "run/unknown.csv").read_bytes()
    status, printed, err = finetune("train", "--resume", tmp_path / "run")
    assert (status, before) == (0, (tmp_path / "run/unknown.csv").read_bytes()), err
    assert "test unknown: AUROC" in printed
    moved = shutil.copytree(clips.parent, tmp_path / "moved")
    results = ft.evaluate(tmp_path / "run", data_root=moved, pictures=False)
    assert results["tasks"]["label"]["open_set"]["num_unknown"] == 4
