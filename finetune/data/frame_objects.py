"""The objects of labelled frames as one array (N, M, 9), with the columns LABEL_FIELDS of recipe/object_fields.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.object_labels import LabelledObject
from finetune.recipe.object_fields import LABEL_FIELDS

CLASS, BOX, MOTION, TRACK, IGNORE = 0, slice(1, 5), slice(5, 7), 7, 8  # places in LABEL_FIELDS
MAX_FRAMES_APART = 10  # of two labelled frames between which an object's motion is measured
_NO_OBJECT = (-1.0, *(0.0,) * 4, np.nan, np.nan, -1.0, 0.0)


def no_objects(rows: int, most: int = 1) -> np.ndarray:
    """The array (N, M, 9) of N = `rows` frames without objects, M = `most`."""
    return np.tile(np.array(_NO_OBJECT), (rows, most, 1))


def objects_array(frames: Sequence[Sequence[LabelledObject]], names: Sequence[str]) -> np.ndarray:
    """The objects of N frames, float64 (N, M, 9), of classes `names`; M is the most objects of a frame, at least 1.

    Motion is not known.
    """
    values_NM9 = no_objects(len(frames), max([1, *map(len, frames)]))
    codes = {name: code for code, name in enumerate(names)}
    for row, objects in enumerate(frames):
        for place, item in enumerate(objects):
            track = -1 if item.track is None else item.track
            values_NM9[row, place] = (codes[item.name], *item[1:5], np.nan, np.nan, track, item.ignore)
    return values_NM9


def objects_of_frame(values_M9: np.ndarray, names: Sequence[str]) -> list[LabelledObject]:
    """The inverse of `objects_array` for one frame (M, 9)."""
    objects = []
    for fields in values_M9[values_M9[:, CLASS] >= 0].tolist():
        track = None if fields[TRACK] < 0 else int(fields[TRACK])
        left, top, width, height = fields[BOX]
        name, ignore = names[int(fields[CLASS])], bool(fields[IGNORE])
        objects.append(LabelledObject(name, left, top, width, height, track, ignore))
    return objects


def classes_present(values_NM9: np.ndarray, num_classes: int) -> np.ndarray:
    """Which classes have an object in a frame that is not to be ignored, bool (N, K)."""
    codes_NM = np.where(values_NM9[..., IGNORE] > 0, -1, values_NM9[..., CLASS])
    return (codes_NM[..., None] == np.arange(num_classes)).any(1)


def with_class_codes(values_NM9: np.ndarray, new_codes: Sequence[int]) -> np.ndarray:
    """The same objects with `new_codes[c]` in place of class c; objects of a class whose new code is -1 are removed."""
    codes_NM = np.append(new_codes, -1).astype(np.int64)[values_NM9[..., CLASS].astype(np.int64)]
    changed_NM9 = values_NM9.copy()
    changed_NM9[..., CLASS] = codes_NM
    changed_NM9[codes_NM < 0] = _NO_OBJECT
    return changed_NM9


def motion_of_identities(values_NM9: np.ndarray, files_N: np.ndarray, intervals_N2: np.ndarray) -> np.ndarray:
    """The motion (N, M, 2) of objects that have an identity, in pixels per frame; NaN where it is not known.

    It is the change of the box's centre from the object's previous labelled frame to its next one in the same file, or
    from or to this frame where there is no other within MAX_FRAMES_APART frames. `files_N` numbers the files;
    `intervals_N2` are the frames' [start, end) in seconds, each one frame long.
    """
    times_N, gaps_N = _frame_times(files_N, intervals_N2)
    motion_NM2 = np.full((*values_NM9.shape[:2], 2), np.nan)
    row, place = np.nonzero((values_NM9[..., CLASS] >= 0) & (values_NM9[..., TRACK] >= 0) & (gaps_N > 0)[:, None])
    order = np.lexsort((times_N[row], values_NM9[row, place, TRACK], files_N[row]))
    row, place = row[order], place[order]
    time, gap, fields = times_N[row], gaps_N[row], values_NM9[row, place]
    centre = fields[:, 1:3] + fields[:, 3:5] / 2
    before, after = np.arange(len(row)), np.arange(len(row))
    steps = np.diff(time)
    is_near = (steps > 0) & (steps <= (MAX_FRAMES_APART + 0.5) * np.maximum(gap[1:], gap[:-1]))
    is_same = (np.diff(files_N[row]) == 0) & (np.diff(fields[:, TRACK]) == 0) & is_near
    before[1:][is_same] -= 1
    after[:-1][is_same] += 1
    known = after > before
    seconds = np.where(known, time[after] - time[before], 1.0)
    speed = (centre[after] - centre[before]) / seconds[:, None] * gap[:, None]
    motion_NM2[row[known], place[known]] = speed[known]
    return motion_NM2


def _frame_times(files_N: np.ndarray, intervals_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The time (N,) of each labelled frame in seconds, and the time (N,) from one frame to the next; NaN if unknown.

    The interval of a frame reaches halfway to its neighbours, so its time is the middle. A file's first frame is at the
    start of its interval, and the interval of the last one may have no end: they last as long as the others.
    """
    starts_N, ends_N = intervals_N2.T
    lengths_N = ends_N - starts_N
    gaps_N = lengths_N.copy()
    order = np.argsort(files_N, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(files_N[order])) + 1):
        inner = rows[(starts_N[rows] > 0) & np.isfinite(ends_N[rows])]
        usual = float(np.median(lengths_N[inner])) if len(inner) else 2 * float(lengths_N[rows].min())
        outer = rows[(lengths_N[rows] < 0.75 * usual) | ~np.isfinite(ends_N[rows])]
        gaps_N[outer] = usual if np.isfinite(usual) else np.nan
    times_N = np.where(starts_N == 0, ends_N - gaps_N / 2, starts_N + gaps_N / 2)
    return times_N, gaps_N


assert len(_NO_OBJECT) == len(LABEL_FIELDS)
