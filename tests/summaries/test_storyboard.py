"""A storyboard has the picture of each part at its place, with its time, on a page no longer than a sheet of paper."""

from pathlib import Path

import numpy as np
import pytest
from grey import level_of, make_clip

from finetune.summaries.storyboard import (
    GAP,
    MAX_PICTURES,
    WIDTH,
    draw_storyboard,
    grid_of,
    part_pictures,
    shown_parts,
    summary_text,
    write_storyboard,
)
from finetune.summaries.summary import Part, Summary
from finetune.video.decode.read import read_frames


def summary_of(number, *, path=Path("recording.mp4"), size=(90, 160), labels=(), seconds=100.0, length=0.5):
    parts = tuple(
        Part(float(place), place + length, (place * 7 % 11) / 11, dict(labels).get(place), place)
        for place in range(number)
    )
    return Summary(path, seconds, parts, (), "most representative parts", size)


@pytest.mark.parametrize("size", [(720, 1280), (1920, 1080), (480, 480), (60, 106)])
@pytest.mark.parametrize("number", [1, 2, 5, 12, 37, 60])
def test_the_page_is_as_wide_as_a_screen_shows_and_not_longer_than_a_sheet(number, size):
    grid = grid_of(number, size)
    height, width = grid.cell
    assert grid.columns * (width + GAP) + GAP <= WIDTH + 1 and grid.columns <= number
    assert height / width == pytest.approx(size[0] / size[1], rel=0.02)
    rows = np.ceil(number / grid.columns)
    assert number < 12 or rows * (height + GAP) <= 1.4 * grid.columns * (width + GAP)


def test_each_part_shows_its_own_frame(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 20, size=64)
    summary = summary_of(6, path=clip, size=(64, 64))
    pictures = part_pictures(summary)
    assert level_of(np.stack([pictures[part] for part in summary.parts])) == [0, 1, 2, 3, 4, 5]
    write_storyboard(tmp_path / "board.png", summary, pictures)
    frames, _ = read_frames(tmp_path / "board.png", [0])
    assert np.array_equal(frames[0].transpose(1, 2, 0), draw_storyboard(summary, pictures))
    middle = frames[0, 0][:, GAP + grid_of(6, (64, 64)).cell[1] // 2]
    assert (np.abs(middle.astype(int) - 16) <= 2).sum() > 200, "the first frame is in the first column"


def test_of_many_parts_those_with_the_highest_scores_are_shown_in_order_of_time():
    summary = summary_of(200)
    shown = shown_parts(summary)
    assert len(shown) == MAX_PICTURES and shown == sorted(shown, key=lambda part: part.start)
    assert min(part.score for part in shown) >= sorted(part.score for part in summary.parts)[-MAX_PICTURES]
    assert summary_text(summary, pictures=60).endswith("most representative parts; the 60 with the highest scores")


def test_the_numbers_are_said():
    assert summary_text(summary_of(12), pictures=12) == "12 parts, 0:06 of 1:40 (6.0\u00a0%): most representative parts"
    assert summary_text(summary_of(1, length=0.0), pictures=1) == "1 frame of 1:40: most representative parts"


def test_labels_and_times_change_the_picture_and_odd_names_do_not_break_it():
    plain, labelled = summary_of(3), summary_of(3, labels={1: "hand shaking"})
    pictures = {part: np.full((*grid_of(3, (90, 160)).cell, 3), 90, np.uint8) for part in plain.parts}
    named = dict(zip(labelled.parts, pictures.values(), strict=True))
    assert draw_storyboard(labelled, named).shape[0] > draw_storyboard(plain, pictures).shape[0]
    odd = summary_of(3, path=Path("\udcff\u202e 挥手 $x^2$.mp4"))
    assert draw_storyboard(odd, pictures).shape == draw_storyboard(plain, pictures).shape
