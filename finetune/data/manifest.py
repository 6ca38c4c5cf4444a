"""The manifest: one row per labelled video, with its path, label, split and group.

Rows come from a folder or a CSV. Rows without a split are assigned to splits by seed, whole groups at a time. Columns
are NumPy arrays: a hundred thousand rows take little memory, and loading processes share them.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.arguments import check_arguments
from finetune.data.class_codes import class_labels, class_task_labels, encode_labels
from finetune.data.intervals import WHOLE, clip_name, read_intervals, seconds_text
from finetune.data.labels import Labels, join_labels, output_specs, split_labels
from finetune.data.read import (
    SPLIT_ALIASES,
    check_files_exist,
    groups_by_file,
    groups_by_pattern,
    read_csv,
    read_groups,
    scan_folder,
)
from finetune.data.read_labels import read_labels
from finetune.data.splits import SPLITS, assign_splits, split_units
from finetune.data.tubes import read_tubes, refuse_tasks_of_places
from finetune.data.validate_rows import check_names, manifest_problems
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.recipe.tasks import (
    CATEGORICAL_KINDS,
    DEFAULT_COLUMNS,
    DEFAULT_TASK,
    DENSE_KINDS,
    Multitask,
    MultitaskSpec,
    OutputSpec,
    Task,
    primary_task,
)
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.storage.object_store import is_url, local_copy
from finetune.text import count


@check_arguments
@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """Labelled videos. All arrays have N items, one per row; `source` is the file or folder, for messages.

    A row is a whole file or, where `intervals` says so, the part of it from a start to an end.

    With several tasks, `tasks` has their labels; `classes`, `labels` and `targets` are then those of the first
    categorical task, by which rows are split and counted (empty if there is none). A row without a label has the class
    index K.
    """

    source: Path
    classes: tuple[str, ...]
    paths: np.ndarray  # absolute, UTF-8 bytes
    labels: np.ndarray  # int64, index into classes
    splits: np.ndarray  # train | val | test
    groups: np.ndarray | None  # clips that belong together: a group is never divided between splits
    targets: np.ndarray | None = None  # bool (N, K), where rows may have several classes: `labels` is the rarest then
    tasks: Mapping[str, Labels] = field(default_factory=dict)
    image_rate: float = DEFAULT_IMAGE_FPS  # frames per second of rows that are folders of numbered images
    notes: tuple[str, ...] = ()  # shown before training: skipped files, names that look alike
    intervals: np.ndarray | None = None  # float64 (N, 2), [start, end) in seconds; None where all rows are whole files
    boxes: np.ndarray | None = None  # UTF-8 bytes (N,), cells of data/tubes.py; None where no row follows an object
    unknown: Manifest | None = None  # rows of classes that are left out of training, see data/unknown_classes.py

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(self.rows(split))} {split}" for split in SPLITS)
        tasks = f", tasks {', '.join(self.tasks)}" if self.tasks else ""
        described = f"{count(len(self), 'clip')} ({sizes}), {len(self.classes)} classes{tasks}"
        return f"Manifest({str(self.source)!r}: {described})"

    def path(self, row: int) -> Path:
        return Path(os.fsdecode(self.paths[row]))

    def interval(self, row: int) -> tuple[float, float]:
        """[start, end) of a row in seconds from the beginning of its file; (0, inf) for a whole file."""
        if self.intervals is None:
            return WHOLE
        start, end = self.intervals[row].tolist()
        return start, end

    def clip_name(self, row: int) -> str:
        """The name of a row, by which runs and their predictions identify it: its path, and its interval if any."""
        return clip_name(self.path(row), *self.interval(row), self.boxes_cell(row))

    def boxes_cell(self, row: int) -> str:
        """The row's cell of the column `boxes`, see data/tubes.py; empty where the row shows the whole picture."""
        return "" if self.boxes is None else self.boxes[row].decode()

    @property
    def clip_columns(self) -> tuple[str, ...]:
        """The columns that identify a row in a CSV."""
        times = ("start", "end") if self.intervals is not None else ()
        return ("path", *times, *(("boxes",) if self.boxes is not None else ()))

    def clip_cells(self, row: int) -> list[str]:
        """The cells of `clip_columns`: times in seconds, the end empty at the end of the file."""
        times = [seconds_text(time) for time in self.interval(row)] if self.intervals is not None else []
        return [str(self.path(row)), *times, *([self.boxes_cell(row)] if self.boxes is not None else [])]

    def label(self, row: int) -> str:
        """The row's class; with multi-label targets all of its classes, `a;b`, or an empty text."""
        if self.targets is None:
            return self.classes[self.labels[row]] if self.labels[row] < len(self.classes) else ""
        return join_labels(self.classes, self.targets[row])

    @property
    def labels_by_task(self) -> Mapping[str, Labels]:
        """The labels of every task; without tasks, the classes as one task named `label`."""
        return self.tasks or {DEFAULT_TASK: class_task_labels(self.classes, self.labels, self.targets)}

    @property
    def units(self) -> np.ndarray:
        """For each row (N,) the name of the unit that is never divided between splits: its group, or else its file."""
        root = self.source if self.source.is_dir() else self.source.parent
        groups = None if self.groups is None else self.groups.tolist()
        return split_units([self.path(row) for row in range(len(self))], groups, root=root.absolute())

    @property
    def truth(self) -> np.ndarray:
        """The ground truth: class indices (N,), or bool (N, K) where rows may have several classes."""
        return self.labels if self.targets is None else self.targets

    @check_arguments
    def rows(self, split: str) -> np.ndarray:
        """Row numbers (R,) of a split, ascending. Raises DataError for a name that is not a split."""
        if split not in SPLITS:
            raise DataError(
                f"there is no split {split!r}{suggest_similar(split, SPLITS)}; there are {', '.join(SPLITS)}"
            )
        return np.flatnonzero(self.splits == split)

    def counts(self, split: str) -> dict[str, int]:
        """The number of rows of each class in a split, zeros included."""
        rows = self.rows(split)
        if self.targets is not None:
            counted = self.targets[rows].sum(0)
        else:
            counted = np.bincount(self.labels[rows], minlength=len(self.classes))[: len(self.classes)]
        return dict(zip(self.classes, counted.tolist(), strict=True))

    def without(self, rows: Iterable[int]) -> Manifest:
        """The manifest without some rows; classes stay."""
        keep = np.setdiff1d(np.arange(len(self)), np.fromiter(rows, dtype=np.int64))
        groups = None if self.groups is None else self.groups[keep]
        targets = None if self.targets is None else self.targets[keep]
        intervals = None if self.intervals is None else self.intervals[keep]
        return replace(
            self,
            paths=self.paths[keep],
            labels=self.labels[keep],
            splits=self.splits[keep],
            groups=groups,
            targets=targets,
            intervals=intervals,
            boxes=None if self.boxes is None else self.boxes[keep],
            tasks={name: labels.at(keep) for name, labels in self.tasks.items()},
        )

    def with_classes(self, classes: tuple[str, ...]) -> Manifest:
        """The same rows with these classes, which include the present ones."""
        codes = np.array([*(classes.index(name) for name in self.classes), len(classes)])
        targets = None
        if self.targets is not None:
            targets = np.zeros((len(self), len(classes)), dtype=bool)
            targets[:, codes[:-1]] = self.targets
        return replace(self, classes=classes, labels=codes[self.labels], targets=targets)

    def multitask_spec(
        self, tasks: Mapping[str, Task], multitask: Multitask | None = None, *, clip_size: int | None = None
    ) -> MultitaskSpec:
        """What a model needs to know about the tasks: settings, outputs of the heads, and how tasks share it.

        Segmentation needs the side `clip_size` of clips in pixels.
        """
        outputs = output_specs(self.tasks, self.rows("train"), clip_size=clip_size)
        return MultitaskSpec(tasks, outputs, multitask or Multitask())

    def several(self, tasks: Mapping[str, Task], multitask: Multitask | None = None) -> MultitaskSpec:
        """The deprecated name of `multitask_spec`."""
        message = "Manifest.several is deprecated and will be removed in the next version; use Manifest.multitask_spec"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.multitask_spec(tasks, multitask)

    def for_task(self, task: str) -> Manifest:
        """The same rows with the classes and labels of a categorical task."""
        return self.relabelled(self.tasks[task])

    def relabelled(self, labels: Labels) -> Manifest:
        """The same rows, with the classes and labels of one task."""
        classes, codes, targets = class_labels(labels)
        return replace(self, classes=classes, labels=codes, targets=targets)

    def aligned_to_outputs(self, outputs: Mapping[str, OutputSpec]) -> Manifest:
        """The same rows with the tasks and classes of a model's outputs, in its order; it must have all of theirs."""
        tasks = {name: self.tasks[name].named(output.names) for name, output in outputs.items()}
        aligned = replace(self, tasks=tasks)
        first = primary_task(tasks)
        return aligned.for_task(first) if tasks[first].kind in CATEGORICAL_KINDS else aligned

    def for_split(self, split: str) -> Manifest:
        """The rows of one split, in order, renumbered from 0; classes stay."""
        return self.without(np.flatnonzero(self.splits != split))

    @check_arguments
    def to_csv(self, path: str | Path) -> None:
        """Write path[,start,end][,boxes],label,split[,group], with absolute paths; the same rows can be read again."""
        self._write(Path(path), {"split": self.splits})

    def to_csv_without_splits(self, path: Path) -> None:
        """The same, but without the column split if all rows are in train."""
        self._write(path, {} if len(self.rows("train")) == len(self) else {"split": self.splits})

    def _write(self, path: Path, columns: dict[str, np.ndarray]) -> None:
        columns = columns if self.groups is None else columns | {"group": self.groups}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            own = [f"{name}.{part}" for name, labels in self.tasks.items() for part in _label_columns(labels)]
            writer.writerow([*self.clip_columns, "label", *columns, *own])
            for row in range(len(self)):
                texts = [text for labels in self.tasks.values() for text in labels.text(row)]
                in_columns = (column[row] for column in columns.values())
                writer.writerow([*self.clip_cells(row), self.label(row), *in_columns, *texts])

    @staticmethod
    @check_arguments
    def from_csv(
        path: str | Path,
        *,
        group_pattern: str | None = None,
        val: float = 0.15,
        test: float = 0.2,
        seed: int = 0,
        whole: bool = False,
        multilabel: bool = False,
        packed: bool = False,
        tasks: Mapping[str, Task] | None = None,
        checked: bool = True,
    ) -> Manifest:
        """Rows of a CSV with a header path,label[,split][,group][,start][,end][,boxes]; other columns are ignored.

        A row with a `start` or an `end`, in seconds from the beginning of the file, is that part of the file. One with
        `boxes` follows an object: its pictures are cut out around it, see data/tubes.py.

        Paths are relative to the CSV; one in an object store, `s3://…`, is downloaded. `val` and `test` are the
        fractions to hold out if the split column is missing or empty; `whole` puts all rows into train. `multilabel`:
        a label lists the row's classes, `a;b;c`, and may be empty. `tasks`: labels are in the columns that the tasks
        name, in this CSV or in their own. `packed`: frames come from a pack, so files need not exist. `checked`
        False: rows that training refuses are accepted, as for the saved rows of a run. Raises DataError with all
        errors, one per line.
        """
        source = local_copy(path) if isinstance(path, str) and is_url(path) else Path(path)
        table = read_csv(source, labels="several" if multilabel else "of tasks" if tasks else "one")
        files = [source.parent / item for item in table["path"]]
        intervals = read_intervals(table)
        groups = read_groups(table) or groups_by_pattern(files, group_pattern)
        boxes = read_tubes(table)
        if boxes is not None:
            refuse_tasks_of_places(source, tasks or {})
        groups = groups or groups_by_file(table["path"], are_parts=intervals is not None or boxes is not None)
        splits = ["train"] * len(files) if whole else table.filled("split")
        if not packed:
            check_files_exist(source, files)
        labels: Sequence[str] | Sequence[tuple[str, ...]] | dict[str, Labels]
        if tasks:
            labels = read_labels(tasks, table, files, intervals, source=source, for_training=checked)
        else:
            labels = [split_labels(label) for label in table["label"]] if multilabel else table["label"]
        rows = _Rows(files, labels, splits, groups, intervals, boxes)
        return _build_manifest(source, rows, (val, test, seed), checked=checked)

    @staticmethod
    @check_arguments
    def from_folder(
        path: str | Path,
        *,
        group_pattern: str | None = None,
        val: float = 0.15,
        test: float = 0.2,
        seed: int = 0,
        whole: bool = False,
        tasks: Mapping[str, Task] | None = None,
        image_sequences: bool = True,
        checked: bool = True,
    ) -> Manifest:
        """Videos (or images: videos of one frame) in `<class>/*`, or in `<split>/<class>/*`.

        A folder of numbered images below its class folder is one video, unless `image_sequences` is false.

        For `tasks` the name of the class folder is the column `label`; other tasks have their own manifests.
        `group_pattern` is a regular expression whose one (...) matches the group in a path relative to the folder;
        `whole` puts all videos into train, whatever their folder. Raises DataError with all errors, one per line,
        empty class folders included.
        """
        source = Path(path)
        scan = scan_folder(source, image_sequences=image_sequences)
        if scan.problems:
            raise DataError("\n".join(f"{source}: {problem}" for problem in scan.problems.values()))
        files = scan.files
        groups = groups_by_pattern([file.relative_to(source) for file in files], group_pattern)
        splits = ["train"] * len(files) if whole else scan.splits
        labels: Sequence[str] | dict[str, Labels] = scan.labels
        if tasks:
            labels = read_labels(tasks, {"label": scan.labels}, files, source=source, for_training=checked)
        manifest = _build_manifest(source, _Rows(files, labels, splits, groups), (val, test, seed), checked=checked)
        return replace(manifest, notes=(*scan.notes, *manifest.notes))


