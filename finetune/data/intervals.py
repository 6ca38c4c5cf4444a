"""Rows that are intervals of a file: their columns `start` and `end` in a CSV, and the name of such a clip.

Times are in seconds from the beginning of the file, as players count. An interval holds the frames whose time lies in
[start, end).
"""

import math
import os
import re
from pathlib import Path

import numpy as np

from finetune.data.tables import Table, first_problems
from finetune.data.tubes import short_tube_text
from finetune.data.valid_names import escape_invisible
from finetune.errors import DataError

MICROSECONDS_PER_SECOND = 1_000_000
MAX_SECONDS = 1e9
WHOLE = (0.0, math.inf)
_SECONDS = re.compile(r"\d+(?:[.,]\d*)?|[.,]\d+")
_CLOCK = re.compile(r"\d+:\d\d?(:\d\d?)?([.,]\d*)?")


def read_intervals(table: Table) -> np.ndarray | None:
    """The columns `start` and `end` as float64 (N, 2), in seconds; None where both are missing or empty.

    An empty start is 0, an empty end is infinite: the end of the file. Raises DataError with all errors.
    """
    intervals_N2, errors = parse_intervals(table)
    if errors:
        problems = [f"line {table.lines[row]}: {error}" for row, error in errors.items()]
        raise DataError("\n".join(f"{table.source}: {problem}" for problem in first_problems(problems)))
    return intervals_N2


def parse_intervals(table: Table) -> tuple[np.ndarray | None, dict[int, str]]:
    """The same intervals, and the errors by row; a row with an error gets the interval of the whole file."""
    columns = {name: table.filled(name) for name in ("start", "end")}
    if not any(columns.values()):
        return None, {}
    intervals_N2 = np.tile(np.array(WHOLE), (len(table.lines), 1))
    errors: dict[int, list[str]] = {}
    for place, (name, texts) in enumerate(columns.items()):
        for row, text in enumerate(texts or ()):
            value = parse_seconds(text) if text else WHOLE[place]
            if value is None:
                errors.setdefault(row, []).append(f"{name} {escape_invisible(text)!r} {_advice(text)}")
            else:
                intervals_N2[row, place] = value
    for row in np.flatnonzero(intervals_N2[:, 1] <= intervals_N2[:, 0]).tolist():
        start, end = intervals_N2[row].tolist()
        what = "is empty" if start == end else "ends before it starts"
        times = f"start {seconds_text(start)}, end {seconds_text(end)}"
        errors.setdefault(row, [f"the interval {what}: {times}"])
    intervals_N2[list(errors)] = WHOLE
    return intervals_N2, {row: "; ".join(errors[row]) for row in sorted(errors)}


def parse_seconds(text: str) -> float | None:
    """Seconds to the microsecond, with a decimal point or comma; None where the text is no time."""
    if not _SECONDS.fullmatch(text):
        return None
    value = round(float(text.replace(",", ".")), 6)
    return value if value <= MAX_SECONDS else None


def _advice(text: str) -> str:
    if _CLOCK.fullmatch(text):
        return "is not in seconds; write 62.5 for 00:01:02.5, or convert the file with `finetune data import`"
    return "is not a time in seconds, such as 12.5; rename the column if it means something else"


def seconds_text(seconds: float) -> str:
    """Seconds without trailing zeros, to the microsecond; an empty text for infinity."""
    return "" if math.isinf(seconds) else f"{seconds:.6f}".rstrip("0").rstrip(".")


def interval_text(start: float, end: float) -> str:
    """An interval in words: `3–7.5 s`, or `3 s–end`; an empty text for a whole file."""
    if (start, end) == WHOLE:
        return ""
    return f"{seconds_text(start)} s–end" if math.isinf(end) else f"{seconds_text(start)}–{seconds_text(end)} s"


def row_noun(*parts: np.ndarray | None) -> str:
    """What a row is called in messages: a file, or, where its intervals or boxes may be parts of files, a clip."""
    return "file" if all(part is None for part in parts) else "clip"


def clip_name(path: str | Path, start: float = 0.0, end: float = math.inf, boxes: str = "") -> str:
    """The name of a clip, which identifies it: its path, and its interval where it is not the whole file.

    Where a clip follows an object, `boxes` is its cell of that column, and the name has `short_tube_text` of it.
    """
    details = ", ".join(filter(None, (interval_text(start, end), short_tube_text(boxes))))
    return f"{os.fspath(path)} ({details})" if details else os.fspath(path)


def frames_in_interval(times_N: np.ndarray, start: float, end: float) -> tuple[int, int]:
    """The first frame of [start, end), and the number of frames in it; `times_N` (N,) are in seconds and rising.

    Times are compared as whole microseconds, so that 1.04 is the time of frame 26 at 25 frames per second.
    """
    times = np.rint(times_N * MICROSECONDS_PER_SECOND)
    low, high = np.searchsorted(times, np.rint(np.array([start, end]) * MICROSECONDS_PER_SECOND)).tolist()
    return low, high - low
