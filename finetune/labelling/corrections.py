"""What a manifest's journal comes to: the cells to change, the rows to leave out and to add, and conflicts.

Several changes of a cell count as one, from its value before the first to its value after the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import DataError
from finetune.labelling.journal import ASSIGNED, BAD, Journal, Value, is_same
from finetune.labelling.labelled_clips import OWN_COLUMNS, Clip


@dataclass(frozen=True)
class CellChange:
    """A cell with its new text, and its old one: in the manifest, or as training assigned it."""

    clip: Clip
    field: str
    old: str
    new: str


@dataclass
class Corrections:
    """`left_out` are clips marked bad, and `added` the values of clips that the manifest lacks, by column.

    `conflicts` says for each cell what the manifest has, and what it had when it was changed. `gone` are clips whose
    row was removed from the manifest since, and `num_done` counts changes that the manifest has already.
    """

    cells: list[CellChange] = field(default_factory=list)
    left_out: list[Clip] = field(default_factory=list)
    added: dict[Clip, dict[str, str]] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    gone: list[Clip] = field(default_factory=list)
    num_done: int = 0


@dataclass
class _Cell:
    """A cell's value before its first change, after the last, and all values that it ever had."""

    before: Value
    after: Value
    values: list[Value]


def find_corrections(journal: Journal, *, of_journal: bool | None = None) -> Corrections:
    """The corrections of a journal for its manifest as it is now.

    A cell that was edited in the manifest since is a conflict; `of_journal` decides it: true takes the value of the
    journal, false that of the manifest. Raises DataError where there is no change.
    """
    by_clip = _changed_cells(journal)
    corrections = Corrections()
    for clip, cells in by_clip.items():
        row = journal.clips.cells(clip)
        if cells.get(BAD, _Cell(False, False, [])).after:
            if row is None:
                corrections.num_done += 1
            else:
                corrections.left_out.append(clip)
            continue
        texts = {name: cell for name, cell in cells.items() if name != BAD}
        if row is None:
            _add_row(corrections, clip, texts, exists=(journal.clips.root / clip.path).exists())
        else:
            for name, cell in texts.items():
                _add_cell(corrections, clip, name, row.get(name, ""), cell, of_journal)
    if of_journal is None:
        corrections.conflicts += [f"{clip.name}: its row is not in the manifest any more" for clip in corrections.gone]
    return corrections


def _changed_cells(journal: Journal) -> dict[Clip, dict[str, _Cell]]:
    changes = journal.changes()
    if not changes:
        raise DataError(f"{journal.clips.place}: nothing was corrected: {journal.file.path} has no change")
    by_clip: dict[Clip, dict[str, _Cell]] = {}
    for change in changes:
        cells = by_clip.setdefault(change.clip, {})
        cell = cells.setdefault(change.field, _Cell(change.previous, change.previous, [change.previous]))
        cell.after = change.value
        cell.values.append(change.value)
    return by_clip


def _add_cell(corrections: Corrections, clip: Clip, name: str, text: str, cell: _Cell, of_journal: bool | None) -> None:
    """Compare a cell of the manifest, which has `text` now, with the journal."""
    is_undone = is_same(cell.before, cell.after)
    is_assigned = name in ASSIGNED and text == ""
    if is_same(text, cell.after) or (is_undone and is_assigned):
        corrections.num_done += not is_undone
    elif is_assigned or any(is_same(text, value) for value in cell.values) or (of_journal and not is_undone):
        corrections.cells.append(CellChange(clip, name, text or str(cell.before), str(cell.after)))
    elif of_journal is None and not is_undone:
        corrections.conflicts.append(
            f"{clip.name}: {name} is {text!r} in the manifest; it was {cell.before!r} when it was changed to "
            f"{cell.after!r}"
        )


def _add_row(corrections: Corrections, clip: Clip, cells: Mapping[str, _Cell], *, exists: bool) -> None:
    """A labelled clip that the manifest lacks becomes a row, if it is a new one; else its row was removed since."""
    values = {name: str(cell.after) for name, cell in cells.items() if cell.after != ""}
    labels = [name for name in cells if name not in OWN_COLUMNS or name == "label"]
    if any(cells[name].before != "" for name in labels) or (values and not labels):
        corrections.gone.append(clip)
    elif any(name in values for name in labels):
        if not exists:
            raise DataError(f"{clip.name}: was labelled, but there is no such file; undo its label, or put it back")
        corrections.added[clip] = values


def new_row_path(clip: Clip, root: Path, folder: Path) -> str:
    """The path of a clip for a CSV in `folder`: relative to it if it is below `folder`, or else absolute."""
    path = root / clip.path
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
