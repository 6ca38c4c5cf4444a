"""What folds tell together beside their scores: calibrated, with the backbone frozen, frames and warnings."""

import csv
import json

import numpy as np
import pytest
import torch
from grey import TINY, make_clip

import finetune as ft
from finetune.metrics.calibration import apply_temperature, calibration
from finetune.metrics.intervals import paired_difference, widen_for_pooled_folds
from finetune.model.backbone.backbone import build_backbone
from finetune.report.run.page import write_report
from finetune.study.kfold import kfold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folds of 24 clips of 8 people; a head on weights from a file, then all of it."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    lines = ["path,label,group"]
    for number in range(24):
        start = int(rng.integers(60, 200) if number % 2 else rng.integers(16, 150))
        make_clip(root / f"{number}.mp4", start=start, step=2)
        lines.append(f"{number}.mp4,{'bright' if number % 2 else 'dark'},person {number // 3}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    torch.save(build_backbone(TINY, weights="none", size=32).net.state_dict(), root / "weights.pth")
    recipe = ft.Recipe(
        clip=ft.Clip(num_frames=2, size=32),
        model=ft.Model(backbone=TINY, weights=str(root / "weights.pth")),
        train=ft.Train(batch_size=4, cache="off"),
        data=ft.Data(workers=0, val=0.3),
        phases=(ft.Phase(train="head", epochs=1, lr=1e-2), ft.Phase(train="all", epochs=1, lr=1e-3)),
    )
    whole = ft.Manifest.from_csv(root / "clips.csv", val=0, test=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.study.kfold.write_report", lambda run: run)
        return kfold(recipe, whole, folds=2, out=root / "run")


def results_of(run):
    return json.loads((run / "evaluation/results.json").read_text())


def rows_of(run):
    with (run / "evaluation/predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_folds(folder, look):
    """What `look` gives of each fold, row by row, in the order of the whole table."""
    of_path = {}
    for number in (1, 2):
        run = folder / f"fold-{number}"
        of_path |= {row["path"]: value for row, value in zip(rows_of(run), look(run), strict=True)}
    return np.array([of_path[row["path"]] for row in rows_of(folder)])


def tempered_by_fold(run):
    temperature = json.loads((run / "checkpoints/best/meta.json").read_text())["temperature"]
    return apply_temperature(np.load(run / "evaluation/probabilities.npy"), temperature)


def truth(folder):
    labels = np.array([["bright", "dark"].index(row["label"]) for row in rows_of(folder)])
    return labels, np.array([row["group"] for row in rows_of(folder)])


@pytest.mark.slow
def test_calibrated_is_each_fold_by_its_own_temperature(folder):
    labels, groups = truth(folder)
    calibrated = of_folds(folder, tempered_by_fold)
    with widen_for_pooled_folds():
        wanted = calibration(labels, calibrated, groups)
    found = results_of(folder)["tasks"]["label"]["calibrated"]
    assert found.keys() == {*wanted, "abstain_at"}, "there is no one temperature"
    assert found["abstain_at"][-1]["threshold"] == pytest.approx(
        np.sort(calibrated.max(1))[::-1][len(calibrated) // 2 - 1]
    )
    for key in ("ece", "brier", "log_loss", "gap"):
        assert found[key] == pytest.approx(wanted[key], abs=1e-6), key
    assert found["gap_ci"] == pytest.approx(wanted["gap_ci"], abs=1e-6)
    temperatures = [results_of(folder / f"fold-{n}")["tasks"]["label"]["calibrated"]["temperature"] for n in (1, 2)]
    assert temperatures[0] != temperatures[1]


@pytest.mark.slow
def test_the_frozen_baseline_is_that_of_the_folds(folder):
    labels, groups = truth(folder)
    wanted = of_folds(folder, lambda run: np.load(run / "evaluation/frozen.npy"))
    np.testing.assert_array_equal(np.load(folder / "evaluation/frozen.npy"), wanted)
    probs = of_folds(folder, lambda run: np.load(run / "evaluation/probabilities.npy"))
    right, frozen_right = (each.argmax(1) == labels for each in (probs, wanted))
    found = results_of(folder)["tasks"]["label"]["frozen"]
    with widen_for_pooled_folds():
        difference, interval = paired_difference(right, frozen_right, groups=groups)
    usual = paired_difference(right, frozen_right, groups=groups)[1]
    assert interval[1] - interval[0] > usual[1] - usual[0] or interval == (-1, 1)
    assert found == {"top1": frozen_right.mean(), "difference": difference, "difference_ci": list(interval)}


@pytest.mark.slow
def test_the_page_of_all_folds_has_frames_of_their_clips_and_what_was_calibrated(folder):
    index = json.loads((folder / "evaluation/pictures/index.json").read_text())
    assert index and set(index) <= {row["path"] for row in rows_of(folder)}
    page = write_report(folder, figures_too=False).read_text()
    assert page.count("data:image/jpeg;base64,") >= len(index)
    assert "each fold's probabilities at a temperature fitted" in page.replace("&#39;", "'")
    assert "With the backbone frozen" in page
    assert [each["what"] for each in results_of(folder)["warnings"]] == []
