"""Tables (CSV, TSV) with a class and times in seconds, hours:minutes:seconds or frames in each row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from finetune.annotations.annotation import (
    MAX_FRAME,
    Annotation,
    AnnotationFile,
    Recording,
    WrittenFile,
    one_frame_is_a_point,
)
from finetune.annotations.document import Document
from finetune.annotations.times import parse_number, parse_seconds
from finetune.data.intervals import seconds_text
from finetune.errors import DataError
from finetune.text import from_spreadsheet_cell, spreadsheet_row

DELIMITERS = ",;\t"
Role = Literal["path", "label", "start", "end", "duration", "score", "tier", "subject", "group", "split", "fps"]
Unit = Literal["seconds", "milliseconds", "frames"]
# Names that columns have in other tools' tables, in the order of preference.
ROLES: Mapping[Role, tuple[str, ...]] = {
    "path": ("path", "video", "file", "filename", "media", "clip", "recording"),
    "label": ("label", "class", "behavior", "behaviour", "action", "activity", "category", "event", "annotation"),
    "start": ("start", "begin", "onset", "from", "time", "timestamp"),
    "end": ("end", "stop", "offset", "to", "last"),
    "duration": ("duration",),
    "score": ("score", "confidence", "probability"),
    "tier": ("tier", "task"),
    "subject": ("subject",),
    "group": ("group",),
    "split": ("split", "subset"),
    "fps": ("fps",),
}
UNITS: Mapping[str, Unit] = {
    **dict.fromkeys(("frame", "frames"), "frames"),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), "milliseconds"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "time"), "seconds"),
}
_FILLERS = {"name", "path", "id", "t", "hh", "mm", "ss", "at"}
_MOMENTS = {"time", "timestamp"}  # columns of times that are not the start of something


@dataclass(frozen=True)
class _Column:
    position: int
    word: str
    unit: Unit = "seconds"


_NO_COLUMN = _Column(-1, "")


@dataclass(frozen=True)
class Rows:
    """The header of a table, and its rows with their line numbers; rows are as long as the header."""

    header: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]


def split_rows(document: Document, *, first: int | None = None) -> list[tuple[int, list[str]]]:
    """Line numbers and stripped cells of the rows that are not empty: of all, or of the `first` rows."""
    text = re.sub(r'\A\s*"?sep=.\"?\n', "\n", document.text)
    delimiter = max(DELIMITERS, key=lambda mark: text.lstrip().partition("\n")[0].count(mark))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, line = [], 1
    try:
        for cells in islice(reader, first):
            if any(stripped := [cell.strip() for cell in cells]):
                rows.append((line, stripped))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{document.source}: line {line} cannot be read: {error}; check its quotes") from None
    return rows


def table_below(rows: Sequence[tuple[int, list[str]]], header_index: int) -> Rows:
    """The rows below a header, filled with empty cells to its length."""
    header = rows[header_index][1]
    filled = [(line, [*cells, *[""] * (len(header) - len(cells))]) for line, cells in rows[header_index + 1 :]]
    return Rows(header, filled)


def is_table(document: Document) -> bool:
    """Whether the first row names a column of classes, and columns of times or of videos."""
    try:
        rows = split_rows(document, first=10)
    except DataError:
        return False
    columns = _columns(rows[0][1]) if rows else {}
    return "label" in columns and ("start" in columns or "path" in columns)


def read(document: Document) -> AnnotationFile:
    """One annotation for each row. Without a column of videos, the recording has the name of the table.

    Frames count from 0, and the end is the last frame of the event. An empty start or end is that of the recording.
    """
    rows = split_rows(document)
    table = table_below(rows, 0) if rows else Rows([], [])
    columns = _columns(table.header)
    if "label" not in columns:
        raise DataError(
            f"{document.source}: has no column label; its first line is {','.join(table.header)[:80]!r}; "
            "name the columns path,label,start,end"
        )
    annotations, problems = [], []
    for line, cells in table.rows:
        if any(cells[len(table.header) :]):
            problems.append(f"line {line} has more values than the header; put values with commas into double quotes")
            continue
        try:
            annotations.append(_annotation(document, columns, cells, f"line {line}"))
        except ValueError as error:
            problems.append(str(error))
    return AnnotationFile(annotations, problems)


def _columns(header: Sequence[str]) -> dict[Role, _Column]:
    """Which column has which role; of several that could, the one whose name comes first in ROLES."""
    ranked: dict[Role, tuple[tuple[int, int], _Column]] = {}
    for position, name in enumerate(header):
        words = re.findall(r"[a-z]+", name.casefold())
        meant = [word for word in words if word not in UNITS and word not in _FILLERS] or words
        units = [UNITS[word] for word in words if word in UNITS and UNITS[word] != "seconds" and "ss" not in words]
        for role, known in ROLES.items():
            if meant and meant[0] in known and (len(meant) == 1 or not set(meant).difference(UNITS, _FILLERS)):
                rank = known.index(meant[0]), len(words)
                if role not in ranked or rank < ranked[role][0]:
                    ranked[role] = rank, _Column(position, meant[0], units[0] if units else "seconds")
    return {role: column for role, (_, column) in ranked.items()}


def _annotation(document: Document, columns: dict[Role, _Column], cells: Sequence[str], where: str) -> Annotation:
    """Raises ValueError with a message for a cell that is no time or no number."""
    texts = {role: cells[column.position] for role, column in columns.items()}
    start, end = (_time(texts, columns, role, where) for role in ("start", "end"))
    duration = _time(texts, columns, "duration", where)
    if end is None and duration is not None:
        if columns["duration"].unit != columns.get("start", columns["duration"]).unit:
            raise ValueError(f"{where}: start and duration have different units; give start and end")
        end = (start or 0) + duration - (columns["duration"].unit == "frames")
    if "end" not in columns and "duration" not in columns and columns.get("start", _NO_COLUMN).word in _MOMENTS:
        end = start
    frames = None
    if any(columns[role].unit == "frames" for role in ("start", "end", "duration") if texts.get(role)):
        if any(columns[role].unit != "frames" for role in ("start", "end") if texts.get(role)):
            raise ValueError(f"{where}: start and end have different units")
        first = _frame(start or 0, where)
        frames = (first, None) if end is None else one_frame_is_a_point(first, _frame(end, where) + 1)
        start = end = None
    return Annotation(
        from_spreadsheet_cell(texts.get("path", "")) or str(document.source.with_suffix("")),
        from_spreadsheet_cell(texts["label"]),
        start,
        end,
        frames,
        _number(texts, "fps", where),
        _number(texts, "score", where),
        texts.get("tier", ""),
        texts.get("subject", ""),
        texts.get("group", ""),
        texts.get("split", ""),
        where,
    )


def _time(texts: Mapping[Role, str], columns: dict[Role, _Column], role: Role, where: str) -> float | None:
    if not texts.get(role):
        return None
    seconds = parse_seconds(texts[role])
    if seconds is None:
        raise ValueError(f"{where}: {role} {texts[role][:40]!r} is no time; write seconds, or hours:minutes:seconds")
    return seconds / 1000 if columns[role].unit == "milliseconds" and ":" not in texts[role] else seconds


def _number(texts: Mapping[Role, str], role: Role, where: str) -> float | None:
    text = texts.get(role, "")
    number = parse_number(text)
    if number is None and text.casefold() not in {"", "nan", "na"}:
        raise ValueError(f"{where}: {role} {text[:40]!r} is no number")
    return number


def _frame(number: float, where: str) -> int:
    if number != int(number) or not 0 <= number <= MAX_FRAME:
        raise ValueError(f"{where}: {number:g} is no number of a frame")
    return int(number)


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """path,start,end,label[,score][,tier][,subject]; times in seconds, to microseconds."""
    optional: list[Role] = [
        role for role in ("score", "tier", "subject") if any(getattr(event, role) not in (None, "") for event in events)
    ]
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "start", "end", "label", *optional])
    for event in events:
        times = ["" if seconds is None else seconds_text(seconds) for seconds in (event.start, event.end)]
        extra = ["" if getattr(event, role) is None else getattr(event, role) for role in optional]
        writer.writerow(spreadsheet_row([recordings[event.video].path, *times, event.label, *extra]))
    return WrittenFile(file.getvalue())
