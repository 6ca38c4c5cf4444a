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

from finetune.data.intervals import WHOLE, clip_name, read_intervals
from finetune.data.tables import Table, read_table
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.recipe.tasks import CATEGORICAL_KINDS, SPATIAL_KINDS, OutputSpec, Task
from finetune.storage.object_store import local_copy

LABEL_SEPARATOR = ";"  # between the classes of a multi-label row
UNKNOWN_LABELS = ";;"  # marks a multi-label row without a label; an empty cell means that no class is present
TARGET_SCALE = 0.1  # boxes and motion are regressed in units of a tenth of the picture's side
INITIAL_BOX = (0.5, 0.5, 0.25, 0.25)  # cx, cy, w, h in fractions of the picture: what a head's output of 0 means


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
        """The labels of some rows, given by their indices (M,), in this order."""
        return Labels(self.kind, self.names, self.values[rows], self.known[rows])

    def named(self, names: tuple[str, ...]) -> Labels:
        """The same labels with classes `names`, which must include all present ones; columns of numbers are renamed."""
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
        """The same labels with classes `names` only; a row with any other class becomes unlabelled."""
        if self.kind not in CATEGORICAL_KINDS:
            return self.named(names)
        unknown_K = np.array([name not in names for name in self.names], dtype=bool)
        known = self.known & ~self.presence()[:, unknown_K].any(1)
        places = np.array([names.index(name) if name in names else len(names) for name in self.names], dtype=np.int64)
        if self.kind == "multilabel":
            values = np.zeros((len(known), len(names)), dtype=bool)
            values[:, places[~unknown_K]] = self.values[:, ~unknown_K]
        else:
            values = np.append(places, len(names))[self.values]
        return Labels(self.kind, names, values, known)

    def text(self, row: int) -> list[str]:
        """The row's label as a manifest's cells, one per column."""
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
        """The number of these rows (M,) with each class; an empty list for tasks that predict numbers."""
        known_values = self.values[rows][self.known[rows]]
        if self.kind == "multilabel":
            return known_values.sum(0).tolist()
        return np.bincount(known_values, minlength=len(self.names)).tolist() if self.kind in CATEGORICAL_KINDS else []

    def presence(self) -> np.ndarray:
        """Which classes each row has, bool (N, K); for numbers, whether the row has a label, bool (N, 1)."""
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


def join_labels(classes: Sequence[str], present_K: np.ndarray) -> str:
    """The classes that are present, `present_K` bool (K,), as a manifest's cell `a;b;c`."""
    return LABEL_SEPARATOR.join(name for name, present in zip(classes, present_K, strict=True) if present)


def read_labels(
    tasks: Mapping[str, Task],
    table: Mapping[str, Sequence[str]],
    files: Sequence[Path],
    intervals: np.ndarray | None = None,
    *,
    source: Path,
    for_training: bool = True,
) -> dict[str, Labels]:
    """The labels of each task for some clips, from the columns of `table`, or of the task's own manifest.

    Clips are files, or their `intervals` (N, 2) in seconds. A line of a task's manifest without start and end is the
    label of all clips of a file.

    With `for_training` a task needs labels, and at least two classes. Raises DataError with all errors, one per line.
    """
    labels, problems = {}, []
    shared = _LabelColumns(source, table, table.lines if isinstance(table, Table) else range(2, len(files) + 2))
    for name, task in tasks.items():
        try:
            task_table = shared if task.manifest is None else _join_manifest(task, name, files, intervals)
            labels[name] = _read_task_labels(name, task, task_table)
            if for_training:
                _check_enough_classes(name, task, labels[name], where=task_table.where)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return labels


class _LabelColumns(NamedTuple):
    """Columns with one text per video, the file that they come from, and each video's line number there.

    A video that is not in that file has line 0 and empty texts.
    """

    where: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]


def _join_manifest(task: Task, name: str, files: Sequence[Path], intervals: np.ndarray | None) -> _LabelColumns:
    """The columns of a task's own manifest, its rows joined to clips by path and interval, or else by path."""
    assert task.manifest is not None
    try:
        source = local_copy(task.manifest) if isinstance(task.manifest, str) else Path(task.manifest)
        table = read_table(source)
    except DataError as error:
        raise DataError(f"tasks.{name}.manifest: {error}") from None
    if "path" not in table:
        raise DataError(f"{source}: no column path; tasks.{name}.manifest needs one, to join rows by")
    listed = _clip_names([source.parent / path for path in table["path"]], read_intervals(table))
    row_of = {clip: row for row, clip in enumerate(listed)}
    if len(row_of) < len(table["path"]):
        raise DataError(f"{source}: lists a clip in several lines; tasks.{name} needs one label per clip")
    names = zip(_clip_names(files, intervals), _clip_names(files, None), strict=True)
    joined = table.at([row_of.get(clip, row_of.get(file)) for clip, file in names])
    if not any(joined.lines):
        raise DataError(
            f"{source}: lists none of the {len(files)} files to label for tasks.{name}; paths in a CSV are relative to "
            "the CSV"
        )
    return _LabelColumns(source, joined, joined.lines)


def _clip_names(files: Sequence[Path], intervals_N2: np.ndarray | None) -> list[str]:
    times = [WHOLE] * len(files) if intervals_N2 is None else intervals_N2.tolist()
    return [clip_name(file.resolve(), *interval) for file, interval in zip(files, times, strict=True)]


