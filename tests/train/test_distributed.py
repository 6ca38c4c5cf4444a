"""Two processes that train together are the same run as one; what goes wrong in one ends both."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from framed import draw_labelled_videos
from grey import TINY, make_clip
from safetensors.torch import load_file
from tasked import draw_clips
from together import SHORT, main, train_objects, train_several, train_with_short_last_batch

import finetune as ft
from finetune.errors import RunError
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.train.distributed import refuse_sharding, with_sync_batch_norm

SCRIPT = Path(__file__).parents[1] / "together.py"
TOLERANCE = 1e-5  # sums are taken in another order, which Adam makes more of


def launch(processes, *arguments):
    """(exit status, stderr) of the script in so many processes."""
    paths = [str(SCRIPT.parent), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = [str(SCRIPT), *map(str, arguments)]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def train(processes, *arguments):
    status, err = launch(processes, *arguments)
    assert status == 0, err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Of 17 training clips the last batch of six holds five: two processes have unequal shares of it."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 9), ("val", 3)):
        for number in range(count):
            make_clip(folder / split / "a" / f"{number}.mp4", start=16 + 5 * number, step=1)
            make_clip(folder / split / "b" / f"{number}.mp4", start=180 + 3 * number, step=1)
    (folder / "train/b/8.mp4").unlink()
    return folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    main(str(data), str(run))
    return run


@pytest.fixture(scope="module")
def several_tasks(tmp_path_factory):
    """Of nine training clips the last batch holds three, of which each process has another number; rows lack labels."""
    pytest.importorskip("torchjd")
    return draw_clips(tmp_path_factory.mktemp("several"), train=9, test=0)


@pytest.fixture(scope="module")
def short_last_batch(tmp_path_factory):
    """17 rows in batches of 8: 3 steps an epoch, as one process takes them; accumulating two, 2 steps."""
    data = draw_clips(tmp_path_factory.mktemp("short"), train=17, val=2, test=0)
    Path(f"{data}.labelled.csv").write_text(data.read_text().replace("train5.mp4,,", "train5.mp4,right,"))
    return data


@pytest.fixture(scope="module")
def labelled_frames(tmp_path_factory):
    """16 labelled frames: the last batch holds four."""
    return draw_labelled_videos(tmp_path_factory.mktemp("frames"), train=4, test=0)


@pytest.fixture(scope="module")
def of_two(data, several_tasks, short_last_batch, labelled_frames, tmp_path_factory):
    """The folder of six runs of two processes each: one launch, because starting takes longer than training."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {"kept": data, "several": several_tasks, "short last batch": short_last_batch}
    jobs |= {"statistics": data, "started": data, "objects": labelled_frames}
    train(2, *(argument for name, source in jobs.items() for argument in (source, folder / name, name)))
    return folder


def difference(run, other):
    """The largest between two weights of the same name."""
    one, two = (load_file(each / "checkpoints/last/model.safetensors") for each in (run, other))
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_that_keep_frozen_work_are_the_run_of_one_with_the_doubled_batch(of_two, alone):
    run = of_two / "kept"
    assert difference(run, alone) < TOLERANCE
    for ours, theirs in zip(records(run), records(alone), strict=True):
        assert ours["lr"] == theirs["lr"]
        for figure in ("train_loss", "train_top1", "val_loss", "val_top1"):
            assert ours[figure] == pytest.approx(theirs[figure], abs=TOLERANCE), figure
    told = [record.get("cache") for record in records(run)]
    assert [each and (each["entry"], each["kept"]) for each in told] == [
        ("features", True),
        ("layer4", True),
        ("layer4", True),
        None,
    ], [each and each["words"] for each in told]
    sets = list((of_two / "kept-kept").iterdir())
    assert len(sets) == 4 and all(len(list(each.glob("*.shard"))) == 2 for each in sets), "one shard of each process"


@pytest.mark.slow
def test_two_processes_start_a_head_from_the_probe_of_one(of_two, data, tmp_path):
    main(str(data), str(tmp_path / "one"), "started")
    assert difference(of_two / "started", tmp_path / "one") < 10 * TOLERANCE
    decided = [
        json.loads((run / "environment.json").read_text())["decided"] for run in (of_two / "started", tmp_path / "one")
    ]
    assert decided[0] == decided[1]
    assert decided[0]["head_start"]["rows"] == 17


