"""The storyboard of a summary: a picture of each part with its time, in a grid, as one image to look at or to print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from math import ceil
from pathlib import Path

import numpy as np

from finetune.storage.atomic import atomic_file
from finetune.summaries.summary import Part, Summary
from finetune.text import clock, count, percent
from finetune.video.decode.read import read_frames
from finetune.video.encode import encode_png
from finetune.video.render_text import render_text

MAX_PICTURES = 60  # those of the parts with the highest scores
WIDTH = 1920  # pixels; on a printed page of 190 mm its text is 7 points high
LONGEST_PAGE = 1.4  # height to width, of a sheet of A4 paper
FEWEST_COLUMNS, MOST_COLUMNS = 4, 12
GAP, TEXT_SIZE, TITLE_SIZE = 16, 28, 40  # pixels
NARROWEST = 960  # pixels, so that the title fits
LARGEST_SIDE = 480  # of a picture, in pixels
PAPER, INK, GREY = 255, 20, 96  # grey levels


@dataclass(frozen=True)
class Grid:
    """`columns` of pictures of (height, width) `cell` in pixels."""

    columns: int
    cell: tuple[int, int]


def shown_parts(summary: Summary) -> list[Part]:
    """The parts that have a picture: at most MAX_PICTURES, those with the highest scores, in order of time."""
    chosen = nlargest(MAX_PICTURES, summary.parts, key=lambda part: part.score)
    return sorted(chosen, key=lambda part: part.start)


def grid_of(number: int, picture_size: tuple[int, int]) -> Grid:
    """The grid for so many pictures of (height, width): as few columns as give a page no longer than a sheet."""
    height, width = picture_size
    for columns in range(FEWEST_COLUMNS, MOST_COLUMNS + 1):
        scale = min((WIDTH - GAP * (columns + 1)) / columns / width, LARGEST_SIDE / max(height, width))
        cell = max(1, round(scale * height)), max(1, round(scale * width))
        rows = ceil(number / columns)
        if rows * (cell[0] + GAP + 3 * TEXT_SIZE) <= LONGEST_PAGE * columns * (cell[1] + GAP):
            break
    return Grid(min(columns, max(1, number)), cell)


def part_pictures(summary: Summary) -> dict[Part, np.ndarray]:
    """The pictures, uint8 RGB (H, W, 3), of the parts that `shown_parts` gives; raises VideoError."""
    parts = shown_parts(summary)
    frames = sorted({part.frame for part in parts})
    if not frames:
        return {}
    cell = grid_of(len(parts), summary.picture_size).cell
    pictures_TCHW, _ = read_frames(summary.path, frames, size=cell)
    places = {frame: place for place, frame in enumerate(frames)}
    return {part: pictures_TCHW[places[part.frame]].transpose(1, 2, 0) for part in parts}


def write_storyboard(path: Path, summary: Summary, pictures: Mapping[Part, np.ndarray]) -> None:
    """Write the storyboard as PNG; `pictures` are those of `part_pictures`."""
    with atomic_file(path) as partial:
        partial.write_bytes(encode_png(draw_storyboard(summary, pictures)))


def draw_storyboard(summary: Summary, pictures: Mapping[Part, np.ndarray]) -> np.ndarray:
    """The storyboard, uint8 RGB (H, W, 3)."""
    parts = sorted(pictures, key=lambda part: part.start)
    grid = grid_of(len(parts), summary.picture_size)
    height, width = grid.cell
    has_labels = any(part.label for part in parts)
    row_height = height + GAP + (2 if has_labels else 1) * round(1.35 * TEXT_SIZE)
    page_width = max(NARROWEST, grid.columns * (width + GAP) + GAP)
    top = 2 * GAP + round(1.35 * TITLE_SIZE) + round(1.35 * TEXT_SIZE) + GAP
    page_HWC = np.full((top + ceil(len(parts) / grid.columns) * row_height + GAP, page_width, 3), PAPER, np.uint8)
    _write(page_HWC, summary.path.name, (GAP, GAP), size=TITLE_SIZE)
    below = GAP + round(1.35 * TITLE_SIZE)
    _write(page_HWC, summary_text(summary, pictures=len(parts)), (below, GAP), size=TEXT_SIZE, level=GREY)
    for number, (part, time) in enumerate(zip(parts, _time_texts(parts, width), strict=True)):
        row, column = divmod(number, grid.columns)
        y, x = top + row * row_height, GAP + column * (width + GAP)
        page_HWC[y : y + height, x : x + width] = pictures[part]
        _write(page_HWC, time, (y + height, x), size=TEXT_SIZE, width=width)
        if part.label:
            place = (y + height + round(1.35 * TEXT_SIZE), x)
            _write(page_HWC, part.label, place, size=TEXT_SIZE, width=width, level=GREY)
    return page_HWC


def summary_text(summary: Summary, *, pictures: int) -> str:
    """One line: how many parts, how long, how they were chosen; how many have no picture."""
    length = clock(summary.seconds, tenths=False)
    if summary.is_storyboard:
        text = f"{count(len(summary.parts), 'frame')} of {length}"
    else:
        share = percent(summary.shown_seconds / summary.seconds if summary.seconds else None)
        shown = clock(summary.shown_seconds, tenths=False)
        text = f"{count(len(summary.parts), 'part')}, {shown} of {length} ({share})"
    left_out = "" if pictures >= len(summary.parts) else f"; the {pictures} with the highest scores"
    return f"{text}: {summary.method}{left_out}"


def _time_texts(parts: Sequence[Part], width: int) -> list[str]:
    """From when to when each part is, or only from when where that does not fit into `width` pixels."""
    starts = [clock(part.start) for part in parts]
    whole = [
        start if part.end == part.start else f"{start} – {clock(part.end)}"
        for start, part in zip(starts, parts, strict=True)
    ]
    longest = max(whole, key=len, default="")
    return whole if render_text(longest, size=TEXT_SIZE, width=WIDTH).shape[1] <= width else starts


def _write(
    page_HWC: np.ndarray, text: str, place: tuple[int, int], *, size: int, width: int | None = None, level: int = INK
) -> None:
    """Draw a line of text with its upper left corner at (y, x) `place`, shortened to `width`, or to the page."""
    y, x = place
    opacity_HW = render_text(text, size=size, width=width or page_HWC.shape[1] - x - GAP)
    height, across = opacity_HW.shape
    alpha_HW1 = opacity_HW[..., None] / 255
    under_HWC = page_HWC[y : y + height, x : x + across]
    page_HWC[y : y + height, x : x + across] = np.rint(under_HWC * (1 - alpha_HW1) + level * alpha_HW1).astype(np.uint8)
