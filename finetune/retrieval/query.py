"""What is searched for: a video, a part of one, a picture, a row of the index, or words. Imports no torch.

A row, and a file that is in the index, have a vector there: nothing is decoded for them.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.intervals import WHOLE, clip_name, interval_text, parse_seconds
from finetune.errors import DataError, IndexFolderError
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.vector_index.entry import Entry, unit_ids
from finetune.vector_index.index import VectorIndex

_ROW = re.compile(r"row:(.*)", re.DOTALL)
_PART = re.compile(r"(.+)@([^@/]*)", re.DOTALL)


@dataclass(frozen=True)
class Query:
    """One query, by the name that the user gave it. Words have no entry; a `row` is that of the stored vector."""

    name: str
    entry: Entry | None = None
    row: int | None = None
    words: str | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """[start, end) in seconds; (0, inf) for a whole file and for words."""
        return WHOLE if self.entry is None else entry_interval(self.entry)


def entry_interval(entry: Entry) -> tuple[float, float]:
    """[start, end) of an entry in seconds from the beginning of its file; (0, inf) for a whole file."""
    return entry.start or 0.0, math.inf if entry.end is None else entry.end


def entry_name(entry: Entry) -> str:
    """The path of an entry, with its interval and its object if it has some."""
    return clip_name(entry.path, *entry_interval(entry), entry.boxes or "")


def overlaps(interval: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two intervals [start, end) of one file have a time in common."""
    return interval[0] < other[1] and other[0] < interval[1]


def parse_queries(index: VectorIndex, texts: Sequence[str], words: Sequence[str] = ()) -> list[Query]:
    """The queries of texts: `clip.mp4`, `recording.mp4@12.5-14`, `picture.png` or `row:17`; then those of words.

    A file whose own name looks like an interval or a row is the file. Raises DataError with all that is wrong.
    """
    if not len(index):
        raise IndexFolderError(f"{index.folder}: the index is empty; add videos: finetune index SOURCE --out DIR --add")
    if words and index.source.kind != "text":
        raise IndexFolderError(
            f"{index.folder}: was made with {index.source.name}, which knows no words; --text needs an index that was "
            "made with a model of videos and words"
        )
    rows_of = _RowsOfFiles(index)
    queries, problems = [], []
    for text in texts:
        try:
            queries.append(_parse(index, rows_of, text))
        except (DataError, IndexFolderError) as error:
            problems.append(str(error))
    problems += ["--text: the words are empty" for text in words if not text.strip()]
    if problems:
        problems += unreadable(queries, image_rate=DEFAULT_IMAGE_FPS)
        raise DataError("\n".join(dict.fromkeys(problems)))
    return [*queries, *(Query(f"“{text}”", words=text) for text in words)]


def check_readable(queries: Sequence[Query], *, image_rate: float) -> None:
    """Raise DataError with all files and intervals that have to be embedded and cannot be read."""
    if problems := unreadable(queries, image_rate=image_rate):
        raise DataError("\n".join(dict.fromkeys(problems)))


def unreadable(queries: Sequence[Query], *, image_rate: float) -> list[str]:
    """What is wrong with files and intervals that have to be embedded and cannot be read."""
    from finetune.video.probe_files import ClipOfFile, locate_clips

    entries = [query.entry for query in queries if query.row is None and query.entry is not None]
    clips = [ClipOfFile(Path(entry.path), entry_interval(entry)) for entry in entries]
    return [str(found) for found in locate_clips(clips, image_rate=image_rate) if isinstance(found, DataError)]


def _parse(index: VectorIndex, rows_of: "_RowsOfFiles", text: str) -> Query:
    if not text:
        raise DataError("a query is empty; name a video, a picture, or a row such as row:17")
    if os.path.lexists(text) or rows_of.find(text):
        return _file_query(index, rows_of, text, WHOLE, name=text)
    if match := _ROW.fullmatch(text):
        return _row_query(index, match[1], name=text)
    match = _PART.fullmatch(text)
    if match and (os.path.lexists(match[1]) or rows_of.find(match[1])):
        return _file_query(index, rows_of, match[1], _parse_interval(text, match[2]), name=text)
    raise DataError(f"{match[1] if match else text}: there is no such file, and the index has no row of it")


