"""Which clips an index gets: the rows of a CSV, of a folder or of a recipe, with their labels if they have some."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.data.intervals import WHOLE, read_intervals
from finetune.data.labels import Labels, split_labels
from finetune.data.manifest import Manifest
from finetune.data.read import check_files_exist, find_media, read_csv, read_groups, scan_folder
from finetune.data.rows_without_labels import rows_without_labels
from finetune.data.tables import Table, is_table
from finetune.data.tubes import read_tubes
from finetune.errors import DataError
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import CATEGORICAL_KINDS, Task
from finetune.storage.object_store import is_url, local_copy
from finetune.vector_index.entry import Entry
from finetune.video.decode.clip_files import stamp

LABEL = "label"


@dataclass(frozen=True, eq=False)
class IndexedRows:
    """Rows of a manifest that an index gets. `labels` are those of the tasks with classes, none if it is unlabelled."""

    manifest: Manifest
    labels: Mapping[str, Labels]
    has_splits: bool

    def __len__(self) -> int:
        return len(self.manifest)

    def entry(self, row: int) -> Entry:
        """What the index says of a row."""
        manifest, (start, end) = self.manifest, self.manifest.interval(row)
        is_whole = (start, end) == WHOLE
        return Entry(
            path=path_in_index(manifest.path(row)),
            start=None if is_whole else start,
            end=None if is_whole or end == WHOLE[1] else end,
            labels={task: _class_names(labels, row) for task, labels in self.labels.items()} or None,
            group=None if manifest.groups is None else str(manifest.groups[row]),
            split=str(manifest.splits[row]) if self.has_splits else None,
            key=file_key(manifest.path(row)),
            row=row,
            boxes=manifest.boxes_cell(row) or None,
        )


def _class_names(labels: Labels, row: int) -> list[str]:
    """The classes of a row; an empty list where it has none or no label."""
    if not labels.known[row]:
        return []
    (text,) = labels.text(row)
    return list(split_labels(text)) if labels.kind == "multilabel" else [text]


def path_in_index(path: Path) -> str:
    """The absolute path by which an index knows a file, without `..`: a file then has one path, however it was named.

    `..` stays where it follows a symbolic link and leads to another file than the shorter path.
    """
    absolute = str(path.absolute())
    normal = os.path.normpath(absolute)
    return normal if normal == absolute or os.path.realpath(normal) == os.path.realpath(absolute) else absolute


def file_key(path: Path) -> str:
    """A text that changes when the file does: its size and the time of its last change; empty where it is not there."""
    try:
        return "-".join(map(str, stamp(path)))
    except OSError:
        return ""


def read_indexed_rows(source: str | Path, recipe: Recipe, *, tasks: Mapping[str, Task] | None = None) -> IndexedRows:
    """The rows of a CSV, of a folder, or of one video. Raises DataError with all errors, also for missing files.

    Of the `recipe` its section `data` says how they are read, and its `tasks`, or the given ones, where labels are. A
    folder with class folders only has their names as labels; of another one all videos are rows without a label.
    """
    tasks = {name: task for name, task in (tasks or recipe.tasks).items() if task.kind in CATEGORICAL_KINDS}
    path = local_copy(source) if isinstance(source, str) and is_url(source) else Path(source)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if is_table(path):
        return _rows_of_table(path, recipe, tasks)
    if path.is_dir():
        scan = scan_folder(path, image_sequences=recipe.data.image_sequences)
        if scan.files and "layout" not in scan.problems and not scan.misplaced_files:
            return _rows_of_class_folders(path, recipe, has_splits=scan.splits is not None)
    files = find_media(path, image_sequences=recipe.data.image_sequences)
    manifest = rows_without_labels(path, files, image_rate=recipe.data.image_rate)
    return IndexedRows(manifest, {}, has_splits=False)


def _rows_of_class_folders(path: Path, recipe: Recipe, *, has_splits: bool) -> IndexedRows:
    data = recipe.data
    manifest = Manifest.from_folder(
        path,
        group_pattern=data.group_pattern,
        whole=not has_splits,
        image_sequences=data.image_sequences,
        checked=False,
    )
    manifest = replace(manifest, image_rate=data.image_rate)
    return IndexedRows(manifest, manifest.labels_by_task, has_splits)


def _rows_of_table(path: Path, recipe: Recipe, tasks: Mapping[str, Task]) -> IndexedRows:
    table, data = read_csv(path, labels="of tasks"), recipe.data
    tasks = {name: task for name, task in tasks.items() if all(column in table for column in task.columns_of(name))}
    has_splits = table.filled("split") is not None
    if not tasks and table.filled(LABEL) is None:
        return IndexedRows(_rows_without_labels(path, table, data.image_rate), {}, has_splits=False)
    manifest = Manifest.from_csv(
        path,
        group_pattern=data.group_pattern,
        whole=not has_splits,
        multilabel=data.multilabel or (not tasks and not all(table[LABEL])),  # a row may have no label
        tasks={name: task.model_copy(update={"manifest": None}) for name, task in tasks.items()},
        checked=False,
    )
    manifest = replace(manifest, image_rate=data.image_rate)
    return IndexedRows(manifest, manifest.labels_by_task, has_splits)


def _rows_without_labels(path: Path, table: Table, image_rate: float) -> Manifest:
    files = [path.parent / name for name in table["path"]]
    check_files_exist(path, files)
    intervals_N2 = read_intervals(table)
    intervals = None if intervals_N2 is None else [(start, end) for start, end in intervals_N2.tolist()]
    manifest = rows_without_labels(path, files, intervals, image_rate=image_rate)
    groups = read_groups(table)
    return replace(manifest, groups=groups if groups is None else np.array(groups), boxes=read_tubes(table))