@pytest.mark.slow
def test_two_processes_with_several_tasks_are_the_run_of_one_with_the_doubled_batch(of_two, several_tasks, tmp_path):
    alone = train_several(several_tasks, tmp_path / "alone")
    assert difference(of_two / "several", alone) < TOLERANCE
    for ours, theirs in zip(records(of_two / "several"), records(alone), strict=True):
        for key in ("train_loss", "train_top1", "val_loss", "val_score"):
            assert ours[key] == pytest.approx(theirs[key], abs=10 * TOLERANCE), key
        for key in ("weights", "cosines"):
            assert ours[key] == pytest.approx(theirs[key], abs=10 * TOLERANCE), key
        losses = [[task["train_loss"] for task in each["tasks"].values()] for each in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)


@pytest.mark.slow
def test_two_processes_learn_boxes_motion_and_pixels_as_one(of_two, labelled_frames, tmp_path):
    train_objects(labelled_frames, tmp_path / "one")
    two, one = of_two / "objects", tmp_path / "one"
    assert difference(two, one) < TOLERANCE
    for ours, theirs in zip(records(two), records(one), strict=True):
        parts = [list(record["tasks"]["tracks"]["train_loss_parts"].values()) for record in (ours, theirs)]
        assert parts[0] == pytest.approx(parts[1], abs=TOLERANCE)


@pytest.mark.slow
def test_a_last_batch_of_fewer_clips_than_processes_is_a_step_as_it_is_of_one_process(
    of_two, short_last_batch, tmp_path
):
    train_with_short_last_batch(short_last_batch, tmp_path / "one")
    for name, settings in SHORT.items():
        two, one = of_two / "short last batch" / name, tmp_path / "one" / name
        states = [torch.load(run / "checkpoints/last/state.pt", weights_only=True) for run in (two, one)]
        assert [state["position"]["steps"] for state in states] == 2 * [3 * (2 if settings.get("accumulate") else 3)]
        assert difference(two, one) < TOLERANCE, name
        for ours, theirs in zip(records(two), records(one), strict=True):
            assert ours["lr"] == theirs["lr"]
            for figure in ("train_loss", "train_top1", "val_loss"):
                assert ours[figure] == pytest.approx(theirs[figure], abs=10 * TOLERANCE), (name, figure)
        assert len({(record["learning"][0], "cache" in record) for record in records(two)}) == 2


@pytest.mark.slow
def test_batch_norm_that_learns_its_statistics_ends_with_those_of_the_main_process(of_two):
    assert len(records(of_two / "statistics")) == 1


@pytest.mark.slow
def test_a_network_that_is_not_wrapped_anew_is_caught(data, tmp_path):
    status, err = launch(2, data, tmp_path / "run", "wrapped once")
    assert status != 0
    assert "weights differ between processes after a phase" in err, err


@pytest.mark.slow
def test_when_one_dies_all_end_and_the_run_goes_on_in_another_number(data, alone, tmp_path):
    run, started = tmp_path / "run", time.monotonic()
    status, err = launch(2, data, run, "one dies")
    assert status != 0 and "Signal 9 (SIGKILL)" in err, err
    assert time.monotonic() - started < 100
    state = torch.load(run / "checkpoints/last/state.pt", weights_only=True)
    assert (state["batch_size"], state["position"]["steps"]) == (6, 3)
    ft.resume(run, quiet=True)
    assert difference(run, alone) < TOLERANCE


@pytest.mark.slow
def test_sharding_is_refused_in_words():
    for kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        with pytest.raises(RunError, match=f"asks for {kind.value}, which shards the model"):
            refuse_sharding(SimpleNamespace(distributed_type=kind))
    refuse_sharding(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [TINY, "mobilenetv3_small_050"])
def test_shared_statistics_are_for_several_gpus_and_change_neither_names_nor_answers(backbone):
    model = ft.build_model(backbone, ["a", "b"], weights="none", num_frames=2, size=32)
    names, one = list(model.state_dict()), torch.device("cpu")
    clips = torch.randint(0, 255, (2, 2, 3, 32, 32), dtype=torch.uint8)
    before = model.eval()(clips)["label"]
    cpu, gpus = (SimpleNamespace(num_processes=2, device=each) for each in (one, torch.device("cuda")))
    is_shared = [isinstance(each, torch.nn.SyncBatchNorm) for each in with_sync_batch_norm(model, cpu).modules()]
    assert not any(is_shared)
    model = with_sync_batch_norm(model, gpus)
    assert any(isinstance(each, torch.nn.SyncBatchNorm) for each in model.modules())
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval()(clips)["label"], before)
    ft.set_trainable(model, "last(1)", batch_norm="train")
    model.train()
    *_, last = (name for name in model.stages if name not in HEAD_STAGES)
    for name, each in model.named_modules():
        if isinstance(each, torch.nn.SyncBatchNorm):
            assert each.training == (f"{name}.weight" in model.stages[last].parameters)
