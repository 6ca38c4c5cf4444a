"""A run that was stopped or killed and goes on is, bit for bit, the run that was not."""

import json
import os
import random
import resource
import shutil
import signal
from unittest.mock import MagicMock

import pytest
import torch
from grey import TINY, make_clip
from killed import KINDS, run_to_the_end
from safetensors.torch import load_file

import finetune as ft
from finetune.errors import DataError, RecipeError, RunError
from finetune.storage.atomic import exclusive_lock
from finetune.train.optim.optimizer import optimizer_names
from finetune.train.position import Tally
from finetune.train.state.signals import StopRequested, StopSignalHandler

KILLS = int(os.environ.get("FINETUNE_KILLS", "6"))
PHASES = (ft.Phase(unfreeze="head", epochs=2, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=2, lr=1e-3))


def records(run):
    """Less what a clock says, and what was kept when."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    other = {"seconds", "clips_per_second", "cache", "peak_gb"}
    return [{k: v for k, v in json.loads(line).items() if k not in other} for line in lines]


def same_weights(run, other, which):
    one, two = (load_file(each / f"checkpoints/{which}/model.safetensors") for each in (run, other))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def assert_same_run(run, other):
    assert records(run) == records(other)
    assert all(same_weights(run, other, which) for which in ("start", "best", "last"))
    states = [torch.load(each / "checkpoints/last/state.pt", weights_only=True) for each in (run, other)]
    values = [dict(flat(state["optimizer"] | state["ema"] | state["anchor"])) for state in states]
    assert values[0].keys() == values[1].keys()
    assert all(torch.equal(torch.as_tensor(values[0][key]), torch.as_tensor(values[1][key])) for key in values[0])
    assert not [path for path in run.rglob("*") if path.suffix in {".partial", ".old"}]


def flat(value, name=""):
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(each, dict | list):
            yield from flat(each, f"{name}/{key}")
        elif isinstance(each, torch.Tensor | int | float):
            yield f"{name}/{key}", each


@pytest.fixture(scope="module")
def unbroken(clip_folder, tmp_path_factory):
    """Of each kind the run that nothing ends."""
    root = tmp_path_factory.mktemp("unbroken")
    return {kind: root / kind for kind in KINDS if run_to_the_end(kind, clip_folder, root / kind)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_a_run_goes_on_as_if_it_had_not_been(kind, unbroken, clip_folder, tmp_path):
    """SIGKILL at random events, again and again in one run until it comes to its end, or has been killed enough."""
    chance, kills, runs, wanted = random.Random(f"{kind} {KILLS}"), 0, 0, KILLS // len(KINDS)
    while kills < wanted:
        folder = tmp_path / str(runs)
        reach = chance.choice([5, 20, 60])
        while not run_to_the_end(
            kind, clip_folder, folder, kill_at=chance.randrange(reach) if kills < wanted else None
        ):
            kills += 1
            reach += 8  # or a run that is killed in its first events each time would never end
        runs += 1
        assert_same_run(folder, unbroken[kind])
    print(f"{kind}: {kills} kills in {runs} runs")


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def fit(manifest, out, *, phases=PHASES, **train):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    settings = {"batch_size": 3, "precision": "fp32", **train}
    return ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=2), train=ft.Train(**settings), out=out, quiet=True)


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    """The run that nothing ends; do not write into it."""
    return fit(manifest, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of that run, to write into."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_a_run_finishes_the_step_and_saves(manifest, whole, tmp_path, signal_at, kind):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal_at(5, kind)
    with pytest.raises(KeyboardInterrupt):
        fit(manifest, tmp_path / "run")
    meta = json.loads((tmp_path / "run/checkpoints/last/meta.json").read_text())
    assert meta == {"epoch": 1, "batches": 2}
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert_same_run(ft.resume(tmp_path / "run", quiet=True), whole)


@pytest.mark.slow
def test_it_stops_while_it_validates_and_validates_again(manifest, whole, tmp_path, monkeypatch):
    evaluated = ft.VideoClassifier.eval
    monkeypatch.setattr(
        ft.VideoClassifier, "eval", lambda model: (os.kill(os.getpid(), signal.SIGINT), evaluated(model))[1]
    )
    with pytest.raises(KeyboardInterrupt):
        fit(manifest, tmp_path / "run")
    monkeypatch.undo()
    meta = json.loads((tmp_path / "run/checkpoints/last/meta.json").read_text())
    assert meta == {"epoch": 0, "batches": 3}
    assert_same_run(ft.resume(tmp_path / "run", quiet=True), whole)


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(finished):
    run = finished
    before = records(run), load_file(run / "checkpoints/last/model.safetensors")
    ft.resume(run, quiet=True)
    assert records(run) == before[0]
    assert all(
        torch.equal(value, before[1][name])
        for name, value in load_file(run / "checkpoints/last/model.safetensors").items()
    )


@pytest.mark.slow
def test_a_run_may_be_lengthened_and_nothing_else_of_it_changed(finished):
    run = finished
    refused = ["train.batch_size=2", "phases.0.epochs=3", "phases.1.lr=0.1", "phases.1.epochs=1", "data.workers=1"]
    with pytest.raises(RecipeError) as error:
        ft.resume(run, refused, quiet=True)
    assert [line.partition(" was ")[0] for line in str(error.value).splitlines()[:-1]] == [
        *("phases.0.epochs", "phases.1.epochs", "phases.1.lr", "train.batch_size")
    ]
    assert len(records(ft.resume(run, ["phases.1.epochs=3"], quiet=True))) == 5
    path = run / "recipe.yaml"
    path.write_text(path.read_text().replace("train:\n", "- {unfreeze: all, epochs: 1, lr: 1e-4}\ntrain:\n", 1))
    ft.resume(run, quiet=True)
    assert [record["train"] for record in records(run)] == ["head", "head", "layer4", "layer4", "layer4", "all"]
    assert len(json.loads((run / "environment.json").read_text())["resumed"]) == 2


@pytest.mark.slow
def test_what_cannot_go_on_is_said(finished, tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        ft.resume(tmp_path, quiet=True)
    (finished / "checkpoints/last/state.pt").unlink()
    with pytest.raises(RunError, match="cannot be resumed without checkpoints/last/state.pt"):
        ft.resume(finished, quiet=True)


def test_files_that_have_changed_since_are_named(tmp_path, signal_at):
    for name, start in (("a", 16), ("b", 200)):
        for number in range(3):
            make_clip(tmp_path / "data/train" / name / f"{number}.mp4", start=start, step=1)
    signal_at(1)
    with pytest.raises(KeyboardInterrupt):
        fit(ft.Manifest.from_folder(tmp_path / "data"), tmp_path / "run")
    make_clip(tmp_path / "data/train/b/1.mp4", count=9, start=100, step=1)
    with pytest.raises(DataError, match=r"changed since the run began: content of .*/b/1.mp4\n"):
        ft.resume(tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_with_loading_processes_it_goes_on_all_the_same(manifest, tmp_path, signal_at):
    def run(out):
        torch.manual_seed(0)
        model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
        settings = {"clip": ft.Clip(num_frames=2), "train": ft.Train(batch_size=3, precision="fp32")}
        return ft.fit(model, manifest, PHASES, data=ft.Data(workers=2), out=out, quiet=True, **settings)

    whole = run(tmp_path / "whole")
    signal_at(7, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert_same_run(ft.resume(tmp_path / "run", quiet=True), whole)


@pytest.mark.slow
def test_two_programs_do_not_train_into_one_folder(finished):
    with exclusive_lock(finished / ".lock", ""), pytest.raises(RunError, match="another program is training into it"):
        ft.resume(finished, quiet=True)


def test_one_press_that_arrives_twice_is_one(monkeypatch):
    with StopSignalHandler(print) as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            stopping.check()
        monkeypatch.setattr(stopping, "asked_at", stopping.asked_at - 10)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["state.pt", "model.safetensors", "metrics.jsonl"])
def test_when_the_disk_is_full_the_checkpoint_before_stays_and_the_run_goes_on(
    manifest, whole, tmp_path, monkeypatch, file
):
    """A limit on the size of files stands in for the disk: it fails within the write, as a full disk does."""
    size = (whole / ("" if file == "metrics.jsonl" else "checkpoints/last") / file).stat().st_size
    before, left = resource.getrlimit(resource.RLIMIT_FSIZE), [5]
    add = Tally.add

    def counted(self, *arguments):
        add(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 10, before[1]))

    monkeypatch.setattr(Tally, "add", counted)
    monkeypatch.setattr("finetune.train.log.tensorboard.SummaryWriter", lambda *_, **__: MagicMock())
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(RunError, match="could not be written"):
            fit(manifest, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert_same_run(ft.resume(tmp_path / "run", quiet=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "lamb", "adafactor", "lion", "radam", "muon"])
def test_any_optimizer_goes_on(manifest, tmp_path, signal_at, name):
    assert name in optimizer_names()
    phases = (ft.Phase(unfreeze="layer4", epochs=2, lr=1e-3),)
    whole = fit(manifest, tmp_path / "whole", phases=phases, optimizer=name)
    signal_at(4)
    with pytest.raises(KeyboardInterrupt):
        fit(manifest, tmp_path / "run", phases=phases, optimizer=name)
    assert_same_run(ft.resume(tmp_path / "run", quiet=True), whole)


def test_it_saves_every_so_many_minutes(manifest, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "finetune.train.state.run_writer.RunWriter.save_last",
        lambda self, moving, at: saved.append((at.epochs, at.batches)),
    )
    fit(manifest, tmp_path / "run", phases=PHASES[:1], save_every_minutes=1e-9)
    assert {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)} <= set(saved)
