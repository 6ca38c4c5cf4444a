"""All findings about labelled videos, as one dictionary for the HTML page and for --json.

An error (`mend`) is what training refuses, or what would make test results misleading; the rest is a warning or a note.
"""

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.checks.burnt_in_finding import Mark, mark_findings
from finetune.checks.class_balance import class_counts, group_findings, label_findings
from finetune.checks.duplicates import (
    DuplicateSet,
    content_ids,
    duplicate_findings,
    duplicates_to_drop,
    find_duplicates,
)
from finetune.checks.finding import Finding
from finetune.checks.interval_findings import interval_findings
from finetune.checks.loose_frames import loose_frame_findings
from finetune.checks.mask_findings import mask_findings
from finetune.checks.object_findings import object_findings
from finetune.checks.rows import Rows
from finetune.checks.shortcuts import Shortcut, find_shortcuts, shortcut_findings
from finetune.data.intervals import clip_name, seconds_text
from finetune.data.labels import Labels
from finetune.data.valid_names import has_forbidden_characters, replace_surrogates
from finetune.errors import DataError, VideoError
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.text import count
from finetune.video.probe_files import STALL_LIMIT_SECONDS, TIMEOUT_REASON, FileInspection, Progress

SCHEMA = 1
_SEVERITY_ORDER = {"mend": 0, "warning": 1, "note": 2}


def audit(
    rows: Rows,
    inspections: Sequence[FileInspection | VideoError],
    marks: Sequence[Mark] = (),
    *,
    reading: tuple[float, float] = (DEFAULT_IMAGE_FPS, STALL_LIMIT_SECONDS),
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[int]]:
    """The findings as JSON data, and the rows that remain when those with errors are removed.

    `inspections` are those of the rows' files, in order; `marks` come from `find_marks`. Likely copies are read again,
    see `find_near_copies` for `reading` and `progress`. Removing rows does not fix every error: a group in several
    splits, or a class without training files, remains.
    """
    results = {row: rows.interval_errors.get(row, inspection) for row, inspection in enumerate(inspections)}
    bad = {row: str(result) for row, result in results.items() if isinstance(result, VideoError | str)}
    good = {row: result for row, result in results.items() if isinstance(result, FileInspection)}
    readable = list(good)
    facts = numeric_file_facts(list(good.values()))
    pictures_N3SS = _pictures(list(good.values()))
    contents = content_ids([rows.paths[row] for row in readable])
    copies = find_duplicates(rows, good, contents, reading=reading, progress=progress)
    shortcuts = {where: _shortcuts(rows, labels, readable, facts) for where, labels in rows.named_tasks.items()}
    of_frames, frame_tables = _frame_labels(rows, good)
    findings = [
        *_unreadable(rows, bad),
        *rows.findings,
        *label_findings(rows, readable),
        *group_findings(rows),
        *of_frames,
        *interval_findings(rows, good, contents),
        *duplicate_findings(rows, copies),
        *loose_frame_findings(rows, readable, pictures_N3SS),
        *_shortcut_findings(shortcuts),
        *mark_findings(marks),
    ]
    findings.sort(key=lambda finding: (_SEVERITY_ORDER[finding.severity], finding.kind != "no_groups"))
    names = _names(rows)
    result = _data_summary(rows) | {
        "findings": [_finding_as_json(finding, names) for finding in findings],
        "unreadable": [{"file": names[row], "reason": _reason(rows.paths[row], reason)} for row, reason in bad.items()],
        "classes": class_counts(rows, readable),
        **frame_tables,
        "spread": [_value_range(name, facts[name]) for name in _UNITS if good],
        "shortcuts": _shortcuts_as_json(shortcuts),
        "marks": [_mark_as_json(mark, names) for mark in marks],
        "copies": [_duplicates_as_json(duplicates, names, rows) for duplicates in copies],
        "files": [_file_as_json(rows, names, row, good.get(row)) for row in range(len(rows))],
    }
    wrong = {row for finding in of_frames if finding.kind in ("outside", "mask") for row in finding.rows}
    copied, refused = duplicates_to_drop(rows, copies), _with_refused_names(rows)
    dropped = {*bad, *copied, *wrong, *refused, *_without_label_or_split(rows)}
    return result, [row for row in range(len(rows)) if row not in dropped]


