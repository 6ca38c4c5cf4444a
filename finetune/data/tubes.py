"""Rows that follow one object: the column `boxes`, with the object's box at some frames, the keyframes.

A cell is `frame:left,top,width,height;…`: frames count from 0 in the file, boxes are in pixels of the video. From one
keyframe to the next the box changes evenly; before the first and after the last it stays. One box without a frame
holds for all frames. The row with an empty cell shows the whole picture.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.tables import Table, first_problems
from finetune.data.valid_names import escape_invisible
from finetune.errors import DataError, shorten_list
from finetune.recipe.tasks import DENSE_KINDS, SPATIAL_KINDS, Task
from finetune.text import parse_number

KEYFRAME_SEPARATOR = ";"
FORM = "frame:left,top,width,height;…, or left,top,width,height for all frames"
KINDS_OF_PLACES = (*SPATIAL_KINDS, *DENSE_KINDS)
MAX_PIXELS = 1e6
DECIMALS = 2  # of a box, in pixels
_FRAME = re.compile(r"[0-9]{1,10}")


class Tube(NamedTuple):
    """The box of one object over time.

    `frames_K` are the numbers of the keyframes in the file, int64, rising; empty for a box of all frames, K is then 1.
    `boxes_K4` are left, top, width and height in pixels of the video, float64.
    """

    frames_K: np.ndarray
    boxes_K4: np.ndarray

    def boxes_at(self, frames_T: np.ndarray) -> np.ndarray:
        """The boxes (T, 4) at frames of the file (T,)."""
        if not len(self.frames_K):
            return np.tile(self.boxes_K4, (len(frames_T), 1))
        return np.stack([np.interp(frames_T, self.frames_K, side_K) for side_K in self.boxes_K4.T], axis=1)


def parse_tube(cell: str) -> Tube:
    """The tube of a cell that is not empty. Raises DataError, which names all errors of the cell."""
    texts = [text for text in map(str.strip, cell.split(KEYFRAME_SEPARATOR)) if text]
    frames: list[int] = []
    boxes: list[list[float]] = []
    problems: list[str] = []
    for text in texts:
        frame_text, colon, box_text = text.rpartition(":")
        numbers = [_parse_pixels(part) for part in box_text.split(",")]
        box = [number for number in numbers if number is not None]
        if len(numbers) != 4 or len(box) != 4 or (colon and not _FRAME.fullmatch(frame_text.strip())):
            problems.append(f"{escape_invisible(text)!r} is not {FORM}")
        elif min(box[2:]) <= 0:
            problems.append(f"{escape_invisible(text)!r} has a box of {box[2]:g} x {box[3]:g} pixels; it needs an area")
        elif not colon and len(texts) > 1:
            problems.append(f"{escape_invisible(text)!r} has no frame; several boxes need one each: {FORM}")
        else:
            frames += [int(frame_text)] if colon else []
            boxes.append(box)
    repeated = sorted(frame for frame, number in Counter(frames).items() if number > 1)
    if repeated:
        problems.append(f"frame {shorten_list(repeated)} has several boxes; a row follows one object")
    if not texts:
        problems.append(f"{escape_invisible(cell)!r} has no box; write {FORM}")
    if problems:
        raise DataError(shorten_list(problems))
    order = np.argsort(frames, kind="stable") if frames else np.zeros(1, dtype=np.int64)
    return Tube(np.array(frames, dtype=np.int64)[order[: len(frames)]], np.array(boxes, dtype=np.float64)[order])


def _parse_pixels(text: str) -> float | None:
    """A number of pixels, to hundredths."""
    number = parse_number(text)
    return round(number, DECIMALS) if number is not None and abs(number) <= MAX_PIXELS else None


def tube_text(tube: Tube) -> str:
    """The cell from which `parse_tube` reads the same tube."""
    boxes = [",".join(_number_text(number) for number in box) for box in tube.boxes_K4.tolist()]
    if not len(tube.frames_K):
        return boxes[0]
    return KEYFRAME_SEPARATOR.join(f"{frame}:{box}" for frame, box in zip(tube.frames_K.tolist(), boxes, strict=True))


def _number_text(number: float) -> str:
    return f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")


def short_tube_text(cell: str) -> str:
    """What tells a row from others of the same interval, for names: its first box and a digest of all its keyframes.

    An empty text for an empty cell.
    """
    if not cell:
        return ""
    first = cell.split(KEYFRAME_SEPARATOR)[0].rpartition(":")[2]
    digest = blake2b(cell.encode(), digest_size=3).hexdigest()
    return f"box {first} {digest}"


def read_tubes(table: Table) -> np.ndarray | None:
    """The column `boxes` as UTF-8 bytes (N,), each cell as `tube_text` writes it; None where it is missing or empty.

    Raises DataError with the errors of all rows.
    """
    cells_N, errors = parse_tubes(table)
    if errors:
        problems = [f"line {table.lines[row]}: {error}" for row, error in errors.items()]
        raise DataError("\n".join(f"{table.source}: {problem}" for problem in first_problems(problems)))
    return cells_N


def parse_tubes(table: Table) -> tuple[np.ndarray | None, dict[int, str]]:
    """The same cells, and the errors by row; a row with an error gets an empty cell."""
    column = table.filled("boxes")
    if column is None:
        return None, {}
    cells: list[str] = []
    errors: dict[int, str] = {}
    for row, cell in enumerate(column):
        try:
            cells.append(tube_text(parse_tube(cell)) if cell else "")
        except DataError as error:
            cells.append("")
            errors[row] = f"boxes: {error}"
    return tube_cells(cells), errors


def tube_cells(cells: Iterable[str]) -> np.ndarray:
    """Cells as `Manifest.boxes` has them, UTF-8 bytes (N,)."""
    return np.array([cell.encode() for cell in cells], dtype=bytes)


def refuse_tasks_of_places(source: Path, tasks: Mapping[str, Task]) -> None:
    """Raise DataError for tasks whose labels are places in the whole picture, which rows with boxes do not show."""
    refused = [f"tasks.{name} ({task.kind})" for name, task in tasks.items() if task.kind in KINDS_OF_PLACES]
    if refused:
        raise DataError(
            f"{source}: has a column boxes, so a row shows a part of the picture, but the labels of "
            f"{shorten_list(refused)} are places in the whole picture; use a manifest without boxes for such tasks"
        )


def tube_problems(tube: Tube, *, frames: tuple[int, int], file_frames: int, size: tuple[int, int]) -> Sequence[str]:
    """What is wrong with a tube in a row of the `frames` [first, last] of a file of `file_frames` frames.

    `size` is the height and width of the video in pixels.
    """
    keyframes_K, (height, width) = tube.frames_K, size
    problems = []
    if late := keyframes_K[keyframes_K >= file_frames].tolist():
        problems.append(f"boxes: no frame {shorten_list(late)} in the file, whose frames are 0 to {file_frames - 1}")
    first, last = frames
    is_outside_K = (keyframes_K < first - 1) | (keyframes_K > last + 1)  # `end` is often the time of the last keyframe
    if outside := keyframes_K[is_outside_K & (keyframes_K < file_frames)].tolist():
        problems.append(
            f"boxes: frame {shorten_list(outside)} is not in the row, whose frames are {first} to {last}; frames are "
            "counted from the beginning of the file"
        )
    left_K, top_K, width_K, height_K = tube.boxes_K4.T
    is_beside_K = (left_K >= width) | (top_K >= height) | (left_K + width_K <= 0) | (top_K + height_K <= 0)
    if beside := [tube_text(Tube(keyframes_K[:0], box[None])) for box in tube.boxes_K4[is_beside_K]]:
        problems.append(f"boxes: {shorten_list(beside)} is outside the picture of {width} x {height} pixels")
    return problems
