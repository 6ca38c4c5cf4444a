"""Labelled objects as one table with a line per object, and what is measured of their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from finetune.data.labels import Labels
from finetune.data.splits import SPLITS
from finetune.metrics.average_precision import SIZE_AREAS

SIZE_NAMES = ("small", "medium", "large")
MIN_STEPS = 3  # of an identity, from one label to the next, to know its usual motion
MAX_STEPS, MAX_SIDES = 4.0, 2.0  # of a motion that is no jump


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """O objects: their `rows` (O,), `classes` (O,), `boxes` (O, 4) left, top, width, height in pixels, `tracks` (O,).

    `pictures` (O, 2) are width and height of each object's picture, `times` (O,) the middle of each row in seconds.
    Objects to ignore are left out. A track of -1 is none.
    """

    rows: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    tracks: np.ndarray
    pictures: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def object_table(labels: Labels, pictures_N2: np.ndarray, times_N: np.ndarray) -> ObjectTable:
    """The objects of labelled rows; `pictures_N2` are the pictures' width and height, 0 in rows that cannot be read."""
    values_NM9 = labels.values
    present_NM = (values_NM9[..., 0] >= 0) & (values_NM9[..., 8] != 1) & labels.known[:, None]
    rows, slots = np.nonzero(present_NM & (pictures_N2[:, :1] > 0))
    objects_O9 = values_NM9[rows, slots]
    return ObjectTable(
        rows,
        objects_O9[:, 0].astype(np.int64),
        objects_O9[:, 1:5],
        objects_O9[:, 7].astype(np.int64),
        pictures_N2[rows],
        times_N[rows],
    )


def size_indices(boxes_O4: np.ndarray) -> np.ndarray:
    """Indices of SIZE_NAMES (O,), by area in pixels."""
    return np.digitize(boxes_O4[:, 2] * boxes_O4[:, 3], SIZE_AREAS)


def class_rows(names: Sequence[str], table: ObjectTable, splits: Sequence[str]) -> list[dict[str, Any]]:
    """For each class: objects in each split and of each size, frames with it, and its median size.

    `share` is the median of the box's side relative to the picture's: the square root of the share of area.
    """
    sizes, of_split = size_indices(table.boxes), np.array(splits)[table.rows]
    areas = table.boxes[:, 2] * table.boxes[:, 3]
    shares = np.sqrt(np.maximum(areas, 0) / table.pictures.prod(1))
    rows = []
    for number, name in enumerate(names):
        of_class = table.classes == number
        rows.append(
            {
                "class": name,
                "number": number,
                "objects": int(of_class.sum()),
                **{split: int((of_class & (of_split == split)).sum()) for split in SPLITS},
                "frames": len(np.unique(table.rows[of_class])),
                **{size: int((of_class & (sizes == place)).sum()) for place, size in enumerate(SIZE_NAMES)},
                "width": _median(table.boxes[of_class, 2]),
                "height": _median(table.boxes[of_class, 3]),
                "share": _median(shares[of_class]),
            }
        )
    return rows


def _median(values: np.ndarray) -> float | None:
    return round(float(np.median(values)), 4) if len(values) else None


def outside_shares(table: ObjectTable) -> np.ndarray:
    """The share of each box's area that lies outside of its picture (O,); 1 for a box without area."""
    left, top, width, height = table.boxes.T
    across = np.minimum(left + width, table.pictures[:, 0]) - np.maximum(left, 0)
    down = np.minimum(top + height, table.pictures[:, 1]) - np.maximum(top, 0)
    area = width * height
    visible = np.maximum(across, 0) * np.maximum(down, 0)
    return 1 - np.divide(visible, area, out=np.zeros_like(area), where=area > 0)


def touches_border(table: ObjectTable) -> np.ndarray:
    """Whether each box comes within half a pixel of its picture's border, bool (O,)."""
    left, top, width, height = table.boxes.T
    ends = np.stack([left + width - table.pictures[:, 0], top + height - table.pictures[:, 1]])
    return (np.stack([left, top]).min(0) <= 0.5) | (ends.max(0) >= -0.5)


def jumps(table: ObjectTable, files_O: np.ndarray) -> np.ndarray:
    """Objects (J,) that are much farther from the same identity's last label than its motion explains.

    Much farther: more than MAX_STEPS times its median step in such a time, and more than MAX_SIDES of its longer sides.
    `files_O` (O,) numbers the files of the objects; an identity belongs to one file.
    """
    order = np.lexsort((table.times, table.tracks, files_O))
    order = order[table.tracks[order] >= 0]
    centres = table.boxes[order, :2] + table.boxes[order, 2:] / 2
    same = (np.diff(files_O[order]) == 0) & (np.diff(table.tracks[order]) == 0)
    starts = np.concatenate([[0], np.flatnonzero(~same) + 1, [len(order)]]) if len(order) else np.zeros(1, np.int64)
    jumping: list[np.ndarray] = []
    for first, end in pairwise(starts.tolist()):
        steps = np.linalg.norm(np.diff(centres[first:end], axis=0), axis=1)
        seconds = np.maximum(np.diff(table.times[order[first:end]]), 1e-6)
        if len(steps) < MIN_STEPS:
            continue
        usual = np.median(steps / seconds) * seconds
        sides = table.boxes[order[first + 1 : end], 2:].max(1)
        jumping.append(order[first + 1 : end][(steps > MAX_STEPS * usual) & (steps > MAX_SIDES * sides)])
    return np.sort(np.concatenate([*jumping, np.empty(0, np.int64)])).astype(np.int64)
