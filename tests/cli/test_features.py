"""`finetune features`: filled ahead, listed, pruned; runs then read it."""

import json
import os
import re
import subprocess
import sys

import pytest
from grey import TINY

PHASES = (
    "phases=[{unfreeze: head, epochs: 3}, {unfreeze: layer4, epochs: 1}, {unfreeze: [layer3, head], epochs: 1}, "
    "{unfreeze: all, epochs: 1}]"
)


@pytest.fixture
def settings(clip_folder, tmp_path):
    return [
        f"data.folder={clip_folder}",
        "data.workers=0",
        "clip.num_frames=2",
        "clip.size=32",
        f"model.backbone={TINY}",
        "model.weights=none",
        f"train.cache_dir={tmp_path / 'kept'}",
        "train.precision=fp32",
        PHASES,
    ]


@pytest.mark.slow
def test_what_is_filled_ahead_is_what_a_run_reads(finetune, settings, tmp_path):
    status, out, _ = finetune("features", "folder", *settings)
    assert status == 0
    assert re.sub(r"\d[\d.]* kB", "SIZE", out).splitlines() == [
        "head: backbone features of 28 clip views, SIZE, 28 computed now",
        "layer4: inputs of layer4 of 12 clip views, SIZE, 12 computed now",
        "layer3, head: not cached: an earlier phase trains its frozen part",
        "all: not cached: it has no frozen part",
        str(tmp_path / "kept"),
    ]
    again = finetune("features", "folder", *settings)[1]
    assert ", 0 computed now" in again.splitlines()[0]
    status, out, err = finetune("train", "folder", *settings, "train.cache=boundary", "--out", tmp_path / "run")
    assert status == 0, err
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["cache"]["rows"] for record in records if "cache" in record][:4] == [0, 0, 0, 0]
    report = (tmp_path / "run/evaluation/report.html").read_text()
    assert "Caching frozen features: " in report and "Caching the inputs of layer4: " in report


def test_what_is_kept_is_listed_and_pruned_by_age(finetune, settings, tmp_path):
    finetune("features", "folder", *settings)
    status, out, _ = finetune("features", "--list", "--folder", tmp_path / "kept")
    assert status == 0
    lines = out.splitlines()
    assert any(TINY in line and "features" in line and "training, 2 frames of 32 px" in line for line in lines)
    assert any("layer4" in line and "evaluation" in line for line in lines)
    assert lines[-1].endswith(f" kB in {tmp_path / 'kept'}")
    folders = list((tmp_path / "kept").iterdir())
    os.utime(folders[0] / "set.json", (0, 0))
    out = finetune("features", "--prune", "--folder", tmp_path / "kept")[1]
    assert out.startswith(f"deleted 1 of {len(folders)} entries") and not folders[0].exists()
    out = finetune("features", "--prune", "--days", "0", "--folder", tmp_path / "kept")[1]
    assert f"deleted {len(folders) - 1} of {len(folders) - 1} entries" in out and "0 B left" in out
    assert not list((tmp_path / "kept").iterdir())


def test_listing_and_pruning_wait_for_no_torch(tmp_path):
    code = (
        "import sys; from finetune.cli.main import app; "
        "app(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    )
    for what in ("--list", "--prune"):
        command = [sys.executable, "-c", code, "features", what, "--folder", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


def test_what_makes_no_sense_is_refused(finetune, settings, tmp_path):
    assert finetune("features")[0] == 2
    assert "take no recipe" in finetune("features", "folder", "--list")[2]
    status, _, err = finetune("features", "folder", *settings, "train.cache=off")
    assert status == 2 and "train.cache is off" in err
    status, _, err = finetune("features", "folder", *settings, "train.cache_budget_gb=1e-6")
    assert status == 2 and "raise it or make room, or set fewer augment.cached_views" in err


def test_a_dry_run_says_where_frozen_work_is_done_once(finetune, settings):
    status, out, _ = finetune("train", "folder", *settings, "train.cache=boundary", "--dry-run")
    assert status == 0
    assert "Frozen features cached: phase 1, 2, 3." in out.splitlines()
    assert max(map(len, out.splitlines())) <= 80
    out = finetune("train", "folder", *settings, "train.cache=off", "--dry-run")[1]
    assert "Frozen features cached" not in out
