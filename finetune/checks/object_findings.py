"""Findings about labelled objects: classes by split, boxes without area or outside of the picture, tracks that jump."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.checks.finding import Finding
from finetune.checks.object_boxes import ObjectTable, class_rows, jumps, object_table, outside_shares, touches_border
from finetune.checks.rows import Rows
from finetune.data.labels import Labels
from finetune.data.splits import SPLITS
from finetune.errors import shorten_list
from finetune.recipe.tasks import DETECTION_KINDS
from finetune.text import count
from finetune.video.probe_files import FileInspection

MIN_SIDE = 2.0  # pixels; smaller boxes hold nothing that can be seen
MAX_OUTSIDE = 0.02  # share of a box's area that may be outside of the picture, as rounding may make it
MIN_TRAIN_OBJECTS = 20  # of a class; fewer give a warning
MAX_EMPTY_SHARE = 0.9  # of frames without objects


def object_findings(rows: Rows, good: Mapping[int, FileInspection]) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Findings about the objects of each detection task, and a table with a line per class.

    `good` are the inspections of readable rows.
    """
    findings: list[Finding] = []
    table: list[dict[str, Any]] = []
    for name, labels in rows.labels_by_task.items():
        if labels.kind in DETECTION_KINDS:
            objects = object_table(labels, picture_sizes(len(rows), good), _middle_times(rows, good))
            per_class = class_rows(labels.names, objects, rows.splits)
            table += [{"task": name, **row} for row in per_class]
            of_task = [
                *_class_findings(per_class, rows),
                *_box_findings(objects),
                *_frame_findings(rows, labels),
                *_track_findings(rows, objects),
            ]
            findings += [replace(finding, what=f"tasks.{name}: {finding.what}") for finding in of_task]
    return findings, table


def picture_sizes(num_rows: int, good: Mapping[int, FileInspection]) -> np.ndarray:
    """Width and height of each row's picture, float (N, 2); 0 in rows that cannot be read."""
    sizes_N2 = np.zeros((num_rows, 2))
    for row, inspection in good.items():
        sizes_N2[row] = inspection.info.width, inspection.info.height
    return sizes_N2


def _middle_times(rows: Rows, good: Mapping[int, FileInspection]) -> np.ndarray:
    """The middle of each row in seconds (N,); the end of a row without one is that of its file."""
    times_N = np.zeros(len(rows))
    for row, inspection in good.items():
        start, end = rows.interval(row)
        times_N[row] = (start + (end if np.isfinite(end) else max(start, inspection.file_seconds))) / 2
    return times_N


def _class_findings(per_class: Sequence[Mapping[str, Any]], rows: Rows) -> Iterator[Finding]:
    if not any(rows.splits):
        return
    untaught = [row["class"] for row in per_class if row["objects"] and not row["train"]]
    if untaught:
        what = f"train has no object of {_quoted(untaught)}: a detector cannot learn to find it."
        yield Finding("mend", "untaught", what, "Move some of its frames to train, or remove the class.")
    for split in SPLITS[1:]:
        absent = [row["class"] for row in per_class if row["train"] and not row[split]]
        if absent and split in rows.splits:
            what = f"{split} has no object of {_quoted(absent)}: its precision cannot be measured there."
            yield Finding("warning", "absent", what, f"Add frames with each class to {split}.")
    rare = [row["class"] for row in per_class if 0 < row["train"] < MIN_TRAIN_OBJECTS]
    if rare:
        what = f"Classes with fewer than {MIN_TRAIN_OBJECTS} training objects: {_quoted(rare)}."
        yield Finding("warning", "rare", what, "Label more of them; so few are rarely enough to learn a class.")


def _box_findings(objects: ObjectTable) -> Iterator[Finding]:
    outside = outside_shares(objects)
    gone, tiny = outside >= 1, objects.boxes[:, 2:].min(1, initial=np.inf) < MIN_SIDE
    beyond = (outside > MAX_OUTSIDE) & ~gone
    if gone.any():
        what = f"{_boxes(gone, 'lies', 'lie')} outside of the picture."
        todo = "Correct them: boxes are left, top, width and height in pixels of the video."
        yield Finding("mend", "outside", what, todo, _rows(objects, gone))
    if beyond.any():
        largest = f"up to {outside[beyond].max():.0%} of the area"
        what = f"{_boxes(beyond, 'reaches', 'reach')} beyond the picture's border, {largest}."
        todo = "Only the part inside counts. If that is not meant, are the boxes of a picture of another size?"
        yield Finding("warning", "beyond", what, todo, _rows(objects, beyond))
    if tiny.any():
        what = f"{_boxes(tiny, 'is', 'are')} narrower than {MIN_SIDE:g} pixels."
        yield Finding("warning", "tiny", what, "Mark them as ignored, or remove them.", _rows(objects, tiny))
    border = touches_border(objects) & ~gone
    if border.any():
        touching = _boxes(border, "touches", "touch")
        what = f"{touching} the picture's border ({border.mean():.0%}): objects that are cut off."
        yield Finding("note", "border", what)


