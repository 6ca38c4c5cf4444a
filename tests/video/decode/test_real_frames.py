"""On real files: random access equals decoding in order, for every decoder that can read the file.

Every tenth file is tried with all tests; FINETUNE_ALL=1 tries all of them.
"""

import os
import random
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from finetune.errors import VideoError
from finetune.video.decode.probe import scan
from finetune.video.decode.read import RgbConverter, read_frames

SMALL = (48, 64)


def real_files():
    real = os.environ.get("FINETUNE_REAL")
    if not real:
        return []
    step = 1 if os.environ.get("FINETUNE_ALL") else 10
    data = Path(real, "data")
    clips = [sorted(data.glob(pattern))[::step] for pattern in ("ut_interaction/*/*.avi", "yoga_poses/*/*.mp4")]
    odd = [path for path in sorted((data / "odd").iterdir()) if path.suffix != ".csv"]
    return [path for paths in (*clips, odd) for path in paths]


def in_order(path, wanted):
    """All frames of a file at a small size, and the wanted ones by number at full size; (3, H, W) each."""
    small, full = [], {}
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        stream.codec_context.thread_count = 1
        to_rgb = RgbConverter(path)
        for number, frame in enumerate(container.decode(stream)):
            small.append(to_rgb(frame, SMALL).transpose(2, 0, 1))
            if number in wanted:
                full[number] = to_rgb(frame, None).transpose(2, 0, 1)
    return np.stack(small), full


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("path", real_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_frame_is_the_frame_of_decoding_in_order(path):
    try:
        info, layout = scan(path)
    except VideoError:
        return  # the refused kinds are listed in test_sparse.py
    rng, count = random.Random(path.name), info.num_frames
    wanted = rng.sample(range(count), min(count, 24))
    small, full = in_order(path, wanted)
    assert len(small) == count
    expected = np.stack([full[number] for number in wanted])
    for known in (None, layout):
        every = rng.sample(range(count), count)
        np.testing.assert_array_equal(read_frames(path, every, layout=known, size=SMALL)[0], small[every])
        np.testing.assert_array_equal(read_frames(path, wanted, layout=known)[0], expected)
        for few in [rng.sample(range(count), min(8, count)) for _ in range(3)] + [[index] for index in wanted[:4]]:
            np.testing.assert_array_equal(read_frames(path, few, layout=known, size=SMALL)[0], small[few])
    for decoder in ("opencv", "torchcodec"):
        try:
            found, _ = read_frames(path, wanted, decoder=decoder)
        except VideoError as error:
            assert any(said in str(error) for said in ("OpenCV can read only 0", "torchcodec cannot", "no reliable"))
            continue
        differences = [np.abs(one.astype(np.int16) - other).mean() for one, other in zip(found, expected, strict=True)]
        assert max(differences) <= (4 if "10bits" in path.name else 0), decoder
