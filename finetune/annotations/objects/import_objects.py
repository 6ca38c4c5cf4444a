"""From files of objects to the rows of a manifest: one for each labelled frame, with its objects in pixels."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.annotations.document import Document, open_document
from finetune.annotations.find_videos import VideoFolder
from finetune.annotations.format_names import AnyFormat, ObjectFormat
from finetune.annotations.import_files import list_problems, path_from_folder, require_rows, shorten_text
from finetune.annotations.objects.frame_finder import FrameFinder
from finetune.annotations.objects.frame_objects import ObjectFile
from finetune.annotations.objects.label_video import Entries, Findings, LabelledFrame, label_video, read_video
from finetune.annotations.objects.object_formats import (
    is_empty_mot,
    object_files,
    object_format,
    read_objects,
    recognise_objects,
)
from finetune.data.intervals import WHOLE, seconds_text
from finetune.data.object_labels import objects_text
from finetune.errors import DataError, shorten_list
from finetune.storage.atomic import atomic_file, check_writable
from finetune.text import count

MAX_LISTED = 100  # problems of all files together


@dataclass(frozen=True)
class ObjectImportOptions:
    """`kind` None recognises each file. `fps` counts the frames of files, instead of the video.

    `every`: labelled frames of a video are at least that many frames apart. `first_frame` is the number of a video's
    first frame in the names of images.
    """

    kind: AnyFormat | None = None
    videos: Path | None = None
    fps: float | None = None
    every: int = 1
    first_frame: int = 0


@dataclass(frozen=True)
class ImportedObjects:
    """Labelled frames, by video and in order, and what to tell the user."""

    rows: Sequence[LabelledFrame]
    problems: Sequence[str]
    notes: Sequence[str]

    def require_rows(self, *, skip_problems: bool) -> None:
        """Raise DataError with all problems, unless they may be skipped; and if there are no rows."""
        require_rows(len(self.rows), self.problems, skip_problems=skip_problems)

    def summary(self) -> str:
        """`120 labelled frames of 3 videos, 20 of them without objects; 340 objects of 2 classes, 12 identities`."""
        items = [item for row in self.rows for item in row.objects]
        identities = {(row.path, item.track) for row in self.rows for item in row.objects if item.track is not None}
        empty = sum(not row.objects for row in self.rows)
        classes = len({item.name for item in items})
        return (
            f"{count(len(self.rows), 'labelled frame')} of {count(len({row.path for row in self.rows}), 'video')}"
            f"{f', {empty:,} of them without objects' if empty else ''}; "
            f"{count(len(items), 'object')} of {count(classes, 'class', 'classes')}"
            f"{f', {len(identities):,} identities' if identities else ''}"
        )


def import_objects(
    files: Sequence[Path], options: ObjectImportOptions, *, progress: Callable[[int, int], None] | None = None
) -> ImportedObjects:
    """The rows of all files. `progress` is called with (videos that were read, videos).

    What is wrong with single entries or files is in `problems`. Raises DataError if the folder of videos, or the files
    of a folder, do not exist.
    """
    videos = None if options.videos is None else VideoFolder.scan(options.videos)
    kind = object_format(options.kind)
    finder = FrameFinder(videos, first_frame=options.first_frame)
    findings, notes, of_video = Findings(), list[tuple[Path, str]](), dict[Path, Entries]()
    for source in object_files(files):
        try:
            content = _read(source, kind)
        except DataError as error:
            findings.problems[source].append(str(error).removeprefix(f"{source}: "))
            continue
        notes += [(source, note) for note in content.notes]
        findings.problems[source] += [*content.problems, *_add_entries(source, content, finder, of_video)]
    rows: list[LabelledFrame] = []
    for number, (path, entries) in enumerate(sorted(of_video.items()), 1):
        video = read_video(path, entries, findings, options.fps)
        if video is not None:
            rows += label_video(video, entries, findings, rate=options.fps, every=options.every)
        if progress is not None:
            progress(number, len(of_video))
    rows, split_notes = _with_valid_splits(rows)
    problems = [line for source, own in findings.problems.items() for line in list_problems(source, own)]
    more = len(problems) - MAX_LISTED
    problems = [*problems[:MAX_LISTED], *([f"{count(more, 'more problem')}"] if more > 0 else [])]
    return ImportedObjects(rows, problems, [*_notes_of_files(notes), *_notes(findings, options), *split_notes])


def _read(source: Path, kind: ObjectFormat | None) -> ObjectFile:
    """The content of a file; an empty gt.txt is one of MOTChallenge without objects. Raises DataError."""
    if is_empty_mot(source, kind):
        return read_objects(Document(source, b""), "mot")
    document = open_document(source)
    kind = kind or recognise_objects(document, with_events=True)
    if kind is None:
        raise DataError("holds no objects that can be read; --from names its format")
    return read_objects(document, kind)


def _notes_of_files(notes: Sequence[tuple[Path, str]]) -> list[str]:
    """The notes with their files; those that differ in numbers alone once, with the number of files."""
    alike: dict[str, list[tuple[Path, str]]] = {}
    for source, note in notes:
        alike.setdefault(re.sub(r"[0-9,]+", "", note), []).append((source, note))
    return [
        f"{group[0][0]}{f' and {len(group) - 1:,} more' if len(group) > 1 else ''}: {shorten_text(group[0][1])}"
        for group in alike.values()
    ]


def _add_entries(source: Path, content: ObjectFile, finder: FrameFinder, of_video: dict[Path, Entries]) -> list[str]:
    """Add the entries of a file to those of their videos; messages about frames that are not found."""
    missing: Counter[str] = Counter()
    for entry in content.frames:
        try:
            path, number = finder.frame(source, entry)
        except DataError as error:
            missing[str(error)] += 1
            continue
        of_video.setdefault(path, Entries()).frames.append((source, entry, number))
    for labelled in content.ranges:
        try:
            of_video.setdefault(finder.video(source, labelled.video), Entries()).ranges.append((source, labelled))
        except DataError as error:
            missing[str(error)] += 0
    return [f"{text} ({count(number, 'frame')})" if number > 1 else text for text, number in missing.items()]


def _with_valid_splits(rows: Sequence[LabelledFrame]) -> tuple[list[LabelledFrame], list[str]]:
    """The rows; without splits where a video has frames in several of them, or only some rows have one."""
    splits: dict[Path, set[str]] = {}
    for row in rows:
        splits.setdefault(row.path, set()).add(row.split)
    if not any(row.split for row in rows):
        return list(rows), []
    divided = [path.name for path, names in splits.items() if len(names) > 1]
    if not divided and all(row.split for row in rows):
        return list(rows), []
    reason = (
        f"frames of one video are in several ({shorten_list(divided, limit=3)})" if divided else "some rows lack it"
    )
    note = f"the splits of the file are left out: {reason}; training divides the videos"
    return [replace(row, split="") for row in rows], [note]


def _notes(findings: Findings, options: ObjectImportOptions) -> list[str]:
    counts, notes = findings.counts, []
    boxes = "box", "boxes"
    if counts["cut"]:
        notes.append(f"{count(counts['cut'], *boxes)} partly outside the picture: cut off at its edges")
    if counts["repeated"]:
        notes.append(f"{count(counts['repeated'], *boxes)} left out that repeat another one of their frame")
    if counts["scaled"]:
        notes.append(f"{count(counts['scaled'], 'frame')} labelled at another size: boxes are scaled to the video's")
    if options.every > 1:
        notes.append(
            f"{counts['kept']:,} of {count(counts['labelled'], 'labelled frame')} kept, "
            f"at least {options.every} frames apart"
        )
    if findings.jumps:
        listed = shorten_list(findings.jumps, limit=3)
        places = count(len(findings.jumps), "place")
        notes.append(f"identities move more than twice the size of their box per frame in {places}; check {listed}")
    return notes


def write_object_manifest(imported: ImportedObjects, out: Path) -> None:
    """Write path,start,end[,split],objects; paths are relative to the file below its folder."""
    check_writable(out)
    has_splits = any(row.split for row in imported.rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", *(["split"] if has_splits else []), "objects"])
        for row in imported.rows:
            times = ["", ""] if (row.start, row.end) == WHOLE else [seconds_text(row.start), seconds_text(row.end)]
            split = [row.split] if has_splits else []
            writer.writerow([path_from_folder(row.path, out.parent), *times, *split, objects_text(row.objects)])
