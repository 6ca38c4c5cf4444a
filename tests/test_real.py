"""Real clips and real ImageNet weights, on machines that have them."""

import csv
import json

import pytest

pytestmark = pytest.mark.real


@pytest.mark.slow
def test_clips_of_ten_people_train_to_a_report_whose_test_sequences_are_in_no_other_split(
    real, tmp_path, monkeypatch, finetune
):
    monkeypatch.setenv("FINETUNE_WEIGHTS", str(real / "weights"))
    overrides = [
        f"data.manifest={real / 'data/ut_interaction/clips.csv'}",
        "model.backbone=mobilenetv2_100",
        *("data.workers=0", "clip.size=96", "phases.0.epochs=8", "phases.1.epochs=1"),
    ]
    status, _, err = finetune("train", "folder", *overrides, "--out", tmp_path / "run")
    assert status == 0, err
    with (tmp_path / "run/manifest.csv").open() as file:
        splits_of = {}
        for row in csv.DictReader(file):
            splits_of.setdefault(row["group"], set()).add(row["split"])
    assert len(splits_of) == 20
    assert all(len(splits) == 1 for splits in splits_of.values())
    results = json.loads((tmp_path / "run/evaluation/results.json").read_text())
    assert results["num_groups"] == sum(splits == {"test"} for splits in splits_of.values())
    assert results["tasks"]["label"]["top1"] > 0.3  # chance is 0.167
    assert (tmp_path / "run/evaluation/report.html").stat().st_size > 20_000


def test_class_names_with_spaces_and_apostrophes_survive(real, tmp_path):
    import finetune as ft

    manifest = ft.Manifest.from_csv(real / "data/yoga_poses/clips.csv")
    assert "child_s pose" in manifest.classes
    info = ft.probe(manifest.path(int(manifest.rows("test")[0])))
    assert (info.width, info.height) == (854, 480)
