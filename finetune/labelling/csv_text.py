"""Change cells of a CSV file and leave everything else as it is, byte for byte: quotes, blanks, encoding, line ends."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.data.tables import BYTE_ORDER_MARKS, decode_text, detect_delimiter

_CELL = r' *"(?:[^"]|"")*"|[^{delimiter}\r\n]*'
_LINE_END = re.compile("\r\n|\r|\n|$")
_ENCODINGS = {
    b"": "utf-8",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass
class _Record:
    """One line: the text of each cell as it is in the file, with its quotes, and the line end."""

    cells: list[str]
    end: str

    def value(self, column: int) -> str:
        """The value of a cell, stripped, as `read_table` gives it; an empty text beyond the end of a short line."""
        if column >= len(self.cells):
            return ""
        text = self.cells[column].lstrip(" ")
        return (text[1:-1].replace('""', '"') if text.startswith('"') else text).strip()

    @property
    def is_blank(self) -> bool:
        return not any(self.value(column) for column in range(len(self.cells)))


class CsvText:
    """A table whose first line names the columns; `rows` are the lines below it that are not blank, numbered from 0."""

    def __init__(self, data: bytes, source: Path) -> None:
        """Raises DataError for bytes that are not text; the table must be one that `read_table` accepts."""
        self._mark = next((mark for mark in BYTE_ORDER_MARKS if data.startswith(mark)), b"")
        text = decode_text(data, source)
        below, self._delimiter = detect_delimiter(text)
        self._separator_line = text[: len(text) - len(below)]
        self._records = _parse(below, self._delimiter)
        self._update()

    @classmethod
    def of_rows(cls, columns: Mapping[str, list[str]]) -> CsvText:
        """A new table with these columns."""
        table = cls(",".join(columns).encode() + b"\n", Path())
        for values in zip(*columns.values(), strict=True):
            table.append(dict(zip(columns, values, strict=True)))
        return table

    def _update(self) -> None:
        filled = [record for record in self._records if not record.is_blank]
        self._header, self._rows = filled[0], filled[1:]
        self.columns = [self._header.value(column) for column in range(len(self._header.cells))]

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> int | None:
        """The place of a column: by its exact name, or else ignoring case; None where there is none."""
        exact = [place for place, column in enumerate(self.columns) if column == name]
        alike = [place for place, column in enumerate(self.columns) if column.casefold() == name.casefold()]
        return next(iter(exact or alike), None)

    def value(self, row: int, name: str) -> str:
        column = self.column(name)
        return "" if column is None else self._rows[row].value(column)

    def set_value(self, row: int, name: str, value: str) -> None:
        """Change a cell; a cell that was quoted stays quoted."""
        column, cells = self.column(name), self._rows[row].cells
        assert column is not None, name
        cells += [""] * (column + 1 - len(cells))
        cells[column] = self._quoted(value, like=cells[column])

    def add_column(self, name: str, values: list[str]) -> None:
        """Add a last column with a value for each row."""
        width = len(self._header.cells)
        for record, value in zip([self._header, *self._rows], [name, *values], strict=True):
            record.cells += [""] * (width - len(record.cells))
            record.cells.append(self._quoted(value, like=record.cells[-1] if record.cells else ""))
        self._update()

    def append(self, values: Mapping[str, str]) -> None:
        """Add a row below the last one; columns that are not in `values` are empty."""
        last = self._rows[-1] if self._rows else self._header
        end = next((record.end for record in self._records if record.end), "\n")
        like = self._rows[-1].cells if self._rows else [""] * len(self.columns)
        wanted = {self.column(name): value for name, value in values.items()}
        cells = [
            self._quoted(wanted.get(place, ""), like=like[place] if place < len(like) else "")
            for place in range(len(self.columns))
        ]
        record = _Record(cells, last.end)
        last.end = end
        self._records.insert(next(place for place, other in enumerate(self._records) if other is last) + 1, record)
        self._rows.append(record)

    def remove(self, rows: Collection[int]) -> None:
        removed = {id(self._rows[row]) for row in rows}
        self._records = [record for record in self._records if id(record) not in removed]
        self._update()

    def to_bytes(self) -> bytes:
        """The file's content."""
        lines = (self._delimiter.join(record.cells) + record.end for record in self._records)
        text = self._separator_line + "".join(lines)
        return self._mark + text.encode(_ENCODINGS[self._mark])

    def _quoted(self, value: str, *, like: str) -> str:
        """A cell's text; in quotes where the cell that it is `like` has them, or where the value needs them."""
        blanks = like[: len(like) - len(like.lstrip(" "))]
        needs = any(character in value for character in f'{self._delimiter}"\r\n') or value != value.strip()
        if needs or like.lstrip(" ").startswith('"'):
            escaped = value.replace('"', '""')
            return f'{blanks}"{escaped}"'
        return blanks + value


def _parse(text: str, delimiter: str) -> list[_Record]:
    """The lines of a CSV, split where `csv.reader(skipinitialspace=True, strict=True)` splits them."""
    cell = re.compile(_CELL.replace("{delimiter}", re.escape(delimiter)))
    records: list[_Record] = []
    cells: list[str] = []
    place = 0
    while place < len(text) or cells:
        match = cell.match(text, place)
        assert match is not None
        cells.append(match[0])
        place = match.end()
        if text[place : place + 1] == delimiter:
            place += 1
            continue
        end = _LINE_END.match(text, place)
        assert end is not None, text[place : place + 40]
        records.append(_Record(cells, end[0]))
        cells, place = [], end.end()
    return records
