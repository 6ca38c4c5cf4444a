import numpy as np
import pytest
from scenes import scene

from finetune.video.encode import write_video


@pytest.mark.parametrize("size", [{"height": 48, "width": 64}, {"height": 120, "width": 160}])
def test_the_same_frames_give_the_same_bytes_whatever_lies_in_memory(tmp_path, size):
    frames, random, junk = scene(0, 16, **size), np.random.default_rng(0), []
    contents = set()
    for _ in range(40):
        write_video(tmp_path / "clip.mp4", frames)
        contents.add((tmp_path / "clip.mp4").read_bytes())
        junk = [*junk[-50:], *(random.bytes(int(random.integers(1000, 20000))) for _ in range(3))]
    assert len(contents) == 1
