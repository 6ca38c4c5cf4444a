"""Labels of tasks: read from manifest columns, masked where missing, and laid out as one target vector per clip."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.tables import Table, read_table
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.recipe.tasks import CATEGORICAL_KINDS, SPATIAL_KINDS, OutputSpec, Task
from finetune.storage.object_store import local_copy

LABEL_SEPARATOR = ";"  # between the classes of a multi-label row
UNKNOWN_LABELS = ";;"  # for a row without a label; an empty list of classes means that no class is present
TARGET_SCALE = 0.1  # boxes and motion are regressed in tenths of the picture's side
INITIAL_BOX = (
    0.5,
    0.5,
    0.25,
    0.25,
)  # center x and y, width and height, in fractions of the picture: a head's output of 0


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one task: `values` are class indices (N,), present classes, bool (N, K), or numbers (N, K).

    `names` (K,) are the classes or levels, or else the columns. `known` (N,) is false where a row has no label; its
    values are then undefined.
    """

    kind: str
    names: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray

    def at(self, rows: np.ndarray) -> Labels:
        return Labels(self.kind, self.names, self.values[rows], self.known[rows])

    def named(self, names: tuple[str, ...]) -> Labels:
        """The same labels with these names, which include the present ones; columns of numbers are renamed in order."""
        if names == self.names:
            return self
        if self.kind not in CATEGORICAL_KINDS:
            return Labels(self.kind, names, self.values, self.known)
        places = np.array([names.index(name) for name in self.names], dtype=np.int64)
        if self.kind == "multilabel":
            values = np.zeros((len(self.values), len(names)), dtype=bool)
            values[:, places] = self.values
        else:
            values = np.append(places, len(names))[self.values]
        return Labels(self.kind, names, values, self.known)

    def among(self, names: tuple[str, ...]) -> Labels:
        """The same labels with these names alone; a row with any other class has no label."""
        if self.kind not in CATEGORICAL_KINDS:
            return self.named(names)
        strange_K = np.array([name not in names for name in self.names], dtype=bool)
        known = self.known & ~self.presence()[:, strange_K].any(1)
        places = np.array([names.index(name) if name in names else len(names) for name in self.names], dtype=np.int64)
        if self.kind == "multilabel":
            values = np.zeros((len(known), len(names)), dtype=bool)
            values[:, places[~strange_K]] = self.values[:, ~strange_K]
        else:
            values = np.append(places, len(names))[self.values]
        return Labels(self.kind, names, values, known)

    def text(self, row: int) -> list[str]:
        """As a manifest has it: a text for each column."""
        if not self.known[row]:
            return [UNKNOWN_LABELS if self.kind == "multilabel" else ""] * self.num_columns
        if self.kind == "multilabel":
            return [join_labels(self.names, self.values[row])]
        return (
            [self.names[self.values[row]]]
            if self.kind in CATEGORICAL_KINDS
            else [repr(float(x)) for x in self.values[row]]
        )

    def counts(self, rows: np.ndarray) -> list[int]:
        """Of each name how many of these rows have it; of numbers none."""
        there = self.values[rows][self.known[rows]]
        if self.kind == "multilabel":
            return there.sum(0).tolist()
        return np.bincount(there, minlength=len(self.names)).tolist() if self.kind in CATEGORICAL_KINDS else []

    def presence(self) -> np.ndarray:
        """Which of the names each row has, bool (N, K); of numbers, whether it has any, (N, 1)."""
        if self.kind == "multilabel":
            return self.values & self.known[:, None]
        if self.kind not in CATEGORICAL_KINDS:
            return self.known[:, None]
        return (self.values[:, None] == np.arange(len(self.names))) & self.known[:, None]

    @property
    def num_columns(self) -> int:
        return 1 if self.kind in CATEGORICAL_KINDS else len(self.names)


def split_labels(label: str) -> tuple[str, ...]:
    """The classes in a text `a;b;c`."""
    return tuple(name for name in map(str.strip, label.split(LABEL_SEPARATOR)) if name)


def join_labels(classes: Sequence[str], there_K: np.ndarray) -> str:
    """Classes in one text, as a manifest has them."""
    return LABEL_SEPARATOR.join(name for name, there in zip(classes, there_K, strict=True) if there)


