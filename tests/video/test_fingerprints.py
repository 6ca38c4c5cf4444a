import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene

from finetune.video import fingerprints
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.encode import write_video
from finetune.video.fingerprints import THUMBNAIL_SIDE, exact_duplicates, near_duplicates, thumbnail


def pictures_of(path):
    num_frames = probe(path).num_frames
    frames, _ = read_frames(path, [0, num_frames // 2, num_frames - 1])
    return np.stack([thumbnail(frame) for frame in frames])


def noise(seed, number):
    """uint8 (N, 3, SIDE, SIDE): large blotches as in real scenes, not fine noise, which a hash ignores."""
    blotches = np.random.default_rng(seed).integers(0, 256, (number, 3, 8, 8)).astype(np.uint8)
    return blotches.repeat(THUMBNAIL_SIDE // 8, 2).repeat(THUMBNAIL_SIDE // 8, 3)


@pytest.mark.parametrize(
    ("mirrored", "size"), [(False, (24, 32)), (False, (96, 64)), (True, (48, 64)), (True, (30, 40))]
)
def test_a_copy_is_found_though_encoded_anew_scaled_squeezed_or_mirrored(tmp_path, mirrored, size):
    for seed in range(6):
        write_video(tmp_path / f"{seed}.mp4", scene(seed))
    frames, _ = read_frames(tmp_path / "2.mp4", range(6), size=size)
    copy = frames.transpose(0, 2, 3, 1)
    write_video(tmp_path / "6.avi", copy[:, :, ::-1] if mirrored else copy)
    pictures = np.stack([pictures_of(tmp_path / f"{n}.{'avi' if n == 6 else 'mp4'}") for n in range(7)])
    assert near_duplicates(pictures) == [(2, 6, mirrored)]


def test_the_same_place_with_someone_else_in_it_is_no_copy():
    """Like two clips of a fixed camera: the same except for a small figure."""
    place = np.tile(noise(0, 1), (2, 1, 1, 1))
    place[1, :, 12:20, 14:18] = 255 - place[1, :, 12:20, 14:18]
    assert near_duplicates(place) == []
    place[1] = place[0]
    assert near_duplicates(place) == [(0, 1, False)]


def test_all_three_pictures_have_to_agree():
    pictures = noise(1, 2)
    pictures[1, :2] = pictures[0, :2]
    assert near_duplicates(pictures) == []


def test_pictures_that_show_nothing_agree_with_none():
    levels = np.array([16, 16, 200], np.uint8)
    assert near_duplicates(np.broadcast_to(levels[:, None, None, None], (3, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE))) == []
    assert near_duplicates(np.empty((0, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)) == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1199), st.integers(0, 1199), st.booleans())
def test_a_planted_pair_is_found_wherever_it_stands_and_no_other(one, other, mirrored):
    one, other = sorted((one, other))
    pictures = noise(3, 1200)
    if one == other:
        assert near_duplicates(pictures) == []
        return
    pictures[other] = pictures[one][..., ::-1] if mirrored else pictures[one]
    assert near_duplicates(pictures) == [(one, other, mirrored)]


def test_very_many_copies_end_the_search(monkeypatch):
    monkeypatch.setattr(fingerprints, "MAX_PAIRS", 10)
    found = near_duplicates(np.tile(noise(4, 1), (100, 1, 1, 1)))
    assert 10 <= len(found) < 100 * 99 / 2 + 1
    assert all(one < other for one, other, _ in found)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 255))
def test_a_small_grey_picture_keeps_the_brightness_whatever_the_shape(height, width, level):
    frame = np.full((3, height, width), level, np.uint8)
    assert np.abs(thumbnail(frame).astype(int) - level).max() <= 1
    frame[:, : height // 2] = 0
    halves = thumbnail(frame).mean(1)
    assert halves[0] <= halves[-1]


def test_copies_to_the_byte_are_found_and_only_files_of_one_size_are_read(tmp_path, monkeypatch):
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"alone in its size", "e": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    read = []
    monkeypatch.setattr(
        fingerprints, "_digest", lambda path: (read.append(path.name), hashlib.sha256(path.read_bytes()).digest())[1]
    )
    assert exact_duplicates([tmp_path / name for name in "abcde"]) == [[0, 2], [1, 4]]
    assert sorted(read) == ["a", "b", "c", "e"]


def test_files_that_differ_in_the_middle_alone_are_no_copies(tmp_path):
    ends = b"e" * fingerprints.END_BYTES
    for name, middle in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(ends + middle + ends)
    assert exact_duplicates([tmp_path / name for name in "abc"]) == [[0, 2]]
