"""Random access gives the same frames as decoding in order, in every codec and container, with less work."""

import random

import numpy as np
import pytest
from moving import KINDS, in_order, write

from finetune.errors import VideoError
from finetune.video.decode import read, sparse
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import frame_times, probe, scan
from finetune.video.decode.read import read_frames

COUNT = 61
UNTRUE_TIMES = {"h264_ts", "h264_flv", "h264_avi", "mpeg4_avi", "mpeg4_mp4", "mpeg2_mpg", "gif"}
# OpenCV's wheel decodes no AV1; torchcodec misses the last frame of some files with B-frames, and says so.
REFUSED = {
    "opencv": {"av1", "h264_interlaced"},
    "torchcodec": UNTRUE_TIMES | {"mjpeg_avi", "h264_open", "h264_refresh", "h264_mkv"},
}
CANNOT_JUMP = {"h264_ts", "h264_flv", "mpeg2_mpg"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Path and all frames of each kind, made when first asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            path = write(tmp_path_factory.mktemp(kind), kind, COUNT)
            made[kind] = path, in_order(path)
        return made[kind]

    return of


def wanted_sets(count):
    rng = random.Random(1)
    yield list(range(count))
    yield from ([index] for index in range(count))
    yield from (rng.sample(range(count), 8) for _ in range(12))
    yield [count - 1, 0, count // 2, 0]


def refuse_to_count(*args):
    raise AssertionError("frames were counted off instead of found")


@pytest.mark.parametrize("kind", KINDS)
def test_random_access_gives_the_frames_that_decoding_in_order_gives(clips, kind):
    path, frames = clips(kind)
    info, layout = scan(path)
    assert info.num_frames == len(frames)
    for wanted in wanted_sets(len(frames)):
        found, seconds = read_frames(path, wanted, layout=layout)
        np.testing.assert_array_equal(found, frames[wanted])
        assert (np.argsort(seconds, kind="stable") == np.argsort(wanted, kind="stable")).all()


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"h264_refresh"}))  # its only keyframe is the first
@pytest.mark.parametrize("gap", [0, 64])
def test_frames_are_found_and_not_counted_off(clips, kind, gap, monkeypatch):
    path, frames = clips(kind)
    if kind in CANNOT_JUMP and gap == 0:
        pytest.skip("its container has no index")
    monkeypatch.setattr(sparse, "SEEK_THRESHOLD_PACKETS", gap)
    _, layout = scan(path)
    monkeypatch.setattr(read, "_decode_from_start", refuse_to_count)
    for wanted in wanted_sets(len(frames)):
        np.testing.assert_array_equal(read_frames(path, wanted, layout=layout)[0], frames[wanted])
        if kind not in UNTRUE_TIMES:
            read_frames(path, wanted)


@pytest.mark.parametrize("kind", sorted(UNTRUE_TIMES))
def test_without_a_layout_frames_of_files_with_untrue_times_are_counted_off(clips, kind):
    path, frames = clips(kind)
    assert not probe(path).reliable_timestamps
    wanted = [len(frames) - 1, 3, 17]
    np.testing.assert_array_equal(read_frames(path, wanted)[0], frames[wanted])


