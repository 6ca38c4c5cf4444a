"""From events to annotation files: what a model found, for the tool in which a person corrects it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.annotations.annotation import Annotation, Recording
from finetune.annotations.format_names import ExportFormat
from finetune.annotations.formats import WRITERS
from finetune.annotations.import_files import Imported
from finetune.errors import DataError, shorten_list
from finetune.storage.atomic import atomic_file, check_writable
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS


@dataclass(frozen=True)
class Exported:
    """The files that were written, and what their format does not hold."""

    files: Sequence[Path]
    notes: Sequence[str]


def export_events(events: Imported, kind: ExportFormat, out: Path) -> Exported:
    """Write the events to `out`: one file, or a folder with a file for each recording.

    Raises DataError if a file exists already, as it may hold corrections, or if a video cannot be read.
    """
    writer = WRITERS[kind]
    rows = sorted(
        (replace(row, video=str(path)) for path, row in events.rows),
        key=lambda row: (row.video, row.start or 0, row.end or 0),
    )
    open_ended = {row.video for row in rows if row.end is None and kind != "csv"}
    recordings = {}
    for name in dict.fromkeys(row.video for row in rows):
        recordings[name] = _recording(name, probed=writer.needs_video or name in open_ended)
    if kind != "csv":
        rows = [_with_times(row, recordings[row.video]) for row in rows]
    files = {out: list(recordings)}
    if writer.per_recording:
        paths = {name: recording.path for name, recording in recordings.items()}
        files = {out / path.with_suffix(writer.suffix): [name] for name, path in names_in_folder(paths).items()}
    if existing := next((path for path in files if path.exists()), None):
        raise DataError(f"{existing} exists already, and may hold corrections; give another --out, or remove it")
    notes: list[str] = []
    for path, names in files.items():
        own = {name: recordings[name] for name in names}
        written = writer.write([row for row in rows if row.video in own], own)
        notes += written.notes
        check_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(written.text, encoding="utf-8", newline="")
    return Exported(list(files), list(dict.fromkeys(notes)))


def default_output(events: Path, kind: ExportFormat) -> Path:
    """`events-elan` beside events.csv, or `events-boris.boris` for a format that has one file."""
    writer = WRITERS[kind]
    return events.with_name(f"{events.stem}-{kind}{'' if writer.per_recording else writer.suffix}")


def _recording(name: str, *, probed: bool) -> Recording:
    """The recording; its duration and frame rate only if `probed`, as that opens the video."""
    path = Path(name).absolute()
    if not probed:
        return Recording(name, path)
    from finetune.video.decode.probe import probe

    info = probe(path)
    if info.counted == "images":
        return Recording(name, path, info.num_frames / DEFAULT_IMAGE_FPS, DEFAULT_IMAGE_FPS)
    fps = info.fps or (info.num_frames / info.duration_seconds if info.duration_seconds else DEFAULT_IMAGE_FPS)
    return Recording(name, path, info.duration_seconds, fps)


def _with_times(event: Annotation, recording: Recording) -> Annotation:
    """The event with a start and an end where it runs from the beginning or to the end of the recording."""
    start = event.start or 0.0
    end = event.end if event.end is not None else max(recording.seconds or start, start)
    return replace(event, start=start, end=end)


def names_in_folder(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The names of videos; their paths below the folder that they share, where names are not unique.

    Names that differ in upper and lower case alone are one name on some disks. Raises DataError for videos that differ
    in this, or in their suffix, alone.
    """
    if len({path.stem.casefold() for path in paths.values()}) == len(paths):
        return {name: Path(path.name) for name, path in paths.items()}
    folder = Path(os.path.commonpath([path.parent for path in paths.values()]))
    names = {name: path.relative_to(folder) for name, path in paths.items()}
    stems = {name: str(path.with_suffix("")).casefold() for name, path in names.items()}
    counts = Counter(stems.values())
    if repeated := [str(paths[name]) for name, stem in stems.items() if counts[stem] > 1]:
        raise DataError(f"the files of these videos would have one name: {shorten_list(repeated)}; rename them")
    return names
