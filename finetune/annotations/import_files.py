"""From annotation files to the rows of a manifest: tiers, videos, and times in seconds."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.annotations.annotation import Annotation, AnnotationFile
from finetune.annotations.document import open_document
from finetune.annotations.find_videos import VideoFolder, video_at_its_path
from finetune.annotations.format_names import Format
from finetune.annotations.formats import read_document
from finetune.annotations.seconds import in_seconds, problem_of, times_of_frames, widened
from finetune.data.intervals import seconds_text
from finetune.errors import DataError, VideoError, shorten_list
from finetune.storage.atomic import atomic_file, check_writable
from finetune.text import count

MAX_PROBLEMS = 30  # of one file that are listed
OPTIONAL_COLUMNS = ("group", "split", "subject", "score")


@dataclass(frozen=True)
class ImportOptions:
    """`kind` None recognises each file. `fps` counts the frames of files that state no rate, instead of the video."""

    kind: Format | None = None
    videos: Path | None = None
    tier: str | None = None
    point_seconds: float = 1.0
    fps: float | None = None


@dataclass(frozen=True)
class _Found:
    """An annotation of the file `source`, and its video."""

    source: Path
    annotation: Annotation
    path: Path


@dataclass(frozen=True)
class Imported:
    """Annotations in seconds, each with the video that was found for it, and what to tell the user."""

    rows: Sequence[tuple[Path, Annotation]]
    problems: Sequence[str]
    notes: Sequence[str]

    def require_rows(self, *, skip_problems: bool) -> None:
        """Raise DataError with all problems, unless they may be skipped; and if there are no rows."""
        require_rows(len(self.rows), self.problems, skip_problems=skip_problems)

    def summary(self) -> str:
        """`12 rows of 3 classes in 2 recordings, 45.2 s labelled`, without rows that run to the end of a recording."""
        classes = {annotation.label for _, annotation in self.rows}
        recordings = {path for path, _ in self.rows}
        lengths = [row.end - (row.start or 0) for _, row in self.rows if row.end is not None]
        to_the_end = len(self.rows) - len(lengths)
        return (
            f"{count(len(self.rows), 'row')} of {count(len(classes), 'class', 'classes')} in "
            f"{count(len(recordings), 'recording')}, {sum(lengths):,.1f} s labelled"
            f"{f', and {to_the_end:,} to the end of the recording' if to_the_end else ''}"
        )


def require_rows(rows: int, problems: Sequence[str], *, skip_problems: bool) -> None:
    """Raise DataError with all problems, unless they may be skipped; and if there are no rows."""
    if problems and not skip_problems:
        hint = "nothing was written; correct this, or leave these out with --on-error skip"
        raise DataError("\n".join([f"{count(len(problems), 'problem')}:", *problems, hint]))
    if not rows:
        raise DataError("\n".join([*problems, "there are no annotations in these files"]))


def import_annotations(
    files: Sequence[Path], options: ImportOptions, *, progress: Callable[[int, int], None] | None = None
) -> Imported:
    """The rows of all files. `progress` is called with (videos whose frames were timed, such videos).

    What is wrong with single entries or files is in `problems`. Raises DataError for a tier that no file has, or if
    the folder of videos does not exist.
    """
    problems: list[str] = []
    videos = None if options.videos is None else VideoFolder.scan(options.videos)
    contents = _read_all(files, options, problems)
    _check_tier(contents, options.tier)
    if videos is not None and videos.only is not None:
        _check_one_video(contents, options.tier)
    found: list[_Found] = []
    notes: list[str] = []
    for source, content in contents.items():
        selected = _selected(content, options.tier)
        notes += [f"{source}: {shorten_text(note)}" for note in [*content.notes, *_note_of_tiers(content, selected)]]
        problems += list_problems(source, content.problems)
        found_in_file, missing = _find_videos(source, selected, videos)
        found += found_in_file
        problems += missing
    times = _frame_times(found, options, problems, progress)
    rows, unusable = _rows(found, options, times)
    return Imported(_without_repeats(rows), [*problems, *unusable], notes)


def _read_all(files: Iterable[Path], options: ImportOptions, problems: list[str]) -> dict[Path, AnnotationFile]:
    contents = {}
    for source in files:
        try:
            contents[source] = read_document(open_document(source), options.kind)
        except DataError as error:
            problems.append(str(error))
    return contents


def list_problems(source: Path, problems: Sequence[str]) -> list[str]:
    """The problems of a file with its name, the number of those above a limit instead of them."""
    listed = [f"{source}: {shorten_text(problem)}" for problem in problems[:MAX_PROBLEMS]]
    more = len(problems) - MAX_PROBLEMS
    return [*listed, f"{source}: {count(more, 'more problem')} of this kind"] if more > 0 else listed


def _tiers(content: AnnotationFile) -> list[str]:
    return list(dict.fromkeys(annotation.tier for annotation in content.rows if annotation.tier))


def _check_tier(contents: dict[Path, AnnotationFile], tier: str | None) -> None:
    if tier is None or not contents:
        return
    tiers = list(dict.fromkeys(name for content in contents.values() for name in _tiers(content)))
    if tier not in tiers:
        listed = (
            f"; there are {shorten_text(shorten_list(tiers, limit=20))}" if tiers else "; these files have no tiers"
        )
        raise DataError(f"there is no tier {tier!r}{listed}")


def _selected(content: AnnotationFile, tier: str | None) -> list[Annotation]:
    wanted = content.default_tiers if tier is None else frozenset([tier])
    return [annotation for annotation in content.rows if wanted is None or annotation.tier in wanted]


def _check_one_video(contents: Mapping[Path, AnnotationFile], tier: str | None) -> None:
    names = sorted({row.video for content in contents.values() for row in _selected(content, tier)})
    if len(names) > 1:
        listed = shorten_text(shorten_list(names))
        raise DataError(
            f"--videos is one file, but the annotations are of {len(names)} videos ({listed}); give a folder"
        )


def _note_of_tiers(content: AnnotationFile, selected: Sequence[Annotation]) -> list[str]:
    """Which tiers there are, if several; so that nobody takes all where one is meant."""
    tiers = _tiers(content)
    if len(tiers) < 2:
        return []
    taken = {annotation.tier for annotation in selected}
    marked = [f"{tier} (read)" if tier in taken else tier for tier in tiers]
    listed = shorten_list(tiers if len(taken) == len(tiers) else marked, limit=8)
    return [f"{len(tiers)} tiers: {listed}; --tier selects one"]


def _find_videos(
    source: Path, annotations: Sequence[Annotation], videos: VideoFolder | None
) -> tuple[list[_Found], list[str]]:
    """The annotations whose videos are found, and messages about the other videos."""
    numbers = Counter(annotation.video for annotation in annotations)
    places = videos or (VideoFolder.scan(source.parent, subfolders=False) if numbers else None)
    paths: dict[str, Path] = {}
    problems: list[str] = []
    for name, number in numbers.items():
        assert places is not None
        try:
            paths[name] = video_at_its_path(name, source, videos) or places.find(
                name, suggest=len(problems) < MAX_PROBLEMS
            )
        except DataError as error:
            hint = "" if videos else "; --videos names the folder of the videos"
            problems.append(f"video “{shorten_text(name)}” ({count(number, 'row')}): {error}{hint}")
    found = [_Found(source, row, paths[row.video]) for row in annotations if row.video in paths]
    return found, list_problems(source, problems)


def shorten_text(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"


def _counts_frames(found: _Found, options: ImportOptions) -> bool:
    """Whether the times of the video's frames are needed."""
    return found.annotation.frames is not None and (options.fps or found.annotation.fps) is None


