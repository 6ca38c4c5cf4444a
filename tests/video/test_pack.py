"""A pack gives the frames of its videos, however the packing ended, or a clear error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from grey import TINY, level_of, make_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moving import KINDS, write

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError, RunError, VideoError
from finetune.recipe.schema import Augment, Clip
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.encode import write_video
from finetune.video.loader import ClipLoader
from finetune.video.pack import write as pack_module
from finetune.video.pack.format import read_index
from finetune.video.pack.read import Pack, manifest_facts
from finetune.video.pack.write import evenly_spaced_frames, pack, packed_size
from finetune.video.probe_files import scan_files

LENGTHS = (1, 2, 7, 31)
SLOW = """
import sys, time
import finetune.video.pack.write as pack_module
from finetune.data.manifest import Manifest

pack_module.SHARD_BYTES = 1
def add(self, part, add=pack_module._ShardWriter.add):
    add(self, part)
    print(self.number, flush=True)
    time.sleep(0.3)
pack_module._ShardWriter.add = add
if __name__ == "__main__":
    try:
        pack_module.pack(Manifest.from_folder(sys.argv[1], val=0, test=0), sys.argv[2])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def manifest_of(folder):
    return Manifest.from_folder(folder, val=0, test=0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with clips of 1, 2, 7 and 31 frames in each of two classes."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        for count in LENGTHS:
            make_clip(root / name / f"{count}.mp4", count, size=48)
    return root


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory):
    """A pack of `videos` with a short side of 40; read only."""
    folder = tmp_path_factory.mktemp("packs") / "pack"
    pack(manifest_of(videos), folder, short_side=40)
    return folder


@pytest.fixture
def own(tmp_path):
    """A folder with two clips for a test to change."""
    for name in ("a", "b"):
        make_clip(tmp_path / "videos" / name / "1.mp4", 5)
    return tmp_path / "videos"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_frame_i_of_the_pack_is_frame_i_of_the_source(videos, packed, data):
    count = data.draw(st.sampled_from(LENGTHS))
    indices = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
    size = data.draw(st.sampled_from([None, (24, 24), (30, 20), (50, 48)]))
    frames, seconds = Pack(packed).read_frames(videos / "a" / f"{count}.mp4", indices, size=size)
    assert level_of(frames) == indices
    assert frames.shape == (len(indices), 3, *(size or (40, 40)))
    assert frames.dtype == np.uint8
    assert frames.transpose(0, 2, 3, 1).flags.c_contiguous
    assert seconds == pytest.approx(np.array(indices) / 25)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_and_time_is_that_of_the_source_in_any_codec(kind, tmp_path):
    path = write(tmp_path, kind, 26)
    other = Path(shutil.copy(path, path.with_stem("other")))
    (tmp_path / "list.csv").write_text(f"path,label\n{path.name},a\n{other.name},b\n")
    pack(Manifest.from_csv(tmp_path / "list.csv", val=0, test=0), tmp_path / "pack")
    indices = list(range(probe(path).num_frames))
    expected, times = read_frames(path, indices)
    found, found_times = Pack(tmp_path / "pack").read_frames(path, indices)
    assert found.shape == expected.shape
    errors = np.abs(found.astype(int)[:, None] - expected.astype(int)[None]).mean((2, 3, 4))
    assert errors.argmin(1).tolist() == indices
    np.testing.assert_allclose(found_times, times)


def test_rotation_is_applied_the_aspect_kept_and_nothing_enlarged(tmp_path):
    assert packed_size(480, 854, 256) == (256, 455)
    assert packed_size(854, 480, 256) == (455, 256)
    assert packed_size(120, 160, 256) == (120, 160)
    picture = np.zeros((4, 60, 100, 3), np.uint8)
    picture[:, :30] = 200
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "1.mp4", picture)
    path = tmp_path / "a" / "1.mp4"
    # The display matrix of a track header: a quarter turn instead of none.
    upright, turned = ([*row] for row in ((1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, -1, 0, 0, 0, 0)))
    as_bytes = [b"".join((value << 16).to_bytes(4, "big", signed=True) for value in m) for m in (upright, turned)]
    data = path.read_bytes()
    place = data.index(as_bytes[0], data.index(b"tkhd"))
    path.write_bytes(data[:place] + as_bytes[1] + data[place + 32 :])
    pack(manifest_of(tmp_path), tmp_path / "pack", short_side=48)
    found, _ = Pack(tmp_path / "pack").read_frames(path, [2])
    assert found.shape == (1, 3, 80, 48)
    expected, _ = read_frames(path, [2], size=(80, 48))
    assert np.abs(found.astype(int) - expected).mean() < 2
    assert expected[..., :20].mean() != pytest.approx(expected[..., -20:].mean(), abs=100)


