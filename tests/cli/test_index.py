"""`finetune index`: what it prints, refuses and keeps."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from grey import TINY, make_clip
from indexed import write_index

from finetune.vector_index.index import VectorIndex
from finetune.video.encode import encode_png

MODEL = (f"model.backbone={TINY}", "model.weights=none", "clip.num_frames=2", "clip.size=32", "train.cache=off")


@pytest.fixture
def clips(tmp_path):
    for number in range(3):
        make_clip(tmp_path / "clips" / f"{number}.mp4", 6, start=40 * number)
    return tmp_path / "clips"


def test_an_index_is_made_added_to_and_reduced(finetune, clips, tmp_path):
    out = tmp_path / "my index"
    (clips / "bad.mp4").write_bytes(b"no video")
    status, printed, err = finetune("index", clips, "--out", out, *MODEL)
    assert (status, printed.splitlines()) == (
        1,
        [f"3 vectors of 96 numbers in {out}", f"search: finetune search '{out}' VIDEO"],
    ), err
    assert f"finetune: {clips / 'bad.mp4'}: " in err
    assert "1 of 4 clips are not in the index" in err
    status, _, err = finetune("index", clips, "--out", out, *MODEL)
    assert (status, "is an index of 3 vectors already; --add adds new and changed files" in err) == (2, True), err
    (clips / "bad.mp4").unlink()
    make_clip(clips / "3.mp4", 5)
    status, printed, err = finetune("index", clips, "--out", out, "--add")
    assert (status, printed.splitlines()[0]) == (0, f"4 vectors of 96 numbers in {out}"), err
    assert "3 clips already in the index" in err
    status, printed, err = finetune("index", "--out", out, "--remove", "[12].mp4")
    assert (status, printed.splitlines()[0], "removed 2 vectors" in err) == (
        0,
        f"2 vectors of 96 numbers in {out}",
        True,
    )
    for words, message in (
        (("--add", "model.backbone=resnet18"), f"was made with the backbone {TINY}, not with the backbone resnet18"),
        (("--add", "clip.num_frames=4"), "settings.clip.num_frames 4 instead of 2"),
        (("--add", "--window", "2"), "has whole rows; leave out --window and --step, or give a new folder as --out"),
        (("--remove", "x"), "--remove and --remove-missing only remove; leave out SOURCE"),
    ):
        status, _, err = finetune("index", clips, "--out", out, *words)
        assert (status, message in err) == (2, True), err


def test_recordings_get_a_vector_for_each_window(finetune, tmp_path):
    make_clip(tmp_path / "recording.mp4", 50)
    out = tmp_path / "index"
    status, printed, err = finetune(
        "index", tmp_path / "recording.mp4", "--out", out, "--window", "0.48", "--step", "0.24", *MODEL
    )
    assert (status, printed.splitlines()[0]) == (0, f"7 vectors of 96 numbers in {out}"), err
    assert next(iter(VectorIndex.open(out).entries())).end == 0.48


def test_images_that_are_added_in_windows_have_the_rate_that_is_given(finetune, tmp_path):
    for name in ("first", "second"):
        for number in range(10):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number:03}.png").write_bytes(encode_png(np.full((32, 32, 3), 20 * number, np.uint8)))
    out, settings = tmp_path / "index", ("--window", "1", "--step", "1", "data.image_rate=5")
    status, printed, err = finetune("index", tmp_path / "first", "--out", out, *settings, *MODEL)
    assert (status, printed.splitlines()[0]) == (0, f"2 vectors of 96 numbers in {out}"), err
    status, printed, err = finetune("index", tmp_path / "second", "--out", out, "--add", "data.image_rate=5")
    assert (status, printed.splitlines()[0]) == (0, f"4 vectors of 96 numbers in {out}"), err
    assert [entry.start for entry in VectorIndex.open(out).entries()] == [0, 1, 0, 1]


def test_rows_that_are_added_are_read_as_the_run_of_the_index_says(finetune, clips, tmp_path):
    write_index(tmp_path / "index", 2, kind="run")
    status, _, err = finetune("index", clips, "--out", tmp_path / "index", "--add", "clip.num_frames=4")
    assert (status, "the model and its clips are those of the run tiny; leave these out" in err) == (2, True), err
    status, _, err = finetune("index", clips, "--out", tmp_path / "index", "--add")
    assert (status, "was made with a run that cannot be opened: tiny: " in err) == (2, True), err


def test_all_mistakes_are_in_one_message_before_anything_slow(finetune, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    status, _, err = finetune(
        "index", tmp_path / "nowhere.csv", "--out", tmp_path / "full", "--window", "-1", "--run", tmp_path / "no-run"
    )
    assert status == 2
    assert err.count("\n") == 4, err
    for message in ("is not an index, and not an empty folder", "--window is -1", "no-run: there is no such folder"):
        assert message in err
    assert "there is no recipe, folder or CSV file" in err
    assert "torch" not in err


def test_other_mistakes_are_explained(finetune, clips, tmp_path):
    out = tmp_path / "index"
    (tmp_path / "rows.csv").write_text("path,start,end\nclips/0.mp4,0,0.1\n")
    for words, message in (
        ((clips, "--add"), "there is no index to add to; leave out --add to make one"),
        ((clips, "--step", "1"), "--step is for windows of recordings; give their length too, --window SECONDS"),
        ((clips, "model.temporal=gru"), "model.temporal=gru has weights that must be trained"),
        ((clips, "model.backbone=resnet1"), "timm has no model 'resnet1'"),
        ((tmp_path / "rows.csv", "--window", "1"), "its rows are parts of recordings already; leave out --window"),
        (("folder",), "the recipe names no videos; add data.folder=DIR or data.manifest=FILE"),
        ((), "the videos are missing: finetune index SOURCE --out DIR"),
        (("--remove", "x"), "is not an index: it has no index.json"),
    ):
        status, _, err = finetune("index", *words, "--out", out)
        assert (status, message in err) == (2, True), (words, err)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_after_it_was_stopped(kind, tmp_path):
    make_clip(tmp_path / "recording.mp4", 1500)
    out, command = tmp_path / "index", [sys.executable, "-m", "finetune", "index", str(tmp_path / "recording.mp4")]
    command += ["--out", str(out), "--window", "0.48", "--step", "0.04", *MODEL]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (out / "unfinished").exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(kind)
    _, err = running.communicate(timeout=60)
    if kind == signal.SIGINT:
        assert running.returncode == 130, err
        assert "The same command continues." in err
    assert VectorIndex.open(out) is not None
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "continuing" in done.stderr) == (0, True), done.stderr
    starts = [entry.start for entry in VectorIndex.open(out).entries()]
    assert starts == sorted(set(starts))
    assert len(starts) == 1489
