"""The journal of a manifest: every change of a label, split or group, and every clip marked bad, in order.

It is a file beside the manifest, or beside the folder of clips: `clips.csv.changes.jsonl`, one JSON object per line.
Lines are only appended, each is on the disk before the change counts, and undoing a change appends another one. The
manifest stays as it is until `finetune data apply` writes a new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Lock

from pydantic import TypeAdapter, ValidationError

from finetune.data.labels import LABEL_SEPARATOR, split_labels
from finetune.data.splits import SPLITS
from finetune.data.valid_names import escape_invisible, has_forbidden_characters
from finetune.errors import DataError, suggest_similar
from finetune.labelling.labelled_clips import OWN_COLUMNS, Clip, LabelledClips
from finetune.storage.line_file import LineFile

BAD = "bad"
ASSIGNED = ("split", "group")  # where the manifest has none, training assigns them
MAX_CHARACTERS = 1000  # of a value
Value = str | bool


@dataclass(frozen=True)
class Change:
    """One cell of a row gets a `value` instead of the `previous` one; of the field `bad`, true or false.

    The row is that of `path`, [start, end) in seconds and `boxes`. `number` counts changes from 1, `time` is in UTC,
    `by` says who made it, and `undoes` is the number of a change that is taken back. An appended change gets number and
    time.
    """

    path: str
    field: str
    value: Value
    previous: Value
    start: float = 0.0
    end: float | None = None  # the end of the file
    by: str = ""
    number: int = 0
    time: str = ""
    undoes: int | None = None
    boxes: str = ""

    @property
    def clip(self) -> Clip:
        return Clip(self.path, self.start, math.inf if self.end is None else self.end, self.boxes)


class ConflictError(DataError):
    """Somebody else has changed the cell meanwhile; `current` is its value now."""

    def __init__(self, message: str, current: Value) -> None:
        super().__init__(message)
        self.current = current


def journal_file(manifest: Path) -> Path:
    """The journal of a CSV or a folder, beside it; links are followed, so that each manifest has one journal."""
    place = manifest.resolve()
    return place.with_name(f"{place.name}.changes.jsonl")


class Journal:
    """The changes of a manifest (a CSV) or of a folder of clips; several threads and processes may use it at a time."""

    def __init__(self, manifest: str | Path) -> None:
        self.clips = LabelledClips(Path(manifest))
        self.file = LineFile(journal_file(Path(manifest)))
        self._changes: list[Change] = []
        self._values: dict[tuple[Clip, str], Value] = {}
        self._line = 0
        self._lock = Lock()

    def changes(self, after: int = 0) -> list[Change]:
        """All changes with a number above `after`, in order. Raises DataError for a damaged line."""
        with self._lock:
            self._add(*self.file.read_new())
            return [change for change in self._changes if change.number > after]

    def values(self) -> dict[tuple[Clip, str], Value]:
        """The values that changes gave to cells, by clip and field."""
        with self._lock:
            self._add(*self.file.read_new())
            return dict(self._values)

    def value(self, path: str | Path, field: str, start: float = 0.0, end: float = math.inf) -> Value:
        """The value of a cell now: of its last change, or else in the manifest."""
        with self._lock:
            self._add(*self.file.read_new())
            return self._value(self.clips.clip(path, start, end), field)

    def append(self, change: Change) -> int:
        """Record a change, whose `previous` is the value that its author saw; gives its number.

        A value that the cell has already is no change: the number is then that of the last change. Raises
        ConflictError where the cell has another value than `previous` now, and DataError for a row, a field or a value
        that cannot be.
        """
        end = math.inf if change.end is None else change.end
        change = replace(change, path=self.clips.clip(change.path, change.start, end).path)
        self._check(change)
        with self._lock, self.file.locked() as file:
            self._add(*file.read_new())
            current = self._value(change.clip, change.field)
            if is_same(current, change.value) and type(current) is type(change.value):
                return self._changes[-1].number if self._changes else 0
            is_assigned = change.field in ASSIGNED and current == "" and (change.clip, change.field) not in self._values
            if not (is_assigned or is_same(current, change.previous)):
                raise ConflictError(
                    f"{change.clip.name}: {change.field} is {current!r} now, not {change.previous!r}; somebody else "
                    "has changed it: look at it again",
                    current,
                )
            number = self._changes[-1].number + 1 if self._changes else 1
            change = replace(change, number=number, time=datetime.now(UTC).isoformat(timespec="seconds"))
            line = json.dumps(asdict(change)).encode()
            file.append(line)
            self._add([line], False)
            return number

    def undo(self, number: int | None = None, *, by: str = "") -> int:
        """Take a change back by another one, whose number is given; None: the last change that still counts.

        Raises ConflictError where its cell was changed again later, and DataError where there is nothing to undo.
        """
        changes = self.changes()
        undone = _undone(changes)
        left = [change for change in changes if change.undoes is None and change.number not in undone]
        chosen = left[-1:] if number is None else [change for change in changes if change.number == number]
        if not chosen or chosen[0].number in undone:
            what = "no change is left to undo" if number is None else f"change {number} does not exist or is undone"
            raise DataError(f"{self.file.path}: {what}")
        (change,) = chosen
        return self.append(replace(change, value=change.previous, previous=change.value, by=by, undoes=change.number))

    def _value(self, clip: Clip, field: str) -> Value:
        if (clip, field) in self._values:
            return self._values[clip, field]
        return False if field == BAD else (self.clips.cells(clip) or {}).get(field, "")

    def _check(self, change: Change) -> None:
        clip = change.clip
        if self.clips.cells(clip) is None and not (self.clips.root / clip.path).exists():
            raise DataError(f"{self.clips.place}: has no row {clip.name}, and there is no such file")
        fields = (*dict.fromkeys([*self.clips.columns(), *OWN_COLUMNS]), BAD)
        if change.field not in fields:
            raise DataError(
                f"there is no field {change.field!r}{suggest_similar(change.field, fields)}; a change is of "
                f"{', '.join(fields)}"
            )
        if isinstance(change.value, bool) != (change.field == BAD):
            raise DataError(f"{change.field} cannot be {change.value!r}; {BAD} is true or false, others are texts")
        if isinstance(change.value, str):
            self._check_text(change.field, change.value, is_undo=change.undoes is not None)

    def _check_text(self, field: str, text: str, *, is_undo: bool) -> None:
        if has_forbidden_characters(text) or text != text.strip() or len(text) > MAX_CHARACTERS:
            raise DataError(
                f"{field} {escape_invisible(text)[:60]!r} has control characters, blanks at an end, or more than "
                f"{MAX_CHARACTERS:,} characters"
            )
        if field == "split" and text not in SPLITS and not is_undo:
            raise DataError(f"there is no split {text!r}; a split is {', '.join(SPLITS)}")

    def _add(self, lines: Sequence[bytes], is_replaced: bool) -> None:
        if is_replaced:
            self._changes, self._values, self._line = [], {}, 0
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            change = _parse(line, self.file.path, self._line)
            self._changes.append(change)
            self._values[change.clip, change.field] = change.value


def is_same(one: Value, other: Value) -> bool:
    """Whether two values mean the same; of a list of classes, `b; a` and `a;b`."""
    if isinstance(one, bool) or isinstance(other, bool):
        return bool(one) == bool(other)
    if LABEL_SEPARATOR in one or LABEL_SEPARATOR in other:
        return sorted(split_labels(one)) == sorted(split_labels(other))
    return one == other


def _undone(changes: Sequence[Change]) -> set[int]:
    """The numbers of the changes that were undone; undoing an undo makes a change count again."""
    undone: set[int] = set()
    for change in reversed(changes):
        if change.undoes is not None and change.number not in undone:
            undone.add(change.undoes)
    return undone


@cache
def _adapter() -> TypeAdapter[Change]:
    return TypeAdapter(Change)


def _parse(line: bytes, file: Path, number: int) -> Change:
    try:
        return _adapter().validate_json(line)
    except ValidationError as error:
        detail = error.errors()[0]
        what = f"{'.'.join(map(str, detail['loc'])) or 'line'}: {detail['msg']}"
        raise DataError(f"{file}: line {number} is no change ({what}); correct or remove this line") from None