def write_fixed(path: Path, rows: Rows, left: Iterable[int]) -> None:
    """Write a manifest of the rows `left`, with absolute paths; without splits where none were given."""
    if path.exists() and path.samefile(rows.source):
        raise DataError(f"{path}: is the manifest that is checked; write the fixed one to another file")
    columns = {"path": [str(video.absolute()) for video in rows.paths], "label": rows.labels}
    if rows.intervals is not None:
        columns |= {
            name: [seconds_text(time) for time in rows.intervals[:, place]]
            for place, name in enumerate(("start", "end"))
        }
    if rows.boxes is not None:
        columns["boxes"] = [rows.boxes_cell(row) for row in range(len(rows))]
    if any(rows.splits) and not rows.divided:
        columns["split"] = rows.splits
    if any(rows.groups):
        columns["group"] = rows.groups
    columns |= {**rows.others, **_absolute_masks(rows)}
    try:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([values[row] for values in columns.values()] for row in left)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _absolute_masks(rows: Rows) -> dict[str, list[str]]:
    """The columns of masks, whose paths are relative to the manifest that is checked, with absolute paths."""
    folder = rows.source.absolute().parent
    columns = {task.columns_of(name)[0] for name, task in rows.tasks.items() if task.kind == "segment"}
    return {
        column: [str(folder / text) if text else "" for text in rows.others[column]]
        for column in columns & rows.others.keys()
    }


_UNITS = {"shape": "width ÷ height", "size": "pixels", "frame rate": "frames/s", "duration": "s", "bit rate": "bit/s"}


def numeric_file_facts(inspections: Sequence[FileInspection]) -> dict[str, np.ndarray]:
    """Properties of N readable clips that have nothing to do with their content, as numbers (N,)."""
    seconds = np.array([inspection.info.duration_seconds for inspection in inspections])
    file_seconds = np.array([inspection.file_seconds for inspection in inspections])
    file_bytes = np.array([inspection.file_bytes for inspection in inspections], dtype=float)
    codecs = np.array([inspection.info.codec for inspection in inspections])
    return {
        "shape": np.array([inspection.info.width / inspection.info.height for inspection in inspections]),
        "size": np.array([float(inspection.info.width * inspection.info.height) for inspection in inspections]),
        "frame rate": np.array([round(inspection.info.fps, 2) for inspection in inspections]),
        "duration": seconds,
        "bit rate": np.divide(8 * file_bytes, file_seconds, out=np.zeros(len(file_seconds)), where=file_seconds > 0),
        "codec": np.unique(codecs, return_inverse=True)[1].astype(float),
        "sound": np.array([float(inspection.info.has_audio) for inspection in inspections]),
    }


def _pictures(inspections: Sequence[FileInspection]) -> np.ndarray:
    """The thumbnails of the files, uint8 (N, 3, S, S)."""
    pictures = [inspection.pictures_5SS[::2] for inspection in inspections]
    return np.stack(pictures) if pictures else np.empty((0, 3, 1, 1), np.uint8)


def _shortcuts(rows: Rows, labels: Labels, readable: Sequence[int], facts: dict[str, np.ndarray]) -> list[Shortcut]:
    labelled = [position for position, row in enumerate(readable) if labels.known[row]]
    labelled_rows = [readable[position] for position in labelled]
    return find_shortcuts(
        {name: values[labelled] for name, values in facts.items()},
        np.array([labels.text(row)[0] for row in labelled_rows]),
        np.array([rows.group_or_file(row) for row in labelled_rows]),
    )


def _shortcut_findings(shortcuts: Mapping[str, Sequence[Shortcut]]) -> list[Finding]:
    return [
        replace(finding, what=f"{where}{finding.what}")
        for where, of_task in shortcuts.items()
        for finding in shortcut_findings(of_task)
    ]