def pictures_decoded(monkeypatch, path, wanted):
    seen = []
    taken = sparse._GroupDecoder._checked_output

    def counting(self, pictures):
        seen.extend(pictures)
        return taken(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(sparse._GroupDecoder, "_checked_output", counting)
        read_frames(path, wanted)
    return len(seen)


def test_only_the_groups_that_hold_a_target_are_decoded(clips, monkeypatch):
    path, _ = clips("h264")  # a keyframe every 12 frames
    assert pictures_decoded(monkeypatch, path, [0]) == 1
    assert pictures_decoded(monkeypatch, path, [23]) == 12
    assert pictures_decoded(monkeypatch, path, [48]) == 1
    assert pictures_decoded(monkeypatch, path, [2, 50]) == 3 + 3


def test_frames_that_nothing_refers_to_are_not_decoded(clips, monkeypatch):
    path, _ = clips("h264_b")  # I, then groups of four: P, a reference B, two non-reference b
    assert pictures_decoded(monkeypatch, path, [11]) < 9
    assert pictures_decoded(monkeypatch, path, list(range(12))) == 12


def test_a_file_that_is_not_laid_out_as_it_says_is_read_by_counting(clips, monkeypatch):
    path, frames = clips("h264_b")
    true_layout, counted = read.layout_by_container_index, []
    counted_off = read._decode_from_start

    def false_layout(container, stream):
        """Says that decoding can start at every P frame."""
        assert true_layout(container, stream)
        starts = np.array([0, *range(1, 12, 4), COUNT])
        times = [stream.index_entries[int(start)].timestamp for start in starts[:-1]]
        return GopLayout(starts, starts, np.array(times))

    monkeypatch.setattr(read, "layout_by_container_index", false_layout)
    monkeypatch.setattr(
        read, "_decode_from_start", lambda *args, **more: counted.append(1) or counted_off(*args, **more)
    )
    for index in range(12):
        np.testing.assert_array_equal(read_frames(path, [index])[0], frames[[index]])
    assert len(counted) >= 6


@pytest.mark.parametrize("kind", ["h264_b", "h264_mkv", "hevc", "vp9", "mjpeg_avi", "mpeg4_avi"])
def test_times_are_those_of_the_frames(clips, kind):
    path, frames = clips(kind)
    times = frame_times(path)
    assert len(times) == len(frames)
    np.testing.assert_allclose(np.diff(times), 1 / 25, atol=2e-3)
    if kind not in UNTRUE_TIMES:
        np.testing.assert_allclose(read_frames(path, [3, 40])[1], times[[3, 40]], atol=1e-6)


@pytest.mark.parametrize("decoder", ["opencv", "torchcodec"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_gives_the_same_frames_or_refuses(clips, kind, decoder):
    """Bit for bit, but for interlaced pictures and 4:4:4, where torchcodec converts colours in another way."""
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec", exc_type=(ImportError, RuntimeError, OSError))
    path, frames = clips(kind)
    wanted = [len(frames) - 1, 0, 30, 30, 7]
    try:
        found, _ = read_frames(path, wanted, decoder=decoder)
    except VideoError as error:
        assert kind in REFUSED[decoder], error
        return
    assert found.shape == frames[wanted].shape
    assert np.abs(found.astype(int) - frames[wanted]).mean() <= (9 if kind == "h264_interlaced" else 0)
    nearest = [np.abs(frames.astype(int) - picture).mean((1, 2, 3)).argmin() for picture in found]
    assert nearest == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_of_frames_gives_the_same_pictures_one_by_one(clips, kind):
    path, frames = clips(kind)
    _, layout = scan(path)
    for wanted in (np.arange(len(frames)), np.array([0, 1, 13, 14, 40, len(frames) - 1]), np.arange(5, 30, 3)):
        for known in (layout, None):
            pictures = dict(read.stream_frames(path, wanted, size=None, layout=known))
            assert list(pictures) == wanted.tolist()
            given = np.stack(list(pictures.values())).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(given, frames[wanted])


def test_a_stream_goes_on_by_counting_where_a_layout_turns_out_to_be_wrong(clips, monkeypatch):
    path, frames = clips("h264_b")
    decode = read.decode_groups

    def broken(*arguments):
        for number, frame, seconds in decode(*arguments):
            if number == 20:
                raise sparse.LayoutError("here")
            yield number, frame, seconds

    monkeypatch.setattr(read, "decode_groups", broken)
    pictures = dict(read.stream_frames(path, np.arange(0, 60, 4), size=None))
    assert list(pictures) == list(range(0, 60, 4))
    np.testing.assert_array_equal(np.stack(list(pictures.values())).transpose(0, 3, 1, 2), frames[0:60:4])
