"""Several seeds of one recipe: the same rows, each a run, each report naming the others; and the list of runs."""

import json
import shutil
import statistics
from pathlib import Path

import pytest
from grey import TINY, make_clip

from finetune.cli.train import evaluate_and_report
from finetune.storage.atomic import write_json

SETTINGS = [
    "folder",
    f"model.backbone={TINY}",
    "model.weights=none",
    "clip.num_frames=2",
    "clip.size=32",
    "data.workers=0",
    "phases=[{unfreeze: head, epochs: 1, lr: 1e-2}]",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(20):
        label = "bright" if number % 2 else "dark"
        (folder / label).mkdir(exist_ok=True)
        make_clip(folder / label / f"{number}.mp4", start=(180 if number % 2 else 16) + number, step=1)
    return folder


@pytest.mark.slow
def test_seeds_train_on_the_same_rows_and_name_each_other(finetune, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", *SETTINGS, f"data.folder={clips}", "seed=5", "--seeds", "2"]
    status, out, _ = finetune(*command)
    assert status == 0
    folder = Path(out.splitlines()[-1])
    assert folder == Path("runs/folder-2-seeds")
    runs = [folder / "seed-5", folder / "seed-6"]
    assert runs[0].joinpath("manifest.csv").read_bytes() == runs[1].joinpath("manifest.csv").read_bytes()
    values = []
    for run, other in zip(runs, runs[::-1], strict=True):
        results = json.loads((run / "evaluation/results.json").read_text())
        values.append(results["tasks"]["label"]["top1"])
        assert [each["seed"] for each in results["seeds"]] == [5, 6]
        page = (run / "evaluation/report.html").read_text(encoding="utf-8")
        assert "This recipe was trained with 2 seeds" in page
        links = [each["href"] for each in results["seeds"]]
        assert all((run / "evaluation" / link).resolve().is_file() for link in links)
        assert f"../../{other.name}/evaluation/report.html" in page
    assert f"mean {statistics.mean(values):.3f}, standard deviation between seeds {statistics.stdev(values):.3f}" in out
    assert "Too few clips" in (folder / "compare.html").read_text(encoding="utf-8")

    trained = (runs[0] / "checkpoints/best/model.safetensors").stat().st_mtime_ns
    assert finetune(*command)[0] == 0
    assert (runs[0] / "checkpoints/best/model.safetensors").stat().st_mtime_ns == trained

    assert finetune("train", *SETTINGS, f"data.folder={clips}", "--seeds", "3", "--out", str(folder))[0] == 2


@pytest.mark.slow
def test_the_list_of_runs_is_kept_new_only_where_it_is_ours(trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("runs/one", "mine/one"):
        shutil.copytree(trained_run, run)
        evaluate_and_report(Path(run))
    assert "1 run" in Path("runs/index.html").read_text(encoding="utf-8")
    assert not Path("mine/index.html").exists()
    write_json(Path("runs/index.html"), "a page of somebody's own")
    before = Path("runs/index.html").read_bytes()
    evaluate_and_report(Path("runs/one"))
    assert Path("runs/index.html").read_bytes() == before


def test_seeds_do_not_go_with_resume(finetune, tmp_path):
    status, _, error = finetune("train", "--resume", str(tmp_path), "--seeds", "2")
    assert status == 2
    assert "--seeds is for a new run" in error
