"""The labelled clips that changes refer to: rows of a CSV, or files of a folder, with the texts of their cells."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from finetune.data.intervals import WHOLE, clip_name, read_intervals
from finetune.data.read import SPLIT_ALIASES, read_csv, scan_folder
from finetune.data.tables import Table
from finetune.data.tubes import read_tubes

OWN_COLUMNS = ("label", "split", "group")  # that every manifest may have
_PLACES = ("path", "start", "end", "boxes")  # what identifies a row


class Clip(NamedTuple):
    """A row: a path relative to the manifest's folder if it is below it, [start, end) in seconds, and its boxes."""

    path: str
    start: float = 0.0
    end: float = math.inf
    boxes: str = ""

    @property
    def name(self) -> str:
        return clip_name(self.path, self.start, self.end, self.boxes)


def own_name(column: str) -> str:
    """The name of a column as changes use it: `label`, `split` and `group` in lower case, others as they are."""
    return column.casefold() if column.casefold() in OWN_COLUMNS else column


class LabelledClips:
    """A manifest in a CSV file, or a folder of class folders; both are read again after they have changed."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        self.is_folder = self.place.is_dir()
        self.root = self.place if self.is_folder else self.place.parent
        self._given_root = place.absolute() if self.is_folder else place.absolute().parent  # links not followed
        self._cells: Mapping[Clip, Mapping[str, str]] = {}
        self._columns: tuple[str, ...] = ()
        self._version: tuple[int, int, int] | None = None

    def clip(self, path: str | Path, start: float = 0.0, end: float = math.inf, boxes: str = "") -> Clip:
        """The clip of a path, absolute or relative to the manifest's folder, its interval in seconds, and its boxes."""
        file = os.path.normpath(self.root / path)
        below = _below(file, self._given_root) or _below(file, self.root)
        if below is None:
            folder, name = os.path.split(file)
            below = _below(f"{os.path.realpath(folder)}{os.sep}{name}", self.root) or file
        return Clip(Path(below).as_posix(), round(start, 6), round(end, 6) if math.isfinite(end) else end, boxes)

    def clips_of(self, table: Table) -> list[Clip]:
        """The clip of each row of a table with a column `path`."""
        intervals, cells = read_intervals(table), read_tubes(table)
        times = [WHOLE] * len(table.lines) if intervals is None else intervals.tolist()
        boxes = [""] * len(table.lines) if cells is None else [cell.decode() for cell in cells.tolist()]
        rows = zip(table["path"], times, boxes, strict=True)
        return [self.clip(path, start, end, cell) for path, (start, end), cell in rows]

    def columns(self) -> tuple[str, ...]:
        """The columns that can be changed, as the manifest names them."""
        self._refresh()
        return self._columns

    def cells(self, clip: Clip) -> Mapping[str, str] | None:
        """The text in each column of a row, by the column's name; None where there is no such row."""
        self._refresh()
        if self.is_folder and clip not in self._cells:
            self._version = None  # a file that is newer than the last look into the folder
            self._refresh()
        return self._cells.get(clip)

    def _refresh(self) -> None:
        version = (0, 0, 0)
        if not self.is_folder:
            status = self.place.stat() if self.place.exists() else None
            version = (status.st_ino, status.st_mtime_ns, status.st_size) if status else (-1, 0, 0)
        if version != self._version:
            self._columns, self._cells = self._read_folder() if self.is_folder else self._read_csv()
            self._version = version

    def _read_csv(self) -> tuple[tuple[str, ...], dict[Clip, dict[str, str]]]:
        table = read_csv(self.place, labels="of tasks")
        names = [name for name in table if name.casefold() not in _PLACES]
        clips = self.clips_of(table)
        columns = {own_name(name): table[name] for name in names}
        if "split" in columns:
            columns["split"] = [SPLIT_ALIASES.get(text.lower(), text) for text in columns["split"]]
        cells = {clip: {name: texts[row] for name, texts in columns.items()} for row, clip in enumerate(clips)}
        return tuple(columns), cells

    def _read_folder(self) -> tuple[tuple[str, ...], dict[Clip, dict[str, str]]]:
        scan = scan_folder(self.place)
        splits = scan.splits or [""] * len(scan.files)
        labelled = zip(scan.files, scan.labels, splits, strict=True)
        cells = {self.clip(file): {"label": label, "split": split, "group": ""} for file, label, split in labelled}
        return OWN_COLUMNS, cells


def _below(file: str, root: Path) -> str | None:
    """The path relative to `root`; None where it is not below it."""
    return os.path.relpath(file, root) if file.startswith(f"{root}{os.sep}") else None