def _label_columns(labels: Labels) -> tuple[str, ...]:
    """The columns of a task's labels in a written manifest, without the task's name."""
    return _written_columns(labels.kind, labels.names)


def tasks_for_csv(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The tasks with their columns as `to_csv` names them."""
    return {
        name: task.model_copy(
            update={
                "manifest": None,
                "columns": tuple(f"{name}.{part}" for part in _written_columns(task.kind, task.columns_of(name))),
            }
        )
        for name, task in tasks.items()
    }


def _written_columns(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if kind in DENSE_KINDS:
        return DEFAULT_COLUMNS[kind]
    return ("label",) if kind in CATEGORICAL_KINDS else names


class _Rows(NamedTuple):
    """The rows as a CSV or a folder has them."""

    files: Sequence[Path]
    labels: Sequence[str] | Sequence[tuple[str, ...]] | dict[str, Labels]
    splits: Sequence[str] | None
    groups: Sequence[str] | None
    intervals: np.ndarray | None = None
    boxes: np.ndarray | None = None


def _build_manifest(source: Path, rows: _Rows, shares: tuple[float, float, int], *, checked: bool = True) -> Manifest:
    files, labels, splits, groups, intervals, boxes = rows
    tasks = labels if isinstance(labels, dict) else {}
    if isinstance(labels, dict):
        classes, label_codes, targets = class_labels(labels[primary_task(labels)])
    else:
        classes, label_codes, targets = encode_labels(labels)
    group_names = None if groups is None else np.array(groups)
    if len(classes) < 2 and not tasks and checked:
        raise DataError(f"{source}: {shorten_list(classes)} is the only class; a classifier needs at least two")
    paths = np.array([os.fsencode(file.absolute()) for file in files])
    all_train = np.full(len(files), "train", dtype="U5")
    manifest = Manifest(
        *(source, classes, paths, label_codes, all_train, group_names, targets, tasks),
        intervals=intervals,
        boxes=boxes,
    )
    if splits:
        split_names = _normalize_splits(source, splits)
    else:
        split_names = assign_splits(manifest.labels_by_task.values(), manifest.units, shares, source=source)
    manifest = replace(manifest, splits=split_names)
    problems, notes = check_names(files, manifest.labels_by_task, groups or (), has_tasks=bool(tasks))
    problems += manifest_problems(manifest) if checked else []
    if problems:
        raise DataError("\n".join(f"{source}: {problem}" for problem in problems))
    return replace(manifest, notes=tuple(notes))


def _normalize_splits(source: Path, splits: Sequence[str]) -> np.ndarray:
    unknown = sorted({split or "(empty)" for split in splits if split.lower() not in SPLIT_ALIASES})
    if unknown:
        raise DataError(f"{source}: unknown split {shorten_list(unknown)}; a split is train, val or test")
    return np.array([SPLIT_ALIASES[split.lower()] for split in splits])