@pytest.mark.slow
def test_batches_are_those_of_the_videos_within_what_jpeg_loses_for_any_number_of_workers(videos, packed):
    manifest, clip = manifest_of(videos), Clip(num_frames=3, size=24)
    found = []
    for folder, workers in ((packed, 0), (packed, 2), (None, 0)):
        dataset = ClipDataset(manifest, "train", clip=clip, views=1, augment=Augment(), seed=3, packed=folder)
        batches = EpochBatchSampler(len(dataset), 3, seed=1)
        batches.epoch = 4
        with ClipLoader(dataset, batches, workers=workers, time_limit=60) as loader:
            found.append([(batch["row"].tolist(), batch["clips"].clone()) for batch in loader])
    here, there, originals = found
    assert sum(len(rows) for rows, _ in here) == len(manifest)
    for one, other, original in zip(here, there, originals, strict=True):
        assert one[0] == other[0] == original[0]
        assert torch.equal(one[1], other[1])
        assert (one[1].float() - original[1].float()).abs().mean() < 2


def test_facts_of_a_pack_are_those_of_the_files(videos, packed):
    manifest = manifest_of(videos)
    found, expected = manifest_facts(manifest, packed, side=40), scan_files(manifest)
    for name in ("num_frames", "heights", "widths"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.bad == expected.bad == {}
    assert manifest_facts(manifest, None, side=40).widths.tolist() == expected.widths.tolist()


def test_so_many_frames_a_video_are_the_middles_of_equal_parts(videos, tmp_path):
    assert evenly_spaced_frames(31, 4) == [3, 11, 19, 27]
    pack(manifest_of(videos), tmp_path / "pack", frames=4)
    reader = Pack(tmp_path / "pack")
    facts = reader.facts(manifest_of(videos), side=32)
    assert sorted(facts.num_frames.tolist()) == [1, 1, 2, 2, 4, 4, 4, 4]
    frames, seconds = reader.read_frames(videos / "b" / "31.mp4", [0, 1, 2, 3])
    assert level_of(frames) == [3, 11, 19, 27]
    assert seconds == pytest.approx(np.array([3, 11, 19, 27]) / 25)
    with pytest.raises(VideoError, match=r"31.mp4: frame 4 was asked for, but the pack .* has 4"):
        reader.read_frames(videos / "b" / "31.mp4", [4])


def test_more_frames_a_video_than_are_in_memory_at_a_time(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "FRAMES_PER_CHUNK", 4)
    settings = pack_module.PackSettings(short_side=32, frames=11)
    path = videos / "a" / "31.mp4"
    pictures = pack_module._pictures(path, probe(path), None, settings)
    assert level_of(np.stack([picture for picture, _ in pictures])) == evenly_spaced_frames(31, 11)


def test_what_is_packed_is_kept_and_what_has_changed_is_packed_again(own, tmp_path):
    folder, manifest = tmp_path / "pack", manifest_of(own)
    first = pack(manifest, folder)
    assert (first.packed, first.kept, first.bad) == (2, 0, {})
    assert (pack(manifest, folder).packed, pack(manifest, folder).kept) == (0, 2)
    make_clip(own / "a" / "1.mp4", 9, start=30)
    with pytest.raises(
        DataError, match=r"1 of 2 videos have changed since they were packed: .*a/1.mp4; run `finetune data"
    ):
        manifest_facts(manifest, folder, side=32)
    again = pack(manifest, folder)
    assert (again.packed, again.kept) == (1, 1)
    assert manifest_facts(manifest, folder, side=32).num_frames.tolist() == [9, 5]
    frames, _ = Pack(folder).read_frames(own / "a" / "1.mp4", range(9))
    assert level_of(frames) == [n + 2 for n in range(9)]


def test_a_new_time_with_the_old_size_is_a_change_too_and_a_source_that_has_gone_is_none(own, tmp_path):
    folder, manifest = tmp_path / "pack", manifest_of(own)
    pack(manifest, folder)
    (own / "b" / "1.mp4").unlink()
    assert manifest_facts(manifest, folder, side=32).bad == {}
    status = (own / "a" / "1.mp4").stat()
    os.utime(own / "a" / "1.mp4", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DataError, match="have changed since"):
        manifest_facts(manifest, folder, side=32)


def test_another_manifest_adds_to_the_pack(own, tmp_path):
    folder = tmp_path / "pack"
    pack(manifest_of(own), folder)
    make_clip(tmp_path / "more" / "a" / "x.mp4", 3)
    make_clip(tmp_path / "more" / "b" / "y.mp4", 3)
    pack(manifest_of(tmp_path / "more"), folder)
    assert len(read_index(folder)) == 4
    assert manifest_facts(manifest_of(own), folder, side=32).bad == {}


def test_a_bad_file_is_listed_and_the_others_are_packed(own, tmp_path):
    folder = tmp_path / "pack"
    (own / "a" / "bad.mp4").write_bytes(b"nothing")
    calls = []
    result = pack(manifest_of(own), folder, progress=lambda done, total: calls.append((done, total)))
    assert (result.packed, list(result.bad)) == (2, [str(own / "a" / "bad.mp4")])
    assert calls == [(1, 3), (2, 3), (3, 3)]
    facts = manifest_facts(manifest_of(own), folder, side=32)
    assert list(facts.bad) == [1]
    assert "bad.mp4: is not a video, or is cut off" in facts.bad[1]
    with pytest.raises(VideoError, match="bad.mp4: is not a video"):
        ClipDataset(manifest_of(own), "train", clip=Clip(num_frames=2, size=16), views=1, packed=folder)
    make_clip(own / "a" / "bad.mp4", 3)
    assert pack(manifest_of(own), folder).bad == {}
    assert manifest_facts(manifest_of(own), folder, side=32).bad == {}


def test_a_video_that_was_added_since_is_named(own, tmp_path):
    pack(manifest_of(own), tmp_path / "pack")
    make_clip(own / "b" / "2.mp4")
    facts = manifest_facts(manifest_of(own), tmp_path / "pack", side=32)
    assert list(facts.bad) == [2]
    assert "2.mp4: is not in the pack" in facts.bad[2]
    with pytest.raises(VideoError, match=r"2.mp4: is not in the pack"):
        Pack(tmp_path / "pack").read_frames(own / "b" / "2.mp4", [0])


def test_shards_that_are_missing_or_cut_off_are_named_and_packing_again_mends_them(own, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "SHARD_BYTES", 1)
    folder = tmp_path / "pack"
    pack(manifest_of(own), folder)
    one, two = sorted(folder.glob("*.frames"))
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"(?s)00000.frames: is missing.*00001.frames: is cut off: .*data pack .* again"):
        Pack(folder)
    assert pack(manifest_of(own), folder).packed == 2
    assert level_of(Pack(folder).read_frames(own / "a" / "1.mp4", [4])[0]) == [4]