def _frame_findings(rows: Rows, labels: Labels) -> Iterator[Finding]:
    """Labelled frames without objects, frames without a label, and files without any labelled frame."""
    has_objects_N = (labels.values[..., 0] >= 0).any(1)
    empty = labels.known & ~has_objects_N
    if empty.any():
        share = empty.sum() / labels.known.sum()
        what = f"{int(empty.sum())} of {count(int(labels.known.sum()), 'labelled frame')} have no object."
        is_many = share > MAX_EMPTY_SHARE
        todo = "Add frames with objects, or leave some of these out." if is_many else ""
        concerned = tuple(np.flatnonzero(empty).tolist()) if is_many else ()
        yield Finding("warning" if is_many else "note", "no_objects", what, todo, concerned)
    yield from unlabelled_files(rows, labels)


def unlabelled_files(rows: Rows, labels: Labels) -> Iterator[Finding]:
    """A warning about files without any labelled frame."""
    files = dict.fromkeys(rows.paths, False)
    for row in np.flatnonzero(labels.known).tolist():
        files[rows.paths[row]] = True
    unlabelled = {path for path, is_labelled in files.items() if not is_labelled}
    if unlabelled and len(unlabelled) < len(files):
        what = f"{count(len(unlabelled), 'video has', 'videos have')} no labelled frame."
        concerned = tuple(row for row, path in enumerate(rows.paths) if path in unlabelled)
        yield Finding("warning", "no_labelled_frame", what, "Label frames of them, or remove their rows.", concerned)


def _track_findings(rows: Rows, objects: ObjectTable) -> Iterator[Finding]:
    """Identities that jump or change their class; an identity belongs to one file."""
    paths = list(dict.fromkeys(rows.paths))
    number_of = {path: number for number, path in enumerate(paths)}
    files_O = np.array([number_of[rows.paths[row]] for row in objects.rows.tolist()], dtype=np.int64)
    jumping = jumps(objects, files_O)
    changing = _changing_class(objects, files_O)
    for kind, places, what, todo in (
        ("jump", jumping, "far from where the same object was before", _CHECK_IDENTITY),
        ("changed_class", changing, "of an identity that has several classes", _KEEP_CLASS),
    ):
        if len(places):
            identities = zip(objects.tracks[places].tolist(), files_O[places].tolist(), strict=True)
            named = list(dict.fromkeys(f"#{track} in “{paths[file].name}”" for track, file in identities))
            text = f"{count(len(places), 'object')} {what}: {shorten_list(named)}."
            yield Finding("warning", kind, text, todo, tuple(dict.fromkeys(objects.rows[places].tolist())))


_CHECK_IDENTITY = "Is the identity that of another object? Wrong identities teach a wrong motion."
_KEEP_CLASS = "An object keeps its class: correct the class or the identity."


def _changing_class(objects: ObjectTable, files_O: np.ndarray) -> np.ndarray:
    """Objects (J,) whose identity has more than one class."""
    tracked = np.flatnonzero(objects.tracks >= 0)
    identities = np.stack([files_O[tracked], objects.tracks[tracked]], 1)
    _, numbers = np.unique(identities, axis=0, return_inverse=True)
    of_class = np.unique(np.stack([numbers, objects.classes[tracked]], 1), axis=0)[:, 0]
    return tracked[np.bincount(of_class, minlength=len(tracked) + 1)[numbers] > 1]


def _boxes(chosen: np.ndarray, one: str, many: str) -> str:
    return count(int(chosen.sum()), f"box {one}", f"boxes {many}")


def _rows(objects: ObjectTable, chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(dict.fromkeys(objects.rows[chosen].tolist()))


def _quoted(names: Sequence[str]) -> str:
    return shorten_list([f"“{name}”" for name in names])
