"""Which videos a CSV or a folder names, read so that nothing stops it: what training would refuse becomes a finding."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from finetune.audit.finding import Finding
from finetune.errors import DataError, some
from finetune.labels import listed, read_labels
from finetune.manifest import divide, encode
from finetune.manifest_files import SPLIT_NAMES, find_media, read_table, scan_folder, subfolders
from finetune.tasks import NAMED, Task, primary_of

PATH_COLUMNS = ("path", "file", "filename", "file_name", "video", "video_path")


@dataclass(frozen=True, eq=False)
class Rows:
    """One item a row; an empty text is a label, split or group that is not there."""

    source: Path
    paths: list[Path]
    labels: list[str]
    splits: list[str]
    groups: list[str]
    divided: bool  # by chance and by group, as training divides what has no splits
    findings: list[Finding]
    multilabel: bool = False  # a label lists classes, or none
    tasks: Mapping[str, Task] = field(default_factory=dict)  # several: a row may lack the label of any
    others: Mapping[str, list[str]] = field(default_factory=dict)  # of several tasks, all columns with labels

    def __len__(self) -> int:
        return len(self.paths)

    def classes(self, row: int) -> tuple[str, ...]:
        """Of a row; none where it has no label."""
        if self.multilabel:
            return listed(self.labels[row])
        return (self.labels[row],) if self.labels[row] else ()

    @property
    def labelled(self) -> bool:
        return any(self.labels)


def read_rows(
    source: Path,
    *,
    group_pattern: str | None,
    shares: tuple[float, float, int],
    multilabel: bool = False,
    tasks: Mapping[str, Task] | None = None,
) -> Rows:
    """Rows of a CSV or a folder as `Manifest` would take them; without labels too.

    Of several tasks the labels are those of the first with classes, where it has them in this CSV.
    `shares` (val, test, seed) is how training would divide rows that have no split. Raises DataError where there
    are no rows at all.
    """
    findings: list[Finding] = []
    read = _from_folder if source.is_dir() else _from_csv
    paths, labels, splits, groups = read(source, findings)
    others: dict[str, list[str]] = {}
    if tasks and not source.is_dir():
        others = _further_columns(source, paths)
        columns = others | {"label": labels}
        labels, multilabel = _labels_of_first(tasks, columns, len(paths))
        findings = [finding for finding in findings if finding.kind not in {"no_label", "no_labels"}]
        findings += _problems_of_tasks(source, paths, tasks, columns)
        others = columns
    if group_pattern and not any(groups):
        groups = _groups_from(source, paths, group_pattern, findings)
    known = [SPLIT_NAMES.get(split.lower(), "") for split in splits]
    if any(splits):
        findings += _unknown_splits(splits, known)
    divided = any(labels) and not any(splits)
    if divided:
        codes = encode([listed(label) for label in labels] if multilabel else labels)[1]
        known = _divided(source, codes, groups, shares, findings)
    if multilabel:
        findings = [finding for finding in findings if finding.kind != "no_label"]
    return Rows(source, paths, labels, known, groups, divided, findings, multilabel, tasks or {}, others)


def _further_columns(source: Path, paths: Sequence[Path]) -> dict[str, list[str]]:
    """Those that nothing but tasks asks for, of the rows that have a path."""
    table = read_table(source)
    column = next(name for name in PATH_COLUMNS if name in table)
    there = [row for row, path in enumerate(table[column]) if path]
    assert len(there) == len(paths)
    known = {column, "label", "split", "group"}
    return {name: [values[row] for row in there] for name, values in table.items() if name not in known}


def _labels_of_first(tasks: Mapping[str, Task], columns: Mapping[str, list[str]], rows: int) -> tuple[list[str], bool]:
    """The labels of the task that rows are divided by, and whether they list classes; empty where it has none here."""
    name = primary_of(tasks)
    task = tasks[name]
    (column, *_) = task.columns_of(name)
    if task.kind not in NAMED or task.manifest is not None or column not in columns:
        return [""] * rows, False
    return columns[column], task.kind == "multilabel"


def _problems_of_tasks(
    source: Path, paths: Sequence[Path], tasks: Mapping[str, Task], columns: Mapping[str, list[str]]
) -> list[Finding]:
    try:
        read_labels(tasks, columns, paths, source=source)
    except DataError as error:
        return [Finding("mend", "labels", line, "Training would refuse it.") for line in str(error).splitlines()]
    return []


Columns = tuple[list[Path], list[str], list[str], list[str]]


def _from_csv(source: Path, findings: list[Finding]) -> Columns:
    table = read_table(source)
    column = next((name for name in PATH_COLUMNS if name in table), None)
    if column is None:
        raise DataError(f"{source}: no column path; it has {', '.join(table)}")
    if column != "path":
        findings.append(
            Finding("mend", "column", f"There is no column “path”; “{column}” was read instead.", f"Rename “{column}”.")
        )
    there = [row for row, path in enumerate(table[column]) if path]
    if not there:
        raise DataError(f"{source}: holds a header and no rows")
    if missing := len(table[column]) - len(there):
        lines = some([row + 2 for row, path in enumerate(table[column]) if not path])
        findings.append(Finding("mend", "no_path", f"{missing} rows have no path: line {lines}.", "Fill it in."))
    kept = {name: [values[row] for row in there] for name, values in table.items()}
    paths = [source.parent / path for path in kept[column]]
    labels, splits, groups = (kept.get(name) or [""] * len(there) for name in ("label", "split", "group"))
    findings += _missing_labels(labels)
    return paths, labels, splits, groups


def _from_folder(source: Path, findings: list[Finding]) -> Columns:
    """`<class>/*` or `<split>/<class>/*`; a folder without folders is files without labels."""
    scan = scan_folder(source)
    paths = [*scan.files, *scan.loose] if scan.files else find_media(source)
    unlabelled = [""] * (len(paths) - len(scan.files))
    if subfolders(source):
        findings += [Finding("mend", kind, _sentence(problem)) for kind, problem in scan.problems.items()]
    findings += _missing_labels([*scan.labels, *unlabelled])
    findings += [Finding("note", "passed_over", _sentence(note)) for note in replace(scan, loose=[]).notes]
    splits = scan.splits or [""] * len(scan.files)
    return paths, [*scan.labels, *unlabelled], [*splits, *unlabelled], [""] * len(paths)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _missing_labels(labels: Sequence[str]) -> list[Finding]:
    missing = tuple(row for row, label in enumerate(labels) if not label)
    if not missing:
        return []
    if len(missing) == len(labels):
        todo = "To train on them, put each class into a folder of its name, or write a CSV with path,label."
        return [Finding("warning", "no_labels", "There are no labels: only the files were looked at.", todo)]
    what = f"{len(missing)} of {len(labels)} files have no label."
    return [Finding("mend", "no_label", what, "Give them one, or take them out.", missing)]


def _groups_from(source: Path, paths: Sequence[Path], pattern: str, findings: list[Finding]) -> list[str]:
    """As `Manifest` finds them: in the path relative to a folder, or in the path that a CSV gives."""
    texts = [(path.relative_to(source) if source.is_dir() else path).as_posix() for path in paths]
    matches = [re.search(pattern, text) for text in texts]
    missed = tuple(row for row, match in enumerate(matches) if match is None)
    if missed:
        what = f"data.group_pattern {pattern!r} finds no group in {len(missed)} paths."
        findings.append(Finding("mend", "no_group", what, "Mend the pattern.", missed))
    return [match.group(1) if match else "" for match in matches]


def _unknown_splits(splits: Sequence[str], known: Sequence[str]) -> list[Finding]:
    rows = tuple(row for row, name in enumerate(known) if not name)
    if not rows:
        return []
    words = some(sorted({f"“{splits[row]}”" if splits[row] else "no split" for row in rows}))
    return [Finding("mend", "split", f"{len(rows)} rows have {words}.", "A split is train, val or test.", rows)]


def _divided(
    source: Path,
    codes: np.ndarray,
    groups: Sequence[str],
    shares: tuple[float, float, int],
    findings: list[Finding],
) -> list[str]:
    units = np.array([group or f"row {row}" for row, group in enumerate(groups)]) if any(groups) else None
    try:
        return divide(codes, units, shares, source=source).tolist()
    except DataError as error:
        what = _sentence(str(error).removeprefix(f"{source}: "))
        findings.append(Finding("mend", "too_few", what))
        return [""] * len(codes)