@pytest.mark.parametrize("damage", [b"\xff", b"\0" * 400])
def test_a_damaged_frame_is_an_error_and_no_picture(own, tmp_path, damage):
    folder = tmp_path / "pack"
    pack(manifest_of(own), folder)
    shard = next(folder.glob("*.frames"))
    entry = read_index(folder)[0]
    place = int(entry["start"]) + 300 if len(damage) == 1 else int(entry["table"])
    data = bytearray(shard.read_bytes())
    data[place : place + len(damage)] = damage[: len(data) - place]
    shard.write_bytes(data)
    with pytest.raises(VideoError, match=r"frame 0 is damaged in .*00000.frames; delete that file, and pack again"):
        Pack(folder).read_frames(os.fsdecode(entry["path"]), [0])


def test_a_folder_that_cannot_be_packed_into_is_refused(own, tmp_path):
    with pytest.raises(RunError, match="is not a pack and not empty"):
        pack(manifest_of(own), own)
    assert sorted(path.name for path in own.iterdir()) == ["a", "b"]
    pack(manifest_of(own), tmp_path / "pack", short_side=24)
    with pytest.raises(RunError, match="was packed with --short-side 24 --frames all, not --short-side 24 --frames 3"):
        pack(manifest_of(own), tmp_path / "pack", short_side=24, frames=3)
    with pytest.raises(RunError, match="is not a pack; make one with"):
        Pack(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match=r"short side of 24 pixels.*clips have 32; lower clip.size, or pack again"):
        manifest_facts(manifest_of(own), tmp_path / "pack", side=32)


def test_a_full_disk_is_said_and_costs_the_shard_under_way(own, tmp_path, monkeypatch):
    folder, copy = tmp_path / "pack", pack_module.shutil.copyfileobj
    monkeypatch.setattr(pack_module, "SHARD_BYTES", 1)

    def fill(source, target, length):
        if list(folder.glob("*.frames")):
            target.write(b"half of it")
            raise OSError(28, "No space left on device")
        copy(source, target, length)

    monkeypatch.setattr(pack_module.shutil, "copyfileobj", fill)
    with pytest.raises(RunError, match="the disk is full; free some space, then run the command again"):
        pack(manifest_of(own), folder)
    assert not [*folder.glob("*.partial"), *folder.glob("parts")]
    assert len(read_index(folder)) == 1
    monkeypatch.setattr(pack_module.shutil, "copyfileobj", copy)
    assert pack(manifest_of(own), folder).packed == 1


def begin(*arguments):
    """A program that packs, in its own session."""
    environment = os.environ | {"PYTHONPATH": str(Path(pack_module.__file__).parents[3])}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_gone(session):
    """Wait until a session has no running process."""
    deadline = time.monotonic() + 20
    while any(of == session and state != "Z" for state, of in processes()):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)


