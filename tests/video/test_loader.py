"""Batches are the same for any number of workers, and a file that crashes its worker is skipped alone."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from grey import make_clip

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Augment, Clip
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.loader import ClipLoader, SharedClipSlots
from finetune.video.probe_files import scan_files

CLIP = Clip(num_frames=4, size=24)


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return Manifest.from_folder(clip_folder)


@pytest.fixture
def dataset(manifest):
    return ClipDataset(manifest, "train", clip=CLIP, views=1, augment=Augment(), seed=3)


def epochs_of(loader, count=2):
    for epoch in range(count):
        loader.batches.epoch = epoch
        yield [{name: value.clone() for name, value in batch.items() if name != "skipped"} for batch in loader]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_batches_are_the_same_for_any_number_of_workers(dataset, workers, size):
    found = []
    for count in (0, workers):
        with ClipLoader(dataset, EpochBatchSampler(len(dataset), size, seed=1), workers=count) as loader:
            found.append(list(epochs_of(loader)))
    for here, there in zip(*found, strict=True):
        assert len(here) == len(there)
        for one, other in zip(here, there, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(found[0][0][0]["clips"], found[0][1][0]["clips"])


def test_batches_are_the_same_in_a_daemonic_process_that_may_start_no_workers(dataset, monkeypatch):
    found = []
    for _ in range(2):
        with ClipLoader(dataset, EpochBatchSampler(len(dataset), 3, seed=1), workers=2) as loader:
            found.append(list(epochs_of(loader)))
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    for here, there in zip(*found, strict=True):
        for one, other in zip(here, there, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "augment",
    [
        Augment(preset="strong", crop="multi_scale"),
        Augment(
            preset="none",
            auto_augment="randaugment",
            rotate=10,
            blur=0.5,
            color_jitter=0.1,
            speed=(0.5, 2),
            frame_dropout=0.1,
        ),
    ],
)
def test_whatever_is_drawn_is_drawn_in_workers_alike(manifest, augment):
    dataset = ClipDataset(manifest, "train", clip=CLIP, views=1, augment=augment)
    found = []
    for workers in (0, 2):
        with ClipLoader(dataset, EpochBatchSampler(len(dataset), 3, seed=1), workers=workers) as loader:
            found.append([batch["clips"] for batch in loader])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_pass_that_is_given_up_does_not_disturb_the_next(dataset):
    with ClipLoader(dataset, EpochBatchSampler(len(dataset), 2, seed=1), workers=2) as loader:
        for _ in range(3):
            next(iter(loader))
        whole = next(epochs_of(loader))
    with ClipLoader(dataset, EpochBatchSampler(len(dataset), 2, seed=1), workers=0) as loader:
        expected = next(epochs_of(loader))
    assert all(torch.equal(a["clips"], b["clips"]) for a, b in zip(whole, expected, strict=True))


class Touchy(ClipDataset):
    """Reads files normally, except those whose name says what happens to their worker."""

    def __getitem__(self, key):
        name = self.manifest.path(int(self.rows[key[1]])).stem
        if name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "hang":
            time.sleep(600)
        return super().__getitem__(key)


@pytest.mark.slow
def test_files_that_crash_or_hang_their_reader_are_skipped_and_listed_and_not_tried_again(tmp_path):
    for name in ("a", "b"):
        for stem in ("0", "1", "crash" if name == "a" else "hang", "3"):
            make_clip(tmp_path / "train" / name / f"{stem}.mp4")
    manifest = Manifest.from_folder(tmp_path)
    dataset = Touchy(manifest, "train", clip=CLIP, augment=Augment(preset="none"), facts=scan_files(manifest))
    good = [row for row in range(8) if manifest.path(row).stem not in {"crash", "hang"}]
    with ClipLoader(dataset, EpochBatchSampler(8, 4, seed=0), workers=2, time_limit=2) as loader:
        for epoch in range(3):
            started = time.monotonic()
            loader.batches.epoch = epoch
            batches = list(loader)
            assert sorted(row for batch in batches for row in batch["row"].tolist()) == good
            reasons = sorted(reason for batch in batches for _, reason in batch["skipped"])
            assert "crash.mp4: crashed the process that read it (SIGSEGV)" in reasons[0]
            assert "hang.mp4: took longer than 2 s to read" in reasons[1]
        assert time.monotonic() - started < 2  # it is not waited for again


def test_a_pass_is_given_up_without_waiting_for_a_file_that_hangs(tmp_path):
    for name in ("a/0", "a/hang", "b/0"):
        make_clip(tmp_path / "train" / f"{name}.mp4")
    manifest = Manifest.from_folder(tmp_path)
    dataset = Touchy(manifest, "train", clip=CLIP, facts=scan_files(manifest))
    with ClipLoader(dataset, EpochBatchSampler(3, 1, seed=0, shuffle=False), workers=1, time_limit=600) as loader:
        batches = iter(loader)
        assert next(batches)["row"].tolist() == [0]
        time.sleep(1)
        started = time.monotonic()
        batches.close()
    assert time.monotonic() - started < 20


def test_memory_that_is_shared_is_bounded_and_no_part_of_dev_shm(dataset):
    before = set(Path("/dev/shm").iterdir())
    with ClipLoader(dataset, EpochBatchSampler(len(dataset), 2, seed=0), workers=2) as loader:
        next(iter(loader))
        assert loader.slots.array.shape == ((loader.ahead + 1) * 2, *dataset.shape)
        assert set(Path("/dev/shm").iterdir()) <= before


def test_slots_are_zero_when_new_and_hold_what_is_written():
    slots = SharedClipSlots(3, (2, 5))
    assert not slots.array.any()
    slots.array[1] = 7
    assert np.asarray(slots.array).sum() == 70