def _frame_labels(rows: Rows, good: Mapping[int, FileInspection]) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about objects and masks of labelled frames, and their tables."""
    of_objects, objects = object_findings(rows, good)
    of_masks, masks = mask_findings(rows, good)
    return [*of_objects, *of_masks], {"objects": objects, "masks": masks}


def _shortcuts_as_json(shortcuts: Mapping[str, Sequence[Shortcut]]) -> list[dict[str, Any]]:
    return [
        asdict(shortcut) | ({"fact": f"{where}{shortcut.fact}"} if where else {})
        for where, of_task in shortcuts.items()
        for shortcut in of_task
    ]


def _unreadable(rows: Rows, bad: dict[int, str]) -> list[Finding]:
    if not bad:
        return []
    number, noun = len(rows), rows.noun
    what = f"{len(bad)} of {number} {noun}s cannot be read." if number > 1 else f"The {noun} cannot be read."
    todo = "Fix or remove it." if len(bad) == 1 else "Fix or remove them."
    if any(TIMEOUT_REASON in reason for reason in bad.values()):
        todo += " Allow more time for files on a slow disk with --seconds."
    return [Finding("mend", "unreadable", what, todo, tuple(bad))]


def _without_label_or_split(rows: Rows) -> set[int]:
    needs_label = rows.labelled and not rows.multilabel and not rows.tasks
    no_label = {row for row, label in enumerate(rows.labels) if not label} if needs_label else set()
    return no_label | ({row for row, split in enumerate(rows.splits) if not split} if any(rows.splits) else set())


def _with_refused_names(rows: Rows) -> set[int]:
    names = zip(map(str, rows.paths), rows.labels, rows.groups, strict=True)
    return {row for row, texts in enumerate(names) if any(map(has_forbidden_characters, texts))}


def _names(rows: Rows) -> list[str]:
    """Each clip's name, with its path relative to the folder, or to that of the CSV.

    Bytes that are not UTF-8 are replaced.
    """
    root = _root(rows)
    paths = [path.relative_to(root) if path.is_relative_to(root) else path for path in rows.paths]
    names = [clip_name(path, *rows.interval(row), rows.boxes_cell(row)) for row, path in enumerate(paths)]
    return [os.fsencode(name).decode("utf-8", errors="replace") for name in names]


def _root(rows: Rows) -> Path:
    return rows.source if rows.source.is_dir() else rows.source.parent


def _data_summary(rows: Rows) -> dict[str, Any]:
    num_files = len(rows) if rows.noun == "file" else len(set(rows.paths))
    files = count(num_files, "file")
    return {
        "schema": SCHEMA,
        "source": replace_surrogates(str(rows.source)),
        "root": replace_surrogates(str(_root(rows))),
        "num_files": num_files,
        "num_clips": len(rows),
        "noun": rows.noun,
        "size": files if rows.noun == "file" else f"{count(len(rows), rows.noun)} of {files}",
        "splits": "none" if not rows.labelled else "by chance" if rows.divided else "given",
        "num_groups": len(set(filter(None, rows.groups))) or None,
    }


def _finding_as_json(finding: Finding, names: Sequence[str]) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(finding).items() if name != "rows"}
    return fields | {"files": [names[row] for row in finding.rows]}


def _reason(path: Path, reason: str) -> str:
    return os.fsencode(reason.removeprefix(f"{path}: ")).decode("utf-8", errors="replace")


def _value_range(name: str, values: np.ndarray) -> dict[str, Any]:
    low, middle, high = (float(f"{value:.6g}") for value in np.quantile(values, [0, 0.5, 1]))
    distinct = len(np.unique(values))
    return {"fact": name, "unit": _UNITS[name], "least": low, "median": middle, "most": high, "distinct": distinct}


def _file_as_json(rows: Rows, names: Sequence[str], row: int, inspection: FileInspection | None) -> dict[str, Any]:
    file: dict[str, Any] = {
        "file": names[row],
        "label": rows.labels[row],
        "split": rows.splits[row],
        "group": rows.groups[row],
    }
    if rows.intervals is not None:
        start, end = rows.interval(row)
        file |= {"start": start, "end": end if math.isfinite(end) else None}
    if cell := rows.boxes_cell(row):
        file["boxes"] = cell
    if inspection is None:
        return file
    info = inspection.info
    return file | {
        "num_frames": info.num_frames,
        "width": info.width,
        "height": info.height,
        "fps": round(info.fps, 3),
        "duration_seconds": round(info.duration_seconds, 3),
        "codec": info.codec,
        "has_audio": info.has_audio,
        "bytes": inspection.file_bytes,
    }


def _mark_as_json(mark: Mark, names: Sequence[str]) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(mark).items() if name != "mean_jpeg"}
    return fields | {"balanced_accuracy": round(mark.balanced_accuracy, 4), "example": names[mark.example]}


def _duplicates_as_json(copies: DuplicateSet, names: Sequence[str], rows: Rows) -> dict[str, Any]:
    return {
        "files": [names[row] for row in copies.rows],
        "labels": [rows.labels[row] for row in copies.rows],
        "splits": ["" if rows.divided else rows.splits[row] for row in copies.rows],
        "exact": copies.exact,
        "mirrored": copies.mirrored,
        "across": copies.across,
        "changes": list(copies.changes),
        "still": copies.still,
    }
