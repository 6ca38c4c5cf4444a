"""A pack gives the frames of its videos, whatever ended the packing, and says when it cannot."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from grey import level_of, make_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moving import KINDS, write

from finetune.errors import DataError, RecipeError, RunError, VideoError
from finetune.manifest import Manifest
from finetune.recipe import Clip
from finetune.video import pack as pack_module
from finetune.video.batches import EpochBatches
from finetune.video.check import look_at_files
from finetune.video.dataset import ClipDataset
from finetune.video.decode import probe, read_frames
from finetune.video.encode import write_video
from finetune.video.loader import ClipLoader
from finetune.video.pack import kept_frames, pack, packed_size
from finetune.video.pack_format import read_index
from finetune.video.packed import Pack, facts_of

LENGTHS = (1, 2, 7, 31)
SLOW = """
import sys, time
import finetune.video.pack as pack_module
from finetune.manifest import Manifest

pack_module.SHARD_BYTES = 1
def add(self, part, add=pack_module._Shards.add):
    add(self, part)
    print(self.number, flush=True)
    time.sleep(0.3)
pack_module._Shards.add = add
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
    """A pack of them at a short side of 40; do not write into it."""
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
    assert level_of(frames) == [index % 31 if index < 31 else index for index in indices]
    assert frames.shape == (len(indices), 3, *(size or (40, 40)))
    assert frames.dtype == np.uint8
    assert frames.transpose(0, 2, 3, 1).flags.c_contiguous
    assert seconds == pytest.approx(np.array(indices) / 25)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_and_time_is_that_of_the_source_in_any_codec(kind, tmp_path):
    path = write(tmp_path / "..", kind, 26) if False else write(tmp_path, kind, 26)
    (tmp_path / "list.csv").write_text(f"path,label\n{path.name},a\n{path.name},b\n")
    pack(Manifest.from_csv(tmp_path / "list.csv", val=0, test=0), tmp_path / "pack")
    indices = list(range(probe(path).num_frames))
    expected, times = read_frames(path, indices)
    found, found_times = Pack(tmp_path / "pack").read_frames(path, indices)
    assert found.shape == expected.shape
    errors = np.abs(found.astype(int)[:, None] - expected.astype(int)[None]).mean((2, 3, 4))
    assert errors.argmin(1).tolist() == indices
    np.testing.assert_allclose(found_times, times)
