"""A manifest of labelled frames, path,start,end,objects, as labelled frames with their numbers."""

from __future__ import annotations

from pathlib import Path

from finetune.annotations.import_files import list_problems
from finetune.annotations.objects.frame_numbers import VideoFrames, read_video_frames
from finetune.annotations.objects.import_objects import ImportedObjects
from finetune.annotations.objects.label_video import LabelledFrame
from finetune.annotations.objects.object_formats import OBJECTS_COLUMN
from finetune.data.intervals import frames_in_interval, parse_intervals
from finetune.data.labels import UNKNOWN_LABELS
from finetune.data.object_labels import parse_objects
from finetune.data.tables import read_table
from finetune.errors import DataError


def read_object_table(source: Path) -> ImportedObjects:
    """The labelled frames: the one in the middle of the interval of each row that is labelled."""
    table = read_table(source)
    intervals_N2, errors = parse_intervals(table)
    rows: list[LabelledFrame] = []
    problems: list[str] = []
    videos: dict[Path, VideoFrames | DataError] = {}
    splits = table.get("split", [""] * len(table.lines))
    for row, (name, cell, split) in enumerate(zip(table["path"], table[OBJECTS_COLUMN], splits, strict=True)):
        if cell == UNKNOWN_LABELS:
            continue
        path = source.parent / name
        start, end = (0.0, float("inf")) if intervals_N2 is None else intervals_N2[row].tolist()
        try:
            if row in errors:
                raise DataError(errors[row])
            video = _video(path, videos)
            first, number = frames_in_interval(video.times_N, start, end)
            if not number:
                raise DataError(f"{path} has no frame between {start:g} and {end:g} s")
            items = tuple(parse_objects(cell))
            rows.append(LabelledFrame(path, first + number // 2, start, end, video.size, items, split))
        except DataError as error:
            problems.append(f"line {table.lines[row]}: {error}")
    rows.sort(key=lambda row: (row.path, row.frame))
    return ImportedObjects(rows, list_problems(source, problems), [])


def _video(path: Path, videos: dict[Path, VideoFrames | DataError]) -> VideoFrames:
    """The frames of a video, read once. Raises DataError."""
    if path not in videos:
        try:
            videos[path] = read_video_frames(path)
        except DataError as error:
            videos[path] = error
    video = videos[path]
    if isinstance(video, DataError):
        raise video
    return video
