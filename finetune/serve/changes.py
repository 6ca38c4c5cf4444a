"""Corrections of a run's clips: which manifest they are for, and the clips as its journal of changes has them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import DataError
from finetune.labelling.journal import BAD, Change, Journal, Value
from finetune.labelling.labelled_clips import Clip as RowOfManifest
from finetune.labelling.unlabelled import LABEL, label_column
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run
from finetune.serve.clips import Clip

SPLIT, GROUP = "split", "group"
AUTHOR = "serve"


class Changes:
    """The journal of a manifest, whose rows are found by the clips of a run."""

    def __init__(self, run: Run, manifest: Path) -> None:
        self.manifest, self.journal = manifest, Journal(manifest)
        self.is_copy = manifest.resolve() == saved_manifest(run, needs_files=False).source.resolve()
        self._columns = {task: label_column(run, task, is_copy=self.is_copy) for task in run.outputs}
        self._task_of = {column: task for task, column in self._columns.items() if column is not None}
        self._rows: dict[RowOfManifest, str] = {}  # ids of clips
        self._corrected: dict[str, Clip] = {}
        self._seen: tuple[int, int] = (-1, -1)  # the number of changes and of clips by then

    def corrected(self, clips: Mapping[str, Clip]) -> dict[str, Clip]:
        """The clips that changes were made of, as they are now, by id."""
        changes = self.journal.changes()
        if self._seen != (len(changes), len(clips)):
            self._corrected = self._apply(clips)
            self._seen = len(changes), len(clips)
        return self._corrected

    def append(self, clip: Clip, field: str, value: Value, previous: Value, *, task: str) -> int:
        """Record a change of a clip; its number. Raises ConflictError and DataError as `Journal.append`."""
        row = self.row_of(clip)
        end = None if row.end == float("inf") else row.end
        column = self._column(field, task)
        return self.journal.append(
            Change(row.path, column, value, previous, row.start, end, by=AUTHOR, boxes=row.boxes)
        )

    def undo(self, number: int | None) -> Change:
        """Take a change back; the change that does so."""
        undone = self.journal.undo(number, by=AUTHOR)
        return next(change for change in self.journal.changes(undone - 1) if change.number == undone)

    def row_of(self, clip: Clip) -> RowOfManifest:
        return self.journal.clips.clip(clip.path, *clip.interval, clip.boxes)

    def ids_of_rows(self, clips: Mapping[str, Clip]) -> dict[RowOfManifest, str]:
        """The ids of clips by their rows."""
        if len(self._rows) != len(clips):
            self._rows = {self.row_of(clip): clip.id for clip in clips.values()}
        return self._rows

    def field_of(self, column: str) -> str:
        """What the page calls a column: the labels of every task are its `label`."""
        return LABEL if column in self._task_of else column

    def _column(self, field: str, task: str) -> str:
        if field != LABEL:
            return field
        column = self._columns[task]
        if column is None:
            raise DataError(f"the labels of the task {task} cannot be changed here; edit its manifest")
        return column

    def _apply(self, clips: Mapping[str, Clip]) -> dict[str, Clip]:
        ids, corrected = self.ids_of_rows(clips), dict[str, Clip]()
        for (row, column), value in self.journal.values().items():
            if (clip_id := ids.get(row)) is not None:
                clip = corrected.get(clip_id, clips[clip_id])
                corrected[clip_id] = self._with_value(clip, column, value)
        return corrected

    def _with_value(self, clip: Clip, column: str, value: Value) -> Clip:
        task = self._task_of.get(column)
        if task is not None:
            before = clip.labels.get(task, "")
            changed_labels = clip.changed_labels | ({task: before} if value != before else {})
            return replace(clip, labels=clip.labels | {task: str(value)}, changed_labels=changed_labels)
        if column not in (SPLIT, GROUP, BAD):
            return clip
        previous = getattr(clip, column)
        changed = clip.changed | ({column: previous} if value != previous else {})
        values: dict[str, Any] = {column: value, "changed": changed}
        return replace(clip, **values)


@dataclass(frozen=True)
class ListedChange:
    """A change with the clip that it is of, if the server has it, and whether it was taken back."""

    change: Change
    clip_id: str | None
    is_undone: bool


def list_changes(changes: Changes, clips: Mapping[str, Clip], after: int) -> list[ListedChange]:
    """The changes with a number above `after`, in order."""
    ids = changes.ids_of_rows(clips)
    every = changes.journal.changes()
    undone: set[int] = set()
    for change in reversed(every):
        if change.undoes is not None and change.number not in undone:
            undone.add(change.undoes)
    return [
        ListedChange(change, ids.get(change.clip), change.number in undone) for change in every if change.number > after
    ]
