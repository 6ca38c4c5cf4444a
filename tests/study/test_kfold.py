"""Cross-validation: each clip tested once, and what the folds give together: metrics, calibration, frames, a page."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from grey import TINY, make_clip

import finetune as ft
from finetune.cli.manifest import load_manifest
from finetune.metrics.calibration import apply_temperature, calibration_metrics
from finetune.metrics.intervals import paired_difference, widen_for_pooled_folds
from finetune.model.backbone.backbone import build_backbone
from finetune.study.kfold import kfold

pytestmark = pytest.mark.slow  # all use one study, which takes long


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """The recipe of a head on weights from a file, then all of it, for 24 clips of 8 people."""
    root = tmp_path_factory.mktemp("kfold")
    rng = np.random.default_rng(0)
    lines = ["path,label,group"]
    for number in range(24):
        start = int(rng.integers(60, 200) if number % 2 else rng.integers(16, 150))
        make_clip(root / f"{number}.mp4", start=start, step=2)
        lines.append(f"{number}.mp4,{'bright' if number % 2 else 'dark'},person {number // 3}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    torch.save(build_backbone(TINY, weights="none", size=32).net.state_dict(), root / "weights.pth")
    path = root / "grey.yaml"
    path.write_text(
        f"data: {{manifest: {root}/clips.csv, workers: 0, val: 0.3}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: {root}/weights.pth}}\n"
        f"train: {{batch_size: 4, cache: features, cache_dir: {root}/cache}}\n"
        "phases: [{unfreeze: head, epochs: 1, lr: 1e-2}, {unfreeze: all, epochs: 1, lr: 1e-3}]\n"
    )
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file):
    return ft.load_recipe(str(recipe_file))


@pytest.fixture(scope="module")
def manifest(recipe):
    return load_manifest(recipe, whole=True)


@pytest.fixture(scope="module")
def folder(recipe_file, recipe, manifest):
    """A finished study of three folds, where the command has it by default; do not write into it."""
    out = recipe_file.parent / "runs/grey-3-fold"
    kfold(recipe, manifest, folds=3, out=out)
    return out


def lines_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results_of(run):
    return json.loads((run / "evaluation/results.json").read_text())


def of_folds(folder, look):
    """What `look` gives of each fold, row by row, in the order of the whole table."""
    of_path = {}
    for number in (1, 2, 3):
        run = folder / f"fold-{number}"
        rows = lines_of(run / "evaluation/predictions.csv")
        of_path |= {row["path"]: value for row, value in zip(rows, look(run), strict=True)}
    return np.array([of_path[row["path"]] for row in lines_of(folder / "evaluation/predictions.csv")])


def calibrated_by_fold(run):
    temperature = json.loads((run / "checkpoints/best/meta.json").read_text())["temperature"]
    return apply_temperature(np.load(run / "evaluation/probabilities.npy"), temperature)


def truth(folder):
    lines = lines_of(folder / "evaluation/predictions.csv")
    labels = np.array([["bright", "dark"].index(line["label"]) for line in lines])
    return labels, np.array([line["group"] for line in lines])


def test_every_clip_is_tested_once_by_a_model_that_did_not_see_its_group(folder):
    results = results_of(folder)
    assert np.array(results["tasks"]["label"]["confusion"]).sum() == results["num_rows"] == 24
    assert (results["num_groups"], [fold["run"] for fold in results["folds"]]) == (8, ["fold-1", "fold-2", "fold-3"])
    pooled = {line["path"]: line for line in lines_of(folder / "evaluation/predictions.csv")}
    assert len(pooled) == 24
    for number in (1, 2, 3):
        rows = lines_of(folder / f"fold-{number}/manifest.csv")
        groups = {split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
        assert groups["test"] and groups["val"] and groups["train"]
        assert sum(len(names) for names in groups.values()) == 8
        for line in lines_of(folder / f"fold-{number}/evaluation/predictions.csv"):
            assert pooled.pop(line["path"]) == line
    assert not pooled


def test_the_pooled_metrics_are_those_of_the_predictions(folder):
    lines, results = lines_of(folder / "evaluation/predictions.csv"), results_of(folder)
    top1 = np.mean([line["label"] == line["predicted"] for line in lines])
    assert results["tasks"]["label"]["top1"] == pytest.approx(top1)
    shares = [fold["num_rows"] for fold in results["folds"]]
    assert np.average([fold["top1"] for fold in results["folds"]], weights=shares) == pytest.approx(top1)
    probs_NK = np.load(folder / "evaluation/probabilities.npy")
    classes = results["tasks"]["label"]["classes"]
    assert [classes[code] for code in probs_NK.argmax(1)] == [line["predicted"] for line in lines]


def test_calibrated_is_each_fold_by_its_own_temperature(folder):
    labels, groups = truth(folder)
    calibrated = of_folds(folder, calibrated_by_fold)
    with widen_for_pooled_folds():
        wanted = calibration_metrics(labels, calibrated, groups)
    pooled = results_of(folder)["tasks"]["label"]["calibrated"]
    assert pooled.keys() == {*wanted, "abstain_at"}, "there is no one temperature"
    assert pooled["abstain_at"][-1]["threshold"] == pytest.approx(
        np.sort(calibrated.max(1))[::-1][len(calibrated) // 2 - 1]
    )
    for key in ("ece", "brier", "log_loss", "gap"):
        assert pooled[key] == pytest.approx(wanted[key], abs=1e-6), key
    assert pooled["gap_ci"] == pytest.approx(wanted["gap_ci"], abs=1e-6)
    folds = [results_of(folder / f"fold-{number}") for number in (1, 2, 3)]
    assert len({fold["tasks"]["label"]["calibrated"]["temperature"] for fold in folds}) > 1


def test_the_frozen_baseline_is_that_of_the_folds(folder):
    labels, groups = truth(folder)
    wanted = of_folds(folder, lambda run: np.load(run / "evaluation/frozen.npy"))
    np.testing.assert_array_equal(np.load(folder / "evaluation/frozen.npy"), wanted)
    probs = of_folds(folder, lambda run: np.load(run / "evaluation/probabilities.npy"))
    correct, frozen_correct = (each.argmax(1) == labels for each in (probs, wanted))
    with widen_for_pooled_folds():
        difference, interval = paired_difference(correct, frozen_correct, groups=groups)
    usual = paired_difference(correct, frozen_correct, groups=groups)[1]
    assert interval[1] - interval[0] > usual[1] - usual[0] or interval == (-1, 1)
    assert results_of(folder)["tasks"]["label"]["frozen"] == {
        "top1": frozen_correct.mean(), "difference": difference, "difference_ci": list(interval)
    }  # fmt: skip


def test_the_page_shows_the_folds_frames_of_their_clips_and_what_was_calibrated(folder):
    index = json.loads((folder / "evaluation/pictures/index.json").read_text())
    assert index and set(index) <= {line["path"] for line in lines_of(folder / "evaluation/predictions.csv")}
    page = (folder / "evaluation/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= len(index)
    assert "temperature scaling, fitted on the validation clips of each fold" in page
    assert "Frozen backbone" in page
    assert [warning["what"] for warning in results_of(folder)["warnings"]] == []
    assert "Results per fold" in page
    assert page.count("../fold-2/evaluation/report.html") == 1
    assert (folder / "fold-2/evaluation/report.html").is_file()
    assert "metrics.jsonl</b> for this run" not in page


def test_folds_share_cached_features(folder, recipe):
    caches = [json.loads((folder / f"fold-{n}/metrics.jsonl").read_text().splitlines()[0])["cache"] for n in (1, 2, 3)]
    computed = [cache["rows"] for cache in caches]
    assert computed[0] > computed[1] > 0 and computed[2] < computed[0] / 2
    sets = recipe.train.cache_dir.glob("*/set.json")
    (training,) = [path.parent for path in sets if '"drawn": {' in path.read_text()]
    items = [json.loads(shard.read_bytes()[:64])["items"] for shard in training.glob("*.shard")]
    assert sum(items) <= 24, "no clip is computed twice"


def test_an_interrupted_fold_is_resumed_and_ends_as_if_it_had_not_been(folder, recipe, manifest, tmp_path, signal_at):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    shutil.rmtree(out / "fold-2")
    shutil.rmtree(out / "evaluation")
    signal_at(3)
    with pytest.raises(KeyboardInterrupt):
        kfold(recipe, manifest, folds=3, out=out)
    assert (out / "fold-2/checkpoints/last").is_dir() and not (out / "fold-2/evaluation").exists()
    kfold(recipe, manifest, folds=3, out=out)
    for name in ("predictions.csv", "probabilities.npy", "frozen.npy"):
        assert (out / "evaluation" / name).read_bytes() == (folder / "evaluation" / name).read_bytes()


def test_the_command_ends_with_the_folder(folder, monkeypatch, finetune):
    monkeypatch.chdir(folder.parents[1])
    status, out, err = finetune("kfold", "grey.yaml", "--folds", 3)
    assert status == 0 and "fold 1 of 3: fold-1, already finished" in err
    lines = out.splitlines()
    assert lines[0] == "fold  clips  top-1"
    assert lines[-1] == "runs/grey-3-fold"
    assert "on 24 clips" in lines[-3]
