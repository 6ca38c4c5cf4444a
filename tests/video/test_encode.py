import av
import numpy as np
import pytest
from grey import grey_frames, level_of
from scenes import scene

from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.encode import RecordingWriter, encode_mask, write_video


@pytest.mark.parametrize("size", [{"height": 48, "width": 64}, {"height": 120, "width": 160}])
def test_the_same_frames_give_the_same_bytes_whatever_lies_in_memory(tmp_path, size):
    frames, random, junk = scene(0, 16, **size), np.random.default_rng(0), []
    contents = set()
    for _ in range(40):
        write_video(tmp_path / "clip.mp4", frames)
        contents.add((tmp_path / "clip.mp4").read_bytes())
        junk = [*junk[-50:], *(random.bytes(int(random.integers(1000, 20000))) for _ in range(3))]
    assert len(contents) == 1


def test_a_recording_can_be_played_before_it_is_closed(tmp_path):
    frames, path = grey_frames(30), tmp_path / "seen.mp4"
    writer = RecordingWriter(path)
    for number, frame_HWC in enumerate(frames):
        writer.write(frame_HWC, number / 25 + (number > 20))
    cut_off = tmp_path / "killed.mp4"
    cut_off.write_bytes(path.read_bytes())
    writer.close()
    for file, count in ((cut_off, 12), (path, 30)):
        assert probe(file).num_frames >= count
        pictures, times = read_frames(file, range(count))
        assert level_of(pictures) == list(range(count))
        assert times.round(3).tolist() == [round(number / 25 + (number > 20), 3) for number in range(count)]


def test_a_mask_is_an_indexed_png_with_the_same_values_and_the_colours(tmp_path):
    mask_HW = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    mask_HW[0, :2] = 0, 1
    (tmp_path / "mask.png").write_bytes(encode_mask(mask_HW, [(0, 0, 0), (230, 159, 10)]))
    with av.open(str(tmp_path / "mask.png")) as container:
        frame = next(container.decode(video=0))
    values_HW, _ = frame.to_ndarray()
    assert frame.format.name == "pal8" and np.array_equal(values_HW, mask_HW)
    assert frame.to_ndarray(format="rgb24")[0, :2].tolist() == [[0, 0, 0], [230, 159, 10]]
