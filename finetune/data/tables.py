"""Read a CSV by its column names: detect encoding and delimiter, and explain what is wrong with an invalid file."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.data.valid_names import escape_invisible
from finetune.errors import DataError, shorten_list

DELIMITERS = ",;\t"
TABLE_SUFFIXES = {".csv", ".tsv"}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MAX_PROBLEMS = 10  # that one message lists
SAVE_AS_UTF8 = "save it as “CSV UTF-8”, or convert it: iconv -f CP1252 -t UTF-8 OLD.csv > NEW.csv"


class Table(Mapping[str, Sequence[str]]):
    """The named columns of a CSV: one stripped text per row; `lines` are the rows' line numbers, from 1.

    A column is found by its exact name, or else, ignoring case, if only one matches. Columns without a name are
    ignored. Getting a column whose name is repeated raises DataError; iteration leaves it out.
    """

    def __init__(self, source: Path, names: Sequence[str], records: Sequence[Sequence[str]], lines: Sequence[int]):
        self.source = source
        self.names = [name for name in dict.fromkeys(names) if name]
        self.lines = lines
        self._places = {name: [place for place, other in enumerate(names) if other == name] for name in self.names}
        self._records = records

    def __getitem__(self, name: str) -> list[str]:
        (place, *others) = self._places[name] if name in self._places else self._case_insensitive_positions(name)
        if others:
            raise DataError(f"{self.source}: {len(others) + 1} columns are named {name}; rename all but one")
        return [record[place] for record in self._records]

    def _case_insensitive_positions(self, name: str) -> list[int]:
        matching = [other for other in self.names if other.casefold() == name.casefold()]
        if not matching:
            raise KeyError(name)
        return [place for other in matching for place in self._places[other]]

    def filled(self, name: str) -> Sequence[str] | None:
        """An optional column; None if it is missing, or empty in every row."""
        values = self.get(name, [])
        return values if any(values) else None

    def at(self, rows: Sequence[int | None]) -> Table:
        """The rows with these indices, in this order; None gives a row of empty texts with line 0."""
        empty = [""] * max(map(len, self._records), default=0)
        table = Table(self.source, [], [], [])
        table.names, table._places = self.names, self._places
        table._records = [empty if row is None else self._records[row] for row in rows]
        table.lines = [0 if row is None else self.lines[row] for row in rows]
        return table

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.names if len(self._places[name]) == 1)

    def __len__(self) -> int:
        return sum(len(places) == 1 for places in self._places.values())


def is_table(path: Path) -> bool:
    """Whether a path is that of a CSV file, by its name."""
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


def read_table(source: Path) -> Table:
    """The columns of a CSV file with the delimiter `,`, `;` or tab. Raises DataError if it cannot be read."""
    text = _read_text(source)
    text, delimiter = detect_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    records: list[list[str]] = []
    lines, line = [], 1
    try:
        for record in reader:
            if any(values := [value.strip() for value in record]):
                records.append(values)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        quotes = (
            "close every double quote, and double those within a quoted value"
            if '"' in str(error) or "end of data" in str(error)
            else ""
        )
        raise DataError(f"{source}: line {line} cannot be read: {error}{quotes and f'; {quotes}'}") from None
    if not records:
        raise DataError(f"{source}: is empty; it needs a header, path,label, and one line per video")
    names, *rows = records
    _check_rows(source, names, rows, lines[1:])
    width = len(names)
    return Table(source, names, [[*row, *[""] * (width - len(row))] for row in rows], lines[1:])


def _read_text(source: Path) -> str:
    try:
        return decode_text(source.read_bytes(), source)
    except FileNotFoundError:
        makers = {"quickstart": "", "quickstart_recordings": " --recordings"}
        options = [makers[part] for part in source.parts if part in makers]
        hint = f"; `finetune data quickstart{options[0]}` makes it" if options else ""
        raise DataError(f"there is no manifest {str(source)!r}{hint}") from None
    except IsADirectoryError:
        raise DataError(f"{source}: is a folder; set data.folder to it, or data.manifest to a CSV file") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None


def decode_text(data: bytes, source: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark. Raises DataError for others."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and (data.startswith(b"PK\x03\x04") or b"\0" in data[:1000]):
        raise DataError(
            f"{source}: is not a text file (a spreadsheet, or UTF-16 without its mark?); save it as “CSV UTF-8”"
        )
    try:
        return data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {_describe_undecodable(error)}") from None


def _describe_undecodable(error: UnicodeDecodeError) -> str:
    """A message with the line, the text around the first byte that cannot be decoded, and what to do."""
    if not error.encoding.startswith("utf-8"):
        return f"cannot be read as {error.encoding.upper()}: {error.reason}; save it as “CSV UTF-8”"
    *above, _ = (error.object[: error.start] + b"?").splitlines(keepends=True)
    start = max(error.start - 40, sum(map(len, above)))
    near = error.object[start : error.start + 20].splitlines()[0].decode("cp1252", errors="replace")
    return f"line {len(above) + 1} cannot be read as UTF-8: {near!r} (as Windows writes it); {SAVE_AS_UTF8}"


def detect_delimiter(text: str) -> tuple[str, str]:
    """The text and its delimiter: the one that gives the header a column `path`, else the one with most columns.

    A first line such as `sep=;`, which spreadsheet programs write, sets the delimiter and is removed from the text.
    """
    if match := re.match(r'"?sep=([,;\t])"?\r?\n', text, re.IGNORECASE):
        return text[match.end() :], match[1]
    header = text.lstrip("\r\n").splitlines()[:1]
    names = {
        delimiter: [
            name.strip().casefold()
            for row in csv.reader(header, delimiter=delimiter, skipinitialspace=True)
            for name in row
        ]
        for delimiter in DELIMITERS
    }
    with_path = [delimiter for delimiter in DELIMITERS if "path" in names[delimiter]]
    return text, with_path[0] if with_path else max(DELIMITERS, key=lambda delimiter: len(names[delimiter]))


def _check_rows(source: Path, names: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[int]) -> None:
    """Raise DataError for rows with more values than the header, and rows that repeat the header."""
    numbered = list(zip(lines, rows, strict=True))
    longer = [line for line, row in numbered if any(row[len(names) :])]
    if longer and not any(name.casefold() == "path" for name in names):
        first = escape_invisible(",".join(names))[:60]
        raise DataError(
            f"{source}: the first line, {first!r}, is not a header such as path,label; remove lines above the header"
        )
    if longer:
        raise DataError(
            f"{source}: line {shorten_list(longer)} has more values than the {len(names)} columns of the header; "
            "put values that contain the delimiter into double quotes"
        )
    if repeated := [line for line, row in numbered if [*filter(None, row)] == [*filter(None, names)]]:
        raise DataError(f"{source}: line {shorten_list(repeated)} repeats the header; remove it")


def first_problems(problems: list[str]) -> list[str]:
    """The first MAX_PROBLEMS messages, and how many more there are."""
    left = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], *([f"{left} more lines with such errors"] if left > 0 else [])]
