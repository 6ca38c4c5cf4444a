"""Tables that BORIS exports: tabular events (a row for each start, stop and point), and aggregated events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from finetune.annotations.annotation import Annotation, AnnotationFile
from finetune.annotations.boris_events import (
    NO_SUBJECT,
    Moment,
    Player,
    annotations_of_moments,
    interval,
    place_in_files,
)
from finetune.annotations.document import Document
from finetune.annotations.tabular import Rows, split_rows, table_below
from finetune.annotations.times import parse_seconds
from finetune.errors import DataError

HEADER_ROWS = 200  # older versions write the observation above the header
_TABULAR = {"behavior", "time"}
_AGGREGATED = {"behavior", "start (s)", "stop (s)"}


def is_boris_table(document: Document) -> bool:
    try:
        return _header_index(split_rows(document, first=HEADER_ROWS)) is not None
    except DataError:
        return False


def _header_index(rows: Sequence[tuple[int, list[str]]]) -> int | None:
    """Which row is the header."""
    for index, (_, cells) in enumerate(rows[:HEADER_ROWS]):
        names = {cell.casefold() for cell in cells}
        if names >= _AGGREGATED or (names >= _TABULAR and names & {"behavior type", "status"}):
            return index
    return None


def read(document: Document) -> AnnotationFile:
    """As for a project. Where an observation has several files, the table has to state their lengths."""
    rows = split_rows(document)
    index = _header_index(rows)
    if index is None:
        raise DataError(f"{document.source}: has no columns Behavior and Time, or Start (s) and Stop (s), as of BORIS")
    above = {cells[0].casefold(): cells[1] for _, cells in rows[:index] if len(cells) > 1}
    table = table_below(rows, index)
    problems, annotations = [], []
    by_observation: dict[str, list[tuple[int, dict[str, str]]]] = defaultdict(list)
    for line, record in _records(table):
        by_observation[record.get("observation id") or above.get("observation id", "")].append((line, record))
    for name, records in by_observation.items():
        own, own_problems = _observation(name, records, above.get("time offset (s)", ""))
        annotations += own
        problems += own_problems
    return AnnotationFile(annotations, problems)


def _records(table: Rows) -> list[tuple[int, dict[str, str]]]:
    names = [name.casefold() for name in table.header]
    return [(line, dict(zip(names, cells, strict=False))) for line, cells in table.rows]


def _observation(
    name: str, records: Sequence[tuple[int, dict[str, str]]], offset_above: str
) -> tuple[list[Annotation], list[str]]:
    player = _player(name, [record for _, record in records])
    moments, rows, problems = [], [], []
    for line, record in records:
        offset = parse_seconds(record.get("time offset (s)") or offset_above) or 0
        subject = record.get("subject", "").removeprefix(NO_SUBJECT)
        kind = (record.get("behavior type") or record.get("status") or "").upper()
        names = ("start (s)", "stop (s)") if "start (s)" in record else ("time", "time")
        start, end = (parse_seconds(record[name]) for name in names)
        if kind == "POINT":
            end = start
        if start is None or end is None:
            problems.append(f"line {line}: {record[names[0]][:40]!r} to {record[names[1]][:40]!r} is no pair of times")
        elif "start (s)" in record:
            rows.append(interval(subject, record["behavior"], (start - offset, end - offset), f"line {line}"))
        else:
            modifiers = "|".join(value for key, value in record.items() if key.startswith("modifier"))
            is_state = kind in {"START", "STOP"}
            moments.append(Moment(start - offset, subject, record["behavior"], modifiers, is_state, f"line {line}"))
    placed, unplaced = place_in_files(player, rows)
    paired, unpaired = annotations_of_moments(player, moments)
    return placed + paired, problems + unplaced + unpaired


def _player(name: str, records: Sequence[dict[str, str]]) -> Player:
    """The files of player 1: from `Source` and `Media duration (s)`, or else those that the rows name."""
    source, durations = (records[0].get(column, "") for column in ("source", "media duration (s)"))
    files = source.split("|")[0].partition(":")[2].split(";") if source.startswith("player #1:") else []
    if not files:
        columns = ("media file name", "media file path", "media file")
        names = (next((record[column] for column in columns if record.get(column)), "") for record in records)
        files = list(dict.fromkeys(filter(None, names)))
    files = [file.strip() for file in files] or [name]
    lengths = [parse_seconds(text) for text in durations.split("|")[0].split(";")]
    known = {file: length for file, length in zip(files, lengths, strict=False) if length is not None}
    return Player(name, files, known if len(lengths) == len(files) else {})
