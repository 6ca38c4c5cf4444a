"""Every command that reads a run folder, with a file in it damaged or forged: it works, or ends in words and status 2.

Nothing is executed, nobody is asked over the network, and nothing is written outside the run folder. FINETUNE_ALL=1
tries 2,000 damages; FINETUNE_SEED=n tries one again.
"""

import os
import random
import shutil
import sys
import traceback

import pytest
import torch
from grey import TINY, make_clip
from mutated import mutate
from tasked import TASKS, draw_clips, manifest_of, recipe_of

import finetune as ft
from finetune.cli.train import evaluate_and_report
from finetune.train.from_recipe import train_from_recipe

DAMAGES = 2000 if os.environ.get("FINETUNE_ALL") else 80
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "urllib.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")
PAGES = {"results.json", "predictions.csv", "metrics.jsonl", "environment.json", "index.json"}
PICTURES = {".html", ".svg", ".png", ".md", ".jpg"}
seen: list[str] | None = None  # of what is forbidden, while a command runs


def watch(event, arguments):
    if seen is not None and event.startswith(FORBIDDEN) and "git" not in str(arguments):
        seen.append(f"{event} {arguments}")


sys.addaudithook(watch)


def one_task(root):
    for split in ("train", "val", "test"):
        for number in range(2):
            make_clip(root / "clips" / split / "dark" / f"{number}.mp4", 6, start=16 + number, step=2)
            make_clip(root / "clips" / split / "bright" / f"{number}.mp4", 6, start=200 + number, step=2)
    manifest = ft.Manifest.from_folder(root / "clips")
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    phases = [ft.Phase(unfreeze="head", epochs=1, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=1, lr=1e-3)]
    train = ft.Train(batch_size=4, cache="off", precision="fp32")
    return ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=2), train=train, out=root / "run", quiet=True)


def several_tasks(root):
    (root / "clips").mkdir()
    path = draw_clips(root / "clips", train=4, val=2, test=2)
    recipe = recipe_of(path, TASKS, train={"batch_size": 4, "cache": "off", "precision": "fp32"})
    return train_from_recipe(recipe, manifest_of(recipe), out=root / "run")


def commands_for(file, run, clip, good):
    reading = [["evaluate", run, "--no-pictures"], ["predict", run, clip], ["train", "--resume", run]]
    reading.append(["average", run, "--out", run.parent / "average"])
    pages = [["report", run], ["compare", good, run], ["runs", run.parent]]
    if "checkpoints" in file.parts or file.suffix == ".npz" or file.name in {"classes.json", "tasks.json"}:
        return reading
    return pages if file.name in PAGES else [*reading, *pages]


def wrong_with(finetune, command):
    """What is wrong with how a command ended, and its status."""
    try:
        status, _, err = finetune(*command)
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/finetune/" in frame.filename]
        return f"{error!r:.150} in {ours[-1].filename}, line {ours[-1].lineno}", None
    return "" if status == 0 or (status == 2 and err.strip()) else f"status {status} {err!r}", status


@pytest.mark.slow
@pytest.mark.parametrize("make_run", [one_task, several_tasks])
def test_whatever_is_damaged_a_command_works_or_ends_in_words(tmp_path, finetune, monkeypatch, make_run):
    global seen
    (tmp_path / "good").mkdir()
    (tmp_path / "here").mkdir()
    good = make_run(tmp_path / "good")
    evaluate_and_report(good)
    monkeypatch.chdir(tmp_path / "here")
    clip = next((tmp_path / "good").rglob("*.mp4"))
    files = [path for path in sorted(good.rglob("*")) if path.is_file() and path.suffix not in PICTURES]
    files = [path for path in files if path.name != ".lock" and "tensorboard" not in path.parts]
    assert {"results.json", "state.pt", "model.safetensors", "facts.npz"} <= {path.name for path in files}
    failures, statuses = [], []
    seeds = [int(os.environ["FINETUNE_SEED"])] if "FINETUNE_SEED" in os.environ else range(DAMAGES // 2)
    for seed in seeds:
        draw = random.Random(seed)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        run = shutil.copytree(good, tmp_path / "runs" / "run", copy_function=os.link)
        file = run / draw.choice(files).relative_to(good)
        how = mutate(file, draw)
        command = draw.choice(commands_for(file, run, clip, good))
        seen = []
        wrong, status = wrong_with(finetune, command)
        asked, seen = seen, None
        statuses.append(status)
        beside = {path.name for path in run.parent.iterdir()} - {"run", "average", "index.html"}
        outside = [*(tmp_path / "here").iterdir(), *(name for name in beside if not name.startswith("compare-"))]
        if wrong or asked or outside:
            failures.append(f"{seed}: {file.relative_to(run)} {how}, {command[0]}: {wrong} {asked} {outside}")
    assert not failures, "\n".join(failures)
    assert {0, 2} <= set(statuses) or len(statuses) < 20, "some damages are harmless, and some are noticed"