def _row_query(index: VectorIndex, number: str, *, name: str) -> Query:
    if not re.fullmatch("[0-9]{1,99}", number):
        raise DataError(f"{name}: a row is a number that counts from 0, such as row:17")
    row = int(number)
    return Query(name, index.entry(row), row)


def _parse_interval(text: str, times: str) -> tuple[float, float]:
    """The interval that stands after `@`. Raises DataError."""
    first, dash, last = times.partition("-")
    if not dash or not first:
        raise DataError(f"{text}: after @ stands an interval in seconds, such as @12.5-14, or @12.5- to the end")
    start, end = (parse_seconds(part) for part in (first, last))
    for part, value in ((first, start), (last, end)):
        if part and value is None:
            raise DataError(f"{text}: {part!r} is no time in seconds, such as 12.5 (62.5 for 00:01:02.5)")
    interval = start or 0.0, math.inf if end is None else end
    if interval[1] <= interval[0]:
        raise DataError(f"{text}: the interval has to end after it starts")
    return interval


def _file_query(
    index: VectorIndex, rows_of: "_RowsOfFiles", file: str, interval: tuple[float, float], *, name: str
) -> Query:
    """A query by a file: a row of the index where that has just this interval of it, else what is to be embedded."""
    rows = rows_of.find(file)
    entries = dict(zip(rows, index.entries_at(rows), strict=True))
    for row, entry in entries.items():
        if entry_interval(entry) == interval and entry.boxes is None and not _has_changed(file, entry):
            return Query(name, entry, row)
    if not os.path.lexists(file):
        row = next(iter(entries))
        raise DataError(
            f"{name}: there is no such file, and of its {len(entries)} rows in the index none is this part of it; "
            f"name a row, such as row:{row} ({interval_text(*entry_interval(entries[row])) or 'the whole file'})"
        )
    _refuse_other_files(file)
    start, end = (None, None) if interval == WHOLE else (interval[0], None if math.isinf(interval[1]) else interval[1])
    known = [entry for entry in entries.values() if overlaps(entry_interval(entry), interval)] or [*entries.values()]
    path, group = (known[0].path, known[0].group) if known else (str(Path(file).absolute()), None)
    return Query(name, Entry(path, start, end, group=group))


def _has_changed(file: str, entry: Entry) -> bool:
    """Whether a file is there, and is not what it was when the index was made: its stored vector is out of date."""
    from finetune.retrieval.indexed_rows import file_key

    return os.path.lexists(file) and bool(entry.key) and file_key(Path(file)) != entry.key


def _refuse_other_files(file: str) -> None:
    """Raise DataError for a folder that is not one video as numbered images, and for a table."""
    from finetune.data.read import find_media
    from finetune.data.tables import is_table

    path = Path(file)
    if is_table(path):
        raise DataError(f"{file}: is a table; a query is a video, a picture, or a row of the index such as row:17")
    if path.is_dir() and find_media(path, image_sequences=True) != [path]:
        raise DataError(f"{file}: is a folder of several files; name the ones to search for")


class _RowsOfFiles:
    """The rows of an index by the path of their file."""

    def __init__(self, index: VectorIndex) -> None:
        self._files_N = index.units()[:, 0]

    def find(self, file: str) -> list[int]:
        """The rows of a file, whose path may be relative, or lead there by symbolic links."""
        absolute = str(Path(file).absolute())
        paths = dict.fromkeys((absolute, os.path.normpath(absolute), os.path.realpath(file)))
        ids = unit_ids(Entry(path) for path in paths)[:, 0]
        return np.flatnonzero(np.isin(self._files_N, ids)).tolist()