def processes():
    """The state and session of each process; some end while they are listed."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            yield state, int(session)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_after_the_last_whole_shard(videos, tmp_path):
    folder, script = tmp_path / "pack", tmp_path / "slow.py"
    script.write_text(SLOW)
    with begin(script, videos, folder) as program:
        assert [int(program.stdout.readline()) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(RunError, match="another program is packing into it"):
            pack(manifest_of(videos), folder)
        os.kill(program.pid, signal.SIGKILL)
    wait_until_gone(program.pid)
    done = len(read_index(folder))
    assert 3 <= done < len(manifest_of(videos))
    Pack(folder)  # all listed shards are complete
    (folder / "shard.partial").write_bytes(b"half a shard")
    (folder / "00099.frames").write_bytes(b"a shard that was not listed yet")
    again = pack(manifest_of(videos), folder)
    assert (again.packed, again.kept) == (len(manifest_of(videos)) - done, done)
    names = {path.name for path in folder.iterdir() if path.suffix != ".frames"}
    assert names == {"pack.json", "index.npy", "bad.json", "lock"}
    assert not (folder / "00099.frames").exists()
    reader = Pack(folder)
    for row in range(len(manifest_of(videos))):
        path = manifest_of(videos).path(row)
        indices = list(range(int(path.stem)))
        assert level_of(reader.read_frames(path, indices)[0]) == indices


@pytest.mark.slow
def test_control_c_keeps_what_is_packed_and_leaves_no_process(videos, tmp_path):
    folder = tmp_path / "pack"
    for name in ("a", "b"):
        for number in range(150):
            path = tmp_path / "many" / name / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(videos / name / "31.mp4")
    with begin("-m", "finetune", "data", "pack", tmp_path / "many", "--out", folder) as program:
        deadline = time.monotonic() + 60
        sizes: set[int] = set()  # a file that has grown three times holds a video that is packed and listed
        while len(sizes - {0}) < 3 and time.monotonic() < deadline:
            sizes |= {path.stat().st_size for path in folder.glob("shard.partial")}
            time.sleep(0.001)
        os.killpg(program.pid, signal.SIGINT)
        started = time.monotonic()
        _, err = program.communicate(timeout=30)
        assert time.monotonic() - started < 5
    assert program.returncode == 130
    assert "packed videos are kept. Resume with the same command" in err
    assert "Traceback" not in err
    wait_until_gone(program.pid)
    assert not (folder / "parts").exists()
    assert 0 < len(read_index(folder)) < 300
    Pack(folder)


def test_the_command_packs_names_bad_files_and_ends_with_the_folder(own, tmp_path, finetune):
    (own / "a" / "bad.mp4").write_bytes(b"")
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nvideos/a/1.mp4,a\nvideos/a/bad.mp4,a\nvideos/b/1.mp4,b\n")
    command = "data", "pack", listed, "--out", tmp_path / "pack", "--frames", 3, "--short-side", 16
    status, out, err = finetune(*command)
    assert status == 0
    assert out.splitlines() == ["2 videos packed, 0 already packed, 1 cannot be read", str(tmp_path / "pack")]
    assert "bad.mp4: is empty (0 bytes)" in err
    assert Pack(tmp_path / "pack").read_frames(own / "b" / "1.mp4", [2])[0].shape == (1, 3, 16, 16)
    status, _, err = finetune(*command[:-3], "few")
    assert status == 2
    assert "--frames must be a number or all, not 'few'" in err


@pytest.mark.slow
def test_a_recipe_trains_and_is_evaluated_from_a_pack_alone(clip_folder, tmp_path, monkeypatch, finetune):
    import finetune.video.decode.read as decode

    folder, run = tmp_path / "pack", tmp_path / "run"
    recipe = tmp_path / "grey.yaml"
    recipe.write_text(
        f"data: {{folder: {clip_folder}, packed: pack, workers: 0}}\n"
        "clip: {num_frames: 2, size: 32}\n"
        f"model: {{backbone: {TINY}, weights: none}}\n"
        "phases: [{unfreeze: head, epochs: 1}]\n"
    )
    monkeypatch.chdir(tmp_path)
    status, _, err = finetune("train", recipe, "--out", run)
    assert status == 2
    assert "is not a pack; make one with `finetune data pack" in err
    assert finetune("data", "pack", clip_folder, "--out", "pack")[0] == 0
    monkeypatch.setattr(decode, "open_video", None)  # no video can be opened
    assert finetune("train", recipe, "--out", run)[0] == 0
    monkeypatch.chdir("/")
    assert finetune("evaluate", run)[0] == 0
    results = json.loads((run / "evaluation/results.json").read_text())
    assert results["num_rows"] == 4
    assert results["protocol"]["decoder"] == f"the pack {folder}"