def _read_task_labels(name: str, task: Task, table: _LabelColumns) -> Labels:
    where, columns, _ = table
    missing = [column for column in task.columns_of(name) if column not in columns]
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
        raise DataError(f"{where}: no row has a value in {columns}, so tasks.{name} has no labels")
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
    levels = {text for text in texts if text}
    if task.levels is None:
        not_numbers = sorted(text for text in levels if _parse_number(text) is None)
        if not_numbers:
            raise DataError(
                f"{where}: levels that are not numbers: {shorten_list(not_numbers)}; give their order, for example "
                f"tasks.{name}.levels=[low, high]"
            )
        if equal := [pair for pair in pairwise(sorted(levels, key=float)) if float(pair[0]) == float(pair[1])]:
            pairs = shorten_list([" and ".join(sorted(pair)) for pair in equal])
            raise DataError(f"{where}: {pairs} are the same number; write each level of tasks.{name} in one way")
        return _encode_classes(task.kind, tuple(sorted(levels, key=float)), texts)
    if unlisted := sorted(levels - set(task.levels)):
        raise DataError(f"{where}: levels that are not in tasks.{name}.levels: {shorten_list(unlisted)}")
    return _encode_classes(task.kind, task.levels, texts)


def _encode_classes(kind: str, names: tuple[str, ...], texts: Sequence[str]) -> Labels:
    codes = {text: code for code, text in enumerate(names)}
    values = np.array([codes.get(text, len(names)) for text in texts], dtype=np.int64)
    return Labels(kind, names, values, values < len(names))


def _read_multilabel(name: str, task: Task, table: _LabelColumns) -> Labels:
    """An empty cell means that no class is present; in a task's own manifest it means that the row has no label."""
    (texts,) = _column_texts(name, task, table)
    rows = [split_labels(text) for text in texts]
    names = tuple(sorted({name for row in rows for name in row}))
    values = np.array([[name in row for name in names] for row in rows], dtype=bool).reshape(len(rows), len(names))
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
        expected = f"tasks.{name} needs numbers, or empty cells in all its columns"
        has_comma = any(re.search(r"\d,\d", problem) for problem in problems)
        hint = "; write decimals with a point, 0.5" if has_comma else ""
        raise DataError(f"{table.where}: {shorten_list(problems)}: {expected}{hint}")
    return Labels(task.kind, task.columns_of(name), values, known)


def _parse_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def output_specs(labels: Mapping[str, Labels], rows: np.ndarray) -> dict[str, OutputSpec]:
    """The outputs of a model's head for each task.

    Numbers are standardized: `center` and `scale` are their mean and standard deviation over the labelled `rows` (M,).
    """
    specs = {}
    for name, task_labels in labels.items():
        kind, names = task_labels.kind, task_labels.names
        center: tuple[float, ...] = ()
        scale: tuple[float, ...] = ()
        if kind == "box":
            center, scale = INITIAL_BOX, (TARGET_SCALE,) * 4
        elif kind in SPATIAL_KINDS:
            center, scale = (0.0, 0.0), _motion_scale(task_labels.at(rows))
        elif kind == "regress":
            values = task_labels.values[rows][task_labels.known[rows]]
            deviation = values.std(0) if len(values) else np.ones(len(names))
            center = tuple(values.mean(0).tolist()) if len(values) else (0.0,) * len(names)
            scale = tuple(np.where(deviation > 0, deviation, 1.0).tolist())
        specs[name] = OutputSpec(kind, names, center, scale)
    return specs


def _motion_scale(motion: Labels) -> tuple[float, ...]:
    """Scales (x, y) in proportion to the standard deviations of motion; the larger is a tenth of the picture."""
    values = motion.values[motion.known]
    deviation = values.std(0) if len(values) else np.ones(2)
    ratios = deviation / deviation.max() if deviation.max() > 0 else np.ones(2)
    return tuple((TARGET_SCALE * np.maximum(ratios, 0.01)).tolist())


@dataclass(frozen=True)
class TargetLayout:
    """Positions of each task's targets in one vector: first the targets of all tasks, then one 0/1 mask per task.

    The mask is 1 where the clip has a label for the task.
    """

    outputs: Mapping[str, OutputSpec]

    @property
    def places(self) -> dict[str, slice]:
        """The slice of each task's targets; a class or level takes one number."""
        ends = [0, *accumulate(len(output.names) for output in self.outputs.values())]
        return {name: slice(*bounds) for name, bounds in zip(self.outputs, pairwise(ends), strict=True)}

    @property
    def width(self) -> int:
        return sum(len(output.names) for output in self.outputs.values()) + len(self.outputs)

    def vector(self, targets: Mapping[str, np.ndarray | None]) -> np.ndarray:
        """The vector, float32 (width,), of one clip's targets by task, (K,) each; None where the clip has no label."""
        vector = np.zeros(self.width, dtype=np.float32)
        for number, (name, place) in enumerate(self.places.items()):
            target = targets[name]
            if target is not None:
                vector[place] = target
                vector[self.width - len(self.outputs) + number] = 1
        return vector


def class_targets(labels: Labels, row: int) -> np.ndarray:
    """The target of a categorical row, float32 (K,): 1 for each class that it has, else 0."""
    if labels.kind == "multilabel":
        return labels.values[row].astype(np.float32)
    return (np.arange(len(labels.names)) == labels.values[row]).astype(np.float32)


def empty_labels(output: OutputSpec, rows: int) -> Labels:
    """The labels of a task of which none of `rows` rows has a label."""
    count = len(output.names)
    values: np.ndarray = np.zeros((rows, count), dtype=bool if output.kind == "multilabel" else float)
    if output.kind in CATEGORICAL_KINDS and output.kind != "multilabel":
        values = np.full(rows, count, dtype=np.int64)
    return Labels(output.kind, output.names, values, np.zeros(rows, dtype=bool))
