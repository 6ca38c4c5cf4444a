"""The facts cached beside a manifest equal those of a new scan, and are dropped when a file changes."""

import pickle
import shutil

import numpy as np
import pytest
from grey import make_clip
from moving import in_order, write

from finetune.data.manifest import Manifest
from finetune.video import probe_files
from finetune.video.decode import read
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.file_facts import FactsCache
from finetune.video.probe_files import scan_files


@pytest.fixture
def manifest(tmp_path):
    """Two MP4 clips, whose index gives their layout, and two in MPEG-4 AVI with B-frames, which have none."""
    for name in ("a", "b"):
        make_clip(tmp_path / "train" / name / "0.mp4", 5)
        shutil.copy(write(tmp_path, "mpeg4_avi", 31), tmp_path / "train" / name / "1.avi")
    (tmp_path / "a.avi").unlink()
    return Manifest.from_folder(tmp_path)


def same(one, other):
    for name in ("num_frames", "heights", "widths"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.bad == other.bad


def test_files_are_looked_at_once(manifest, monkeypatch):
    first = scan_files(manifest)
    monkeypatch.setattr(probe_files, "scan", lambda path: pytest.fail(f"{path} was looked at again"))
    again = scan_files(manifest)
    same(first, again)
    assert first.num_frames.tolist() == [5, 31, 5, 31]
    for row in range(4):
        assert (again.layout(row) is None) == (row in {0, 2})
    np.testing.assert_array_equal(first.layout(3).packets, again.layout(3).packets)


def test_a_kept_layout_finds_frames_without_counting_them(manifest, monkeypatch):
    scan_files(manifest)
    facts = pickle.loads(pickle.dumps(scan_files(manifest)))  # as sent to a worker process
    frames = in_order(manifest.path(1))
    monkeypatch.setattr(read, "_decode_from_start", lambda *args: pytest.fail("frames were counted off"))
    found, _ = read_frames(manifest.path(1), [30, 4, 17], layout=facts.layout(1))
    np.testing.assert_array_equal(found, frames[[30, 4, 17]])


def test_a_file_that_changes_is_looked_at_again_and_others_are_not(manifest, monkeypatch):
    scan_files(manifest)
    make_clip(manifest.path(2), 9)
    looked, scan = [], probe_files.scan
    monkeypatch.setattr(probe_files, "scan", lambda path: looked.append(path) or scan(path))
    facts = scan_files(manifest)
    assert looked == [manifest.path(2)]
    assert facts.num_frames.tolist() == [5, 31, 9, 31]
    assert facts.layout(1) is not None
    assert scan_files(manifest.without([0, 1])).num_frames.tolist() == [9, 31]
    assert len(looked) == 1


def test_bad_files_are_looked_at_each_time(manifest):
    manifest.path(1).write_bytes(b"gone bad")
    assert list(scan_files(manifest).bad) == [1]
    assert list(scan_files(manifest).bad) == [1]
    shutil.copy(manifest.path(3), manifest.path(1))
    assert scan_files(manifest).bad == {}


@pytest.mark.parametrize("damage", ["cut", "other format", "layouts gone"])
def test_what_is_kept_and_damaged_is_made_anew(manifest, damage):
    first = scan_files(manifest)
    folder = FactsCache(manifest.source, manifest.paths).folder
    if damage == "cut":
        (folder / "facts.npz").write_bytes((folder / "facts.npz").read_bytes()[:100])
    elif damage == "other format":
        np.savez(folder / "facts.npz", format=np.array(0))
    else:
        next(folder.glob("layouts-*.npy")).unlink()
    again = scan_files(manifest)
    same(first, again)
    frames, _ = read_frames(manifest.path(1), [12], layout=again.layout(1))
    np.testing.assert_array_equal(frames[0], in_order(manifest.path(1))[12])


def test_where_nothing_can_be_written_nothing_is_kept(manifest, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(np, "save", refuse)
    facts = scan_files(manifest)
    assert facts.num_frames.tolist() == [5, 31, 5, 31]
    assert facts.layout(1) is None
    assert not (FactsCache(manifest.source, manifest.paths).folder / "facts.npz").exists()


def test_only_one_file_of_layouts_is_left(manifest):
    for count in (6, 7, 8):
        make_clip(manifest.path(0), count)
        scan_files(manifest)
    assert len(list(FactsCache(manifest.source, manifest.paths).folder.iterdir())) == 2


def test_rates_and_seconds_are_kept_to_a_thousandth_and_zero_of_bad_files(manifest):
    make_clip(manifest.path(0), 10)
    manifest.path(3).write_bytes(b"gone bad")
    first, again = scan_files(manifest), scan_files(manifest)
    np.testing.assert_array_equal(first.rates, again.rates)
    np.testing.assert_array_equal(first.seconds, again.seconds)
    assert first.rates.tolist() == [25, 25, 25, 0]
    assert first.seconds == pytest.approx([10 / 25, 31 / 25, 5 / 25, 0], abs=1e-3)
    infos = [probe(manifest.path(row)) for row in range(3)]
    assert first.seconds[:3] == pytest.approx([info.duration_seconds for info in infos], abs=6e-4)
    assert first.rates[:3] == pytest.approx([info.fps for info in infos], abs=6e-4)