def read_labels(
    tasks: Mapping[str, Task],
    table: Mapping[str, Sequence[str]],
    files: Sequence[Path],
    *,
    source: Path,
    for_training: bool = True,
) -> dict[str, Labels]:
    """The labels of each task for some files, from the columns of their own table, or of the task's manifest.

    Where they are not `for_training`, a task may have one class alone, or no label. Raises DataError with all that is
    wrong.
    """
    found, problems = {}, []
    of_all = _LabelColumns(source, table, table.lines if isinstance(table, Table) else range(2, len(files) + 2))
    for name, task in tasks.items():
        try:
            table_of_task = of_all if task.manifest is None else _join_manifest(task, name, files)
            found[name] = _read_task_labels(name, task, table_of_task)
            if for_training:
                _check_enough_classes(name, task, found[name], where=table_of_task.where)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return found


class _LabelColumns(NamedTuple):
    """Columns with a text for each of some files, the file that they come from, and the line that each file has there.

    Where that has not a file its line is 0 and its texts are empty.
    """

    where: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]


def _join_manifest(task: Task, name: str, files: Sequence[Path]) -> _LabelColumns:
    """Of a task's own manifest, in the order of files."""
    assert task.manifest is not None
    try:
        source = local_copy(task.manifest) if isinstance(task.manifest, str) else Path(task.manifest)
        table = read_table(source)
    except DataError as error:
        raise DataError(f"tasks.{name}.manifest: {error}") from None
    if "path" not in table:
        raise DataError(f"{source}: no column path; tasks.{name}.manifest needs one, by which rows are joined")
    row_of = {_resolved(source.parent / path): row for row, path in enumerate(table["path"])}
    if len(row_of) < len(table["path"]):
        raise DataError(f"{source}: names a file in several lines; tasks.{name} has one label for each")
    joined = table.at([row_of.get(_resolved(file)) for file in files])
    if not any(joined.lines):
        raise DataError(
            f"{source}: has none of the {len(files)} files, for tasks.{name}; paths are relative to the file that "
            "lists them"
        )
    return _LabelColumns(source, joined, joined.lines)


def _resolved(path: Path) -> str:
    return str(path.resolve())


def _read_task_labels(name: str, task: Task, table: _LabelColumns) -> Labels:
    where, columns, _ = table
    wanted = task.columns_of(name)
    missing = [column for column in wanted if column not in columns]
    if missing:
        hints = "".join(suggest_similar(column, columns) for column in missing)
        raise DataError(
            f"{where}: no column {' and no column '.join(missing)}{hints}, for tasks.{name}; it has "
            f"{', '.join(columns)}"
        )
    read = {"multilabel": _read_multilabel, "classify": _read_classes, "ordinal": _read_levels}.get(
        task.kind, _read_numbers
    )
    return read(name, task, table)


def _check_enough_classes(name: str, task: Task, labels: Labels, *, where: Path) -> None:
    if not labels.known.any():
        columns = ", ".join(task.columns_of(name))
        raise DataError(f"{where}: {columns} are empty in every row, and tasks.{name} has no label")
    if labels.kind in CATEGORICAL_KINDS and len(labels.names) < 2:
        raise DataError(
            f"{where}: {shorten_list(labels.names)} is the only class of tasks.{name}; it needs at least two"
        )


def _column_texts(name: str, task: Task, table: _LabelColumns) -> list[Sequence[str]]:
    return [table.columns[column] for column in task.columns_of(name)]


def _read_classes(name: str, task: Task, table: _LabelColumns) -> Labels:
    (texts,) = _column_texts(name, task, table)
    return _encode_classes(task.kind, tuple(sorted({text for text in texts if text})), texts)


def _read_levels(name: str, task: Task, table: _LabelColumns) -> Labels:
    where = table.where
    (texts,) = _column_texts(name, task, table)
    found = {text for text in texts if text}
    if task.levels is None:
        odd = sorted(text for text in found if _parse_number(text) is None)
        if odd:
            raise DataError(
                f"{where}: {shorten_list(odd)} are no numbers; say their order: tasks.{name}.levels=[low, high]"
            )
        if doubles := [pair for pair in pairwise(sorted(found, key=float)) if float(pair[0]) == float(pair[1])]:
            ways = shorten_list([" and ".join(sorted(pair)) for pair in doubles])
            raise DataError(f"{where}: {ways} are the same number; write each level of tasks.{name} in one way")
        return _encode_classes(task.kind, tuple(sorted(found, key=float)), texts)
    if strays := sorted(found - set(task.levels)):
        raise DataError(f"{where}: {shorten_list(strays)} are not among tasks.{name}.levels")
    return _encode_classes(task.kind, task.levels, texts)


def _encode_classes(kind: str, names: tuple[str, ...], texts: Sequence[str]) -> Labels:
    codes = {text: code for code, text in enumerate(names)}
    values = np.array([codes.get(text, len(names)) for text in texts], dtype=np.int64)
    return Labels(kind, names, values, values < len(names))


