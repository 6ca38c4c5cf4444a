"""Read the labels of tasks from the columns of a manifest, or from a task's own manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.frame_objects import MOTION, motion_of_identities, objects_array
from finetune.data.intervals import WHOLE, clip_name, read_intervals
from finetune.data.labels import UNKNOWN_LABELS, Labels, split_labels
from finetune.data.object_labels import LabelledObject, parse_objects
from finetune.data.tables import Table, first_problems, read_table
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.recipe.tasks import CATEGORICAL_KINDS, DETECTION_KINDS, Task
from finetune.storage.object_store import local_copy
from finetune.text import parse_number


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
            labels[name] = _read_task_labels(name, task, task_table, files, intervals)
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


def _read_task_labels(
    name: str, task: Task, table: _LabelColumns, files: Sequence[Path], intervals: np.ndarray | None
) -> Labels:
    where, columns, _ = table
    missing = [column for column in task.columns_of(name) if column not in columns]
    if missing:
        hints = "".join(suggest_similar(column, columns) for column in missing)
        raise DataError(
            f"{where}: no column {' and no column '.join(missing)}{hints}, for tasks.{name}; it has "
            f"{', '.join(columns)}"
        )
    labels = READERS[task.kind](name, task, table)
    if task.kind in DETECTION_KINDS and intervals is not None:
        numbers = np.unique([str(file) for file in files], return_inverse=True)[1].reshape(-1)
        labels.values[..., MOTION] = motion_of_identities(labels.values, numbers, intervals)
    return labels


def _check_enough_classes(name: str, task: Task, labels: Labels, *, where: Path) -> None:
    if not labels.known.any():
        columns = ", ".join(task.columns_of(name))
        raise DataError(f"{where}: no row has a value in {columns}, so tasks.{name} has no labels")
    if labels.kind in DETECTION_KINDS and not labels.presence().any():
        raise DataError(f"{where}: no labelled frame has an object, so tasks.{name} has no class to learn")
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
        not_numbers = sorted(text for text in levels if parse_number(text) is None)
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
        numbers = [parse_number(text) for text in texts]
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


def _read_objects(name: str, task: Task, table: _LabelColumns) -> Labels:
    """An empty cell is a frame without objects; `;;` is a frame that is not labelled."""
    (texts,) = _column_texts(name, task, table)
    frames: list[list[LabelledObject]] = []
    problems = []
    for text, line in zip(texts, table.lines, strict=True):
        try:
            frames.append([] if text == UNKNOWN_LABELS else parse_objects(text))
        except DataError as error:
            problems.append(f"line {line}: tasks.{name}: {error}")
    if problems:
        raise DataError("\n".join(f"{table.where}: {problem}" for problem in first_problems(problems)))
    names = tuple(sorted({item.name for objects in frames for item in objects}))
    known = np.array([text != UNKNOWN_LABELS for text in texts], dtype=bool)
    return Labels(task.kind, names, objects_array(frames, names), known)


def _read_masks(name: str, task: Task, table: _LabelColumns) -> Labels:
    """Paths are relative to the CSV; an empty cell is a frame that is not labelled."""
    (texts,) = _column_texts(name, task, table)
    assert task.classes is not None
    folder = table.where.absolute().parent
    paths = np.array([os.fsencode(folder / text) if text else b"" for text in texts], dtype=bytes)
    return Labels(task.kind, task.classes, paths, paths != b"")


READERS: dict[str, Callable[[str, Task, _LabelColumns], Labels]] = {
    "classify": _read_classes,
    "multilabel": _read_multilabel,
    "ordinal": _read_levels,
    **dict.fromkeys(("regress", "box", "motion"), _read_numbers),
    **dict.fromkeys(DETECTION_KINDS, _read_objects),
    "segment": _read_masks,
}
