"""The rows of a CSV or a folder, read leniently: what training would refuse becomes a finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.checks.finding import Finding
from finetune.data.class_codes import class_task_labels, encode_labels
from finetune.data.intervals import WHOLE, parse_intervals, row_noun
from finetune.data.labels import Labels, split_labels
from finetune.data.read import (
    COLUMN_ALIASES,
    SPLIT_ALIASES,
    find_media,
    groups_by_file,
    match_group,
    missing_columns_advice,
    scan_folder,
    subfolders,
)
from finetune.data.read_labels import read_labels
from finetune.data.splits import assign_splits, split_units
from finetune.data.tables import read_table
from finetune.data.tubes import parse_tubes
from finetune.data.valid_names import replace_surrogates
from finetune.data.validate_rows import check_names
from finetune.errors import DataError, shorten_list
from finetune.recipe.tasks import CATEGORICAL_KINDS, DEFAULT_TASK, DENSE_KINDS, Task, primary_task
from finetune.storage.numbered_images import group_into_clips
from finetune.text import count

PATH_COLUMNS = ("path", *COLUMN_ALIASES["path"])


@dataclass(frozen=True, eq=False)
class Rows:
    """Paths, labels, splits, groups and intervals, one item for each row; an empty text is a missing one."""

    source: Path
    paths: list[Path]
    labels: list[str]
    splits: list[str]
    groups: list[str]
    divided: bool  # at random and by group, as training divides rows without splits
    findings: list[Finding]
    multilabel: bool = False  # a label is a list of classes, which may be empty
    tasks: Mapping[str, Task] = field(default_factory=dict)  # empty for a single task
    others: Mapping[str, list[str]] = field(default_factory=dict)  # with several tasks, all label columns
    labels_by_task: Mapping[str, Labels] = field(default_factory=dict)  # of each task whose labels can be read
    intervals: np.ndarray | None = None  # float64 (N, 2), in seconds, as in `Manifest`
    interval_errors: Mapping[int, str] = field(default_factory=dict)  # by row; the interval is then the whole file
    boxes: np.ndarray | None = None  # bytes (N,), as in `Manifest`

    def __len__(self) -> int:
        return len(self.paths)

    def interval(self, row: int) -> tuple[float, float]:
        """[start, end) of a row in seconds; (0, inf) for a whole file."""
        if self.intervals is None:
            return WHOLE
        start, end = self.intervals[row].tolist()
        return start, end

    def boxes_cell(self, row: int) -> str:
        """The cell of the column `boxes`; empty where the row shows the whole picture."""
        return "" if self.boxes is None else self.boxes[row].decode()

    @property
    def noun(self) -> str:
        """What messages call a row: a frame where a detection or segmentation task has a label of every row."""
        dense = [labels.known for labels in self.labels_by_task.values() if labels.kind in DENSE_KINDS]
        is_frame = self.intervals is not None and dense and np.any(dense, axis=0).all()
        return "frame" if is_frame else row_noun(self.intervals, self.boxes)

    def group_or_file(self, row: int) -> str:
        """What keeps rows together where they are divided: the group, or else the file."""
        return self.groups[row] or str(self.paths[row])

    @property
    def labelled(self) -> bool:
        return any(labels.known.any() for labels in self.labels_by_task.values())

    @property
    def named_tasks(self) -> dict[str, Labels]:
        """The labels of the tasks with named classes, by the prefix of messages about them: empty for a single task."""
        named = {name: labels for name, labels in self.labels_by_task.items() if labels.kind in CATEGORICAL_KINDS}
        return {f"tasks.{name}: " if self.tasks else "": labels for name, labels in named.items()}


def read_rows(
    source: Path,
    *,
    group_pattern: str | None,
    shares: tuple[float, float, int],
    multilabel: bool = False,
    tasks: Mapping[str, Task] | None = None,
    image_sequences: bool = True,
) -> Rows:
    """Rows of a CSV or a folder as `Manifest` would read them, also where they have no labels.

    With several tasks, the labels are those of the first task with classes, if it has a column in this CSV. `shares`
    are the shares of val and test, and the seed, by which training would divide rows without a split. Raises DataError
    where there are no rows.
    """
    findings: list[Finding] = []
    if source.is_dir():
        columns = _from_folder(source, findings, image_sequences=image_sequences)
    else:
        columns = _from_csv(source, findings, group_by_file=group_pattern is None)
    paths, labels, splits, groups, intervals, interval_errors, boxes = columns
    findings += _image_sequences(paths)
    others: dict[str, list[str]] = {}
    labels_by_task: Mapping[str, Labels] = {}
    if tasks:
        others = {"label": labels} | ({} if source.is_dir() else _extra_columns(source, paths, tasks))
        if not source.is_dir():
            labels, multilabel = _labels_of_first(tasks, others, len(paths))
            findings = [finding for finding in findings if finding.kind not in {"no_label", "no_labels"}]
        labels_by_task = _labels_of_tasks(source, columns, tasks, others, findings)
    if group_pattern and not any(groups):
        groups = _groups_from(source, paths, group_pattern, findings)
    known_splits = [SPLIT_ALIASES.get(split.lower(), "") for split in splits]
    if any(splits):
        findings += _unknown_splits(splits, known_splits)
    labels_by_task = labels_by_task or _labels_of_texts(labels, multilabel=multilabel)
    divided = any(labels.known.any() for labels in labels_by_task.values()) and not any(splits)
    if divided:
        units = units_of_rows(source, paths, groups)
        known_splits = _divide_rows(source, labels_by_task, units, shares, findings=findings)
    if multilabel:
        findings = [finding for finding in findings if finding.kind != "no_label"]
    problems, notes = check_names(paths, labels_by_task, filter(None, groups), has_tasks=bool(tasks))
    findings += [Finding("mend", "names", _sentence(problem)) for problem in problems]
    findings += [Finding("warning", "names", _sentence(note)) for note in notes]
    labels, groups = (list(map(replace_surrogates, texts)) for texts in (labels, groups))
    return Rows(
        *(source, paths, labels, known_splits, groups, divided, findings, multilabel, tasks or {}, others),
        labels_by_task=labels_by_task,
        intervals=intervals,
        interval_errors=interval_errors,
        boxes=boxes,
    )


def tasks_of_objects(source: Path) -> dict[str, Task]:
    """The tasks of a CSV with a column `objects` that no recipe names: to detect, and to classify where it has labels.

    Empty for a folder, and for a CSV without such a column.
    """
    table = {} if source.is_dir() else read_table(source)
    if "objects" not in table:
        return {}
    tasks = {"objects": Task(kind="detect")}
    return tasks | ({DEFAULT_TASK: Task(kind="classify")} if any(table.get("label", ())) else {})


def _extra_columns(source: Path, paths: Sequence[Path], tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """The columns beside those that every manifest may have, of the rows that have a path."""
    table = read_table(source)
    column = next(name for name in PATH_COLUMNS if name in table)
    rows = [row for row, path in enumerate(table[column]) if path]
    assert len(rows) == len(paths)
    task_columns = [key for name, task in tasks.items() if task.manifest is None for key in task.columns_of(name)]
    common = {column, "label", "split", "group", "start", "end", "boxes"}
    names = [name for name in dict.fromkeys([*task_columns, *table]) if name not in common]
    columns = table.at(rows)
    return {name: list(columns[name]) for name in names if name in columns}


def _labels_of_first(tasks: Mapping[str, Task], columns: Mapping[str, list[str]], rows: int) -> tuple[list[str], bool]:
    """The labels of the task that rows are divided by, empty where it has none here, and whether it is multi-label."""
    name = primary_task(tasks)
    task = tasks[name]
    (column, *_) = task.columns_of(name)
    if task.kind not in CATEGORICAL_KINDS or task.manifest is not None or column not in columns:
        return [""] * rows, False
    return columns[column], task.kind == "multilabel"


def _labels_of_texts(labels: Sequence[str], *, multilabel: bool) -> Mapping[str, Labels]:
    """The labels of a single task; an empty text is a missing label."""
    if not any(labels):
        return {}
    if multilabel:
        return {DEFAULT_TASK: class_task_labels(*encode_labels([split_labels(label) for label in labels]))}
    classes = sorted({label for label in labels if label})
    codes = {name: code for code, name in enumerate(classes)}
    numbers = np.array([codes.get(label, len(classes)) for label in labels], dtype=np.int64)
    return {DEFAULT_TASK: class_task_labels(tuple(classes), numbers, None)}


def _labels_of_tasks(
    source: Path,
    columns: "_Columns",
    tasks: Mapping[str, Task],
    texts: Mapping[str, list[str]],
    findings: list[Finding],
) -> dict[str, Labels]:
    """The labels of each task whose labels can be read; errors of the others become findings."""
    labels_by_task: dict[str, Labels] = {}
    for name, task in tasks.items():
        try:
            labels_by_task |= read_labels({name: task}, texts, columns.paths, columns.intervals, source=source)
        except DataError as error:
            lines = str(error).splitlines()
            findings += [Finding("mend", "labels", line, "Training refuses such labels.") for line in lines]
    return labels_by_task


class _Columns(NamedTuple):
    paths: list[Path]
    labels: list[str]
    splits: list[str]
    groups: list[str]
    intervals: np.ndarray | None = None
    interval_errors: Mapping[int, str] = {}
    boxes: np.ndarray | None = None


def _from_csv(source: Path, findings: list[Finding], *, group_by_file: bool) -> _Columns:
    table = read_table(source)
    column = next((name for name in PATH_COLUMNS if name in table), None)
    if column is None:
        raise DataError(f"{source}: {missing_columns_advice(table, ['path'])}")
    if column != "path":
        findings.append(
            Finding("mend", "column", f"There is no column “path”; “{column}” was read instead.", f"Rename “{column}”.")
        )
    rows = [row for row, path in enumerate(table[column]) if path]
    if not rows:
        raise DataError(f"{source}: has a header but no rows")
    if missing := len(table[column]) - len(rows):
        lines = shorten_list([line for line, path in zip(table.lines, table[column], strict=True) if not path])
        what = f"{count(missing, 'row has', 'rows have')} no path: line {lines}."
        findings.append(Finding("mend", "no_path", what, "Fill in the path."))
    columns = table.at(rows)
    paths = [source.parent / path for path in columns[column]]
    labels, splits, groups = (list(columns.get(name, [""] * len(rows))) for name in ("label", "split", "group"))
    intervals, errors = parse_intervals(columns)
    boxes, box_errors = parse_tubes(columns)
    if group_by_file and not any(groups):
        groups = groups_by_file(columns[column], are_parts=intervals is not None or boxes is not None) or groups
    findings += _missing_labels(labels, row_noun(intervals, boxes))
    errors = {
        row: f"line {columns.lines[row]}: {'; '.join(filter(None, (errors.get(row), box_errors.get(row))))}"
        for row in sorted({*errors, *box_errors})
    }
    return _Columns(paths, labels, splits, groups, intervals, errors, boxes)


def _from_folder(source: Path, findings: list[Finding], *, image_sequences: bool) -> _Columns:
    """`<class>/*` or `<split>/<class>/*`; the files of a folder without subfolders have no labels."""
    scan = scan_folder(source, image_sequences=image_sequences)
    paths = [*scan.files, *scan.misplaced_files] if scan.files else find_media(source, image_sequences=False)
    if image_sequences and not scan.files:
        paths, _ = group_into_clips(paths)
    unlabelled = [""] * (len(paths) - len(scan.files))
    if subfolders(source):
        findings += [Finding("mend", kind, _sentence(problem)) for kind, problem in scan.problems.items()]
    findings += _missing_labels([*scan.labels, *unlabelled])
    findings += [Finding("note", "passed_over", _sentence(note)) for note in replace(scan, misplaced_files=[]).notes]
    splits = scan.splits or [""] * len(scan.files)
    return _Columns(paths, [*scan.labels, *unlabelled], [*splits, *unlabelled], [""] * len(paths))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _image_sequences(paths: Sequence[Path]) -> list[Finding]:
    folders = sum(path.is_dir() for path in paths)
    what = f"{count(folders, 'folder')} of numbered images: each folder is one clip, and its images are the frames."
    return [Finding("note", "image_sequences", what)] if folders else []


def _missing_labels(labels: Sequence[str], noun: str = "file") -> list[Finding]:
    missing = tuple(row for row, label in enumerate(labels) if not label)
    if not missing:
        return []
    if len(missing) == len(labels):
        todo = "To train, put the files of each class into a folder with its name, or write a CSV with path,label."
        return [Finding("warning", "no_labels", "There are no labels: only the files were checked.", todo)]
    what = f"{len(missing)} of {len(labels)} {noun}s have no label."
    return [Finding("mend", "no_label", what, "Label them or remove them.", missing)]


def _groups_from(source: Path, paths: Sequence[Path], pattern: str, findings: list[Finding]) -> list[str]:
    """The groups that `Manifest` would find: in the path relative to a folder, or as the CSV gives it."""
    texts = [(path.relative_to(source) if source.is_dir() else path).as_posix() for path in paths]
    groups = [match_group(text, pattern) for text in texts]
    missed = tuple(row for row, group in enumerate(groups) if not group)
    if missed:
        what = f"data.group_pattern {pattern!r} finds no group in {len(missed)} paths."
        findings.append(Finding("mend", "no_group", what, "Correct the pattern.", missed))
    return groups


def _unknown_splits(splits: Sequence[str], known: Sequence[str]) -> list[Finding]:
    rows = tuple(row for row, name in enumerate(known) if not name)
    if not rows:
        return []
    values = shorten_list(sorted({f"“{splits[row]}”" for row in rows}))
    what = f"{count(len(rows), 'row has', 'rows have')} no valid split: {values}."
    return [Finding("mend", "split", what, "A split is train, val or test.", rows)]


def units_of_rows(source: Path, paths: Sequence[Path], groups: Sequence[str]) -> np.ndarray:
    """What training keeps on one side when it divides N rows: the names of their groups or files (N,)."""
    root = source if source.is_dir() else source.parent
    return split_units([path.absolute() for path in paths], groups if any(groups) else None, root=root.absolute())


def _divide_rows(
    source: Path,
    labels_by_task: Mapping[str, Labels],
    units: np.ndarray,
    shares: tuple[float, float, int],
    *,
    findings: list[Finding],
) -> list[str]:
    """The split of each row; where rows cannot be divided none has one, and the reason is a finding."""
    try:
        return assign_splits(labels_by_task.values(), units, shares, source=source).tolist()
    except DataError as error:
        what = _sentence(str(error).removeprefix(f"{source}: "))
        findings.append(Finding("mend", "too_few", what))
        return [""] * len(units)