def _read_multilabel(name: str, task: Task, table: _LabelColumns) -> Labels:
    """An empty text says that nothing is there, but in a manifest of its own that the label lacks, as UNKNOWN does."""
    (texts,) = _column_texts(name, task, table)
    rows = [split_labels(text) for text in texts]
    names = tuple(sorted({each for row in rows for each in row}))
    values = np.array([[each in row for each in names] for row in rows], dtype=bool).reshape(len(rows), len(names))
    known = np.array([text != UNKNOWN_LABELS and (task.manifest is None or bool(text)) for text in texts])
    return Labels(task.kind, names, values, known)


def _read_numbers(name: str, task: Task, table: _LabelColumns) -> Labels:
    columns = _column_texts(name, task, table)
    values, known = np.zeros((len(columns[0]), len(columns))), np.ones(len(columns[0]), dtype=bool)
    problems = []
    for row, texts in enumerate(zip(*columns, strict=True)):
        numbers = [_parse_number(text) for text in texts]
        if not any(texts):
            known[row] = False
        elif None in numbers:
            problems.append(f"{', '.join(text or '(empty)' for text in texts)} in line {table.lines[row]}")
        elif task.kind == "box" and min(number or 0.0 for number in numbers[2:]) <= 0:
            problems.append(f"a box of {texts[2]} x {texts[3]} pixels in line {table.lines[row]}")
        else:
            values[row] = numbers
    if problems:
        wanted = f"numbers are wanted for tasks.{name}, or nothing in all columns"
        commas = any(re.search(r"\d,\d", problem) for problem in problems)
        point = "; write decimals with a point, 0.5" if commas else ""
        raise DataError(f"{table.where}: {shorten_list(problems)}: {wanted}{point}")
    return Labels(task.kind, task.columns_of(name), values, known)


def _parse_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def output_specs(labels: Mapping[str, Labels], rows: np.ndarray) -> dict[str, OutputSpec]:
    """What a model's heads are to give for such labels; numbers are brought to mean 0 and deviation 1 of some rows."""
    found = {}
    for name, each in labels.items():
        center: tuple[float, ...] = ()
        scale: tuple[float, ...] = ()
        if each.kind in SPATIAL_KINDS:
            center, scale = (
                (INITIAL_BOX, (TARGET_SCALE,) * 4) if each.kind == "box" else ((0.0, 0.0), _motion_scale(each.at(rows)))
            )
        elif each.kind == "regress":
            there = each.values[rows][each.known[rows]]
            spread = there.std(0) if len(there) else np.ones(len(each.names))
            center = tuple(there.mean(0).tolist()) if len(there) else (0.0,) * len(each.names)
            scale = tuple(np.where(spread > 0, spread, 1.0).tolist())
        found[name] = OutputSpec(each.kind, each.names, center, scale)
    return found


def _motion_scale(motion: Labels) -> tuple[float, ...]:
    """A tenth of the picture for the direction in which motion differs more, less for the other, as it differs less."""
    there = motion.values[motion.known]
    spread = there.std(0) if len(there) else np.ones(2)
    class_targets = spread / spread.max() if spread.max() > 0 else np.ones(2)
    return tuple((TARGET_SCALE * np.maximum(class_targets, 0.01)).tolist())


@dataclass(frozen=True)
class TargetLayout:
    """Where each task's targets stand in one vector of numbers: those of all tasks, then which of them are known."""

    outputs: Mapping[str, OutputSpec]

    @property
    def places(self) -> dict[str, slice]:
        """Of each task's targets; classes and levels have one number each."""
        ends = [0, *accumulate(len(each.names) for each in self.outputs.values())]
        return {name: slice(*each) for name, each in zip(self.outputs, pairwise(ends), strict=True)}

    @property
    def width(self) -> int:
        return sum(len(each.names) for each in self.outputs.values()) + len(self.outputs)

    def vector(self, targets: Mapping[str, np.ndarray | None]) -> np.ndarray:
        """float32 (width,) from one clip's targets by task, each (K,), or None where the clip has no label."""
        vector = np.zeros(self.width, dtype=np.float32)
        for number, (name, place) in enumerate(self.places.items()):
            target = targets[name]
            if target is not None:
                vector[place] = target
                vector[self.width - len(self.outputs) + number] = 1
        return vector


def class_targets(labels: Labels, row: int) -> np.ndarray:
    """The target (K,) of a categorical row, as 0 and 1."""
    if labels.kind == "multilabel":
        return labels.values[row].astype(np.float32)
    return (np.arange(len(labels.names)) == labels.values[row]).astype(np.float32)