def _frame_times(
    found: Sequence[_Found],
    options: ImportOptions,
    problems: list[str],
    progress: Callable[[int, int], None] | None,
) -> dict[Path, np.ndarray]:
    """The times (N,) of the frames of each video whose annotations count frames."""
    paths = list(dict.fromkeys(each.path for each in found if _counts_frames(each, options)))
    times = {}
    for number, path in enumerate(paths, 1):
        try:
            times[path] = times_of_frames(path)
        except VideoError as error:
            problems.append(str(error))
        if progress is not None:
            progress(number, len(paths))
    return times


def _rows(
    found: Sequence[_Found], options: ImportOptions, times: Mapping[Path, np.ndarray]
) -> tuple[list[tuple[Path, Annotation]], list[str]]:
    """Annotations with start and end in seconds, and messages about those that cannot be used."""
    rows: list[tuple[Path, Annotation]] = []
    unusable: dict[Path, list[str]] = defaultdict(list)
    for each in found:
        if _counts_frames(each, options) and each.path not in times:
            continue
        row, label = each.annotation, each.annotation.label.strip()
        if options.fps is not None or label != row.label:
            row = replace(row, label=label, fps=options.fps or row.fps)
        try:
            row = in_seconds(row, each.path, times.get(each.path))
            if problem := problem_of(row):
                raise DataError(problem)
            rows.append((each.path, widened(row, options.point_seconds)))
        except DataError as error:
            unusable[each.source].append(f"{row.where}: {error}")
    return rows, [line for source, problems in unusable.items() for line in list_problems(source, problems)]


def _without_repeats(rows: Sequence[tuple[Path, Annotation]]) -> list[tuple[Path, Annotation]]:
    """The rows without those that two tiers or files give alike: same video, class and times."""
    unique = {(path, row.label, row.start, row.end): (path, row) for path, row in reversed(rows)}
    return list(reversed(unique.values()))


def write_manifest(imported: Imported, out: Path) -> None:
    """Write path,label,start,end[,group][,split][,subject][,score]; paths are relative to the file below its folder."""
    check_writable(out)
    optional = [
        name for name in OPTIONAL_COLUMNS if any(getattr(row, name) not in ("", None) for _, row in imported.rows)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "start", "end", *optional])
        for path, row in imported.rows:
            times = ["" if seconds is None else seconds_text(seconds) for seconds in (row.start, row.end)]
            extra = [getattr(row, name) if getattr(row, name) is not None else "" for name in optional]
            writer.writerow([path_from_folder(path, out.parent), row.label, *times, *extra])


def path_from_folder(path: Path, folder: Path) -> Path:
    """The path from a folder, up to three folders above it; else the absolute path."""
    relative = Path(os.path.relpath(path.absolute(), folder.absolute()))
    return path.absolute() if relative.parts[:4] == ("..",) * 4 else relative
