import csv

import av
import cv2
import numpy as np
import pytest
from grey import grey_frames, level_of, make_clip

from finetune.errors import VideoError
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.encode import write_video


@pytest.mark.parametrize("count", [1, 2, 7, 31])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_frame_i_is_frame_i(tmp_path, count, suffix):
    path = make_clip(tmp_path / f"grey{suffix}", count)
    info = probe(path)
    assert (info.num_frames, info.width, info.height, info.fps) == (count, 32, 32, 25.0)
    frames, pts_seconds = read_frames(path, range(count))
    assert frames.shape == (count, 3, 32, 32)
    assert level_of(frames) == list(range(count))
    assert (np.diff(pts_seconds) > 0).all()


def test_indices_may_repeat_and_need_no_order(tmp_path):
    path = make_clip(tmp_path / "grey.mp4", 31)
    frames, pts_seconds = read_frames(path, [30, 0, 17, 17, 3])
    assert level_of(frames) == [30, 0, 17, 17, 3]
    np.testing.assert_allclose(pts_seconds, np.array([30, 0, 17, 17, 3]) / 25, atol=1e-6)


def test_a_long_clip_is_counted_by_its_index(tmp_path):
    path = make_clip(tmp_path / "long.mp4", 300, step=0)
    info = probe(path)
    assert (info.num_frames, info.counted) == (300, "index")
    assert info.duration_seconds == pytest.approx(12)


def test_frames_are_scaled_to_the_asked_size_and_averaged(tmp_path):
    """Fine black and white stripes become grey when scaled down: all pixels are averaged."""
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    write_video(tmp_path / "stripes.mp4", stripes)
    frames, _ = read_frames(tmp_path / "stripes.mp4", [0, 1], size=(16, 8))
    assert frames.shape == (2, 3, 16, 8)
    assert np.abs(frames[..., 1:-1].astype(int) - 127).max() < 12


def test_a_frame_that_is_not_there_is_refused(tmp_path):
    path = make_clip(tmp_path / "grey.mp4", 7)
    with pytest.raises(VideoError, match=r"grey.mp4: frame 9 was asked for, but only 7 frames can be decoded"):
        read_frames(path, [2, 9])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_an_image_is_a_video_of_one_frame(tmp_path, suffix):
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[..., 2] = 200  # OpenCV writes BGR: this is red
    path = tmp_path / f"child's pose 100%{suffix}"
    assert cv2.imwrite(str(path), picture)
    info = probe(path)
    assert (info.num_frames, info.width, info.height) == (1, 40, 30)
    frames, _ = read_frames(path, [0, 0])
    assert frames.shape == (2, 3, 30, 40)
    assert frames[0, 0, 15, 20] > 180
    assert frames[0, 1:, 15, 20].max() < 30


def test_colours_come_as_rgb(tmp_path):
    blue = np.zeros((3, 32, 32, 3), np.uint8)
    blue[..., 2] = 220
    write_video(tmp_path / "blue.mp4", blue)
    frames, _ = read_frames(tmp_path / "blue.mp4", [1])
    assert frames[0, 2, 16, 16] > 190
    assert frames[0, :2, 16, 16].max() < 40


def test_what_is_no_video_is_refused_in_plain_words(tmp_path):
    empty, text, pointer = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "pointer.mp4"
    empty.write_bytes(b"")
    text.write_text("This is no video at all.\n" * 50)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    for path, message in (
        (empty, "is empty"),
        (text, "is not a video, or is cut off"),
        (pointer, "is a Git-LFS pointer"),
        (tmp_path / "nowhere.mp4", "there is no such file"),
        (tmp_path, "cannot be read"),
    ):
        for read in (probe, lambda path: read_frames(path, [0])):
            with pytest.raises(VideoError, match=message) as error:
                read(path)
            assert str(error.value).startswith(str(path))


def test_a_file_with_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(VideoError, match="holds only audio"):
        probe(path)


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_refused(tmp_path, part):
    whole = make_clip(tmp_path / "whole.mp4", 31)
    moved = tmp_path / "index first.mp4"
    with av.open(str(whole)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    for path in (whole, moved):
        cut = tmp_path / f"cut {path.name}"
        cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(VideoError, match="cut off"):
            probe(cut)


@pytest.mark.slow
@pytest.mark.real
def test_real_odd_files_are_read_right_or_refused_in_plain_words(real):
    with (real / "data/odd/clips.csv").open() as file:
        for record in csv.DictReader(file):
            path = real / "data/odd" / record["file"]
            known_frames = int(record["frames_decoded_pyav"] or 0)
            try:
                info = probe(path)
                read_frames(path, [0, info.num_frames - 1])
            except VideoError as error:
                assert str(error).startswith(str(path))
                assert not known_frames or "corrupted" in path.name, error
            else:
                assert info.num_frames == known_frames, path


@pytest.mark.real
def test_real_avi_files_with_b_frames_are_counted_by_decoding(real):
    """Their headers list one or two frames too many, and their timestamps are out of order."""
    for path in sorted((real / "data/ut_interaction/kicking").glob("*.avi"))[:4]:
        info = probe(path)
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert (info.num_frames, info.counted) == (len(frames), "decoded")
        wanted = [info.num_frames - 1, 0, info.num_frames // 2]
        found, _ = read_frames(path, wanted)
        np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), np.stack([frames[index] for index in wanted]))


def test_encoding_twice_gives_the_same_bytes(tmp_path):
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, grey_frames(9))
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
