"""The files that `finetune summarize` writes: videos, storyboards, the page, the list of parts and annotations."""

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.annotations.format_names import ExportFormat
from finetune.errors import DataError, RunError
from finetune.storage.atomic import atomic_file, check_writable
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.summaries.summary import Summary
from finetune.text import spreadsheet_row

if TYPE_CHECKING:
    from finetune.report.pages.summary import SummaryFiles
    from finetune.video.cut.write import CutVideo

PARTS_FILE, PAGE_FILE = "parts.csv", "summary.html"
COLUMNS = ("path", "start", "end", "label", "score", "frame")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv")
NO_CLASS = "summary"  # in annotation files: the class of a part that is no event
MAX_PAGE_PICTURES = 400  # recordings after these have no pictures on the page; their storyboards have
Show = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class SummaryOptions:
    """What is written into the folder `out`: `videos`, cut with `exact` or not, and annotations in the format `to`.

    `image_rate` is that of recordings that are folders of numbered images, in images per second.
    """

    out: Path
    videos: bool = True
    exact: bool = False
    to: ExportFormat | None = None
    image_rate: float = DEFAULT_IMAGE_FPS


@dataclass
class SummaryWriter:
    """Writes the files of recordings as they are summarised, and those of all of them at the end."""

    options: SummaryOptions
    stems: dict[Path, Path]  # path below the output folder, without suffix, of each recording's files
    files: list["SummaryFiles"] = field(default_factory=list)
    pictures: int = 0  # on the page

    def write_recording(self, summary: Summary, show: Show) -> list[Path]:
        """Write the storyboard and the video of a recording; returns their paths. Raises VideoError and RunError."""
        from finetune.report.pages.summary import SummaryFiles
        from finetune.summaries.storyboard import part_pictures, write_storyboard
        from finetune.video.encode import encode_jpeg

        stem = self.options.out / self.stems[summary.path]
        pictures = part_pictures(summary)
        video = None if summary.is_storyboard or not self.options.videos else self._cut(summary, stem, show)
        storyboard = stem.with_name(f"{stem.name}-storyboard.png")
        try:
            storyboard.parent.mkdir(parents=True, exist_ok=True)
            write_storyboard(storyboard, summary, pictures)
        except OSError as error:
            raise RunError(f"{storyboard}: cannot be written: {error.strerror}") from None
        on_page = pictures if self.pictures + len(pictures) <= MAX_PAGE_PICTURES else {}
        self.pictures += len(on_page)
        jpegs = {part: encode_jpeg(picture_HWC.transpose(2, 0, 1)) for part, picture_HWC in on_page.items()}
        cut = "" if video is None else f"The video was {_how(video)}."
        self.files.append(SummaryFiles(jpegs, storyboard, None if video is None else video.path, cut))
        return [*([] if video is None else [video.path]), storyboard]

    def write_all(self, summaries: Sequence[Summary]) -> list[Path]:
        """Write the list of parts, the page, and annotations; returns their paths. Raises RunError."""
        from finetune.report.pages.summary import write_summary_page

        parts, page = self.options.out / PARTS_FILE, self.options.out / PAGE_FILE
        try:
            self.options.out.mkdir(parents=True, exist_ok=True)
            _write_parts(parts, summaries)
        except OSError as error:
            raise RunError(f"{parts}: cannot be written: {error.strerror}") from None
        write_summary_page(summaries, self.files, path=page)
        return [page, parts, *self._annotations(summaries)]

    def _cut(self, summary: Summary, stem: Path, show: Show) -> "CutVideo":
        from finetune.video.cut.write import cut_video

        def progress(done: int, total: int) -> None:
            show("cutting, frames", done, total)

        target = stem.with_name(f"{stem.name}-summary")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{target.parent}: cannot be written: {error.strerror}") from None
        times = [(part.start, part.end) for part in summary.parts]
        options = self.options
        video = cut_video(
            summary.path, times, target, exact=options.exact, image_rate=options.image_rate, progress=progress
        )
        if video.longer > 0.05 or not video.is_copy:
            print(f"{video.path}: {_how(video)}", file=sys.stderr)
        return video

    def _annotations(self, summaries: Sequence[Summary]) -> Sequence[Path]:
        from finetune.annotations.annotation import Annotation
        from finetune.annotations.export_files import export_events
        from finetune.annotations.import_files import Imported

        path = annotations_path(self.options)
        if path is None or self.options.to is None:
            return []
        rows = [
            (
                summary.path,
                Annotation(str(summary.path), part.label or NO_CLASS, part.start, part.end, score=part.score),
            )
            for summary in summaries
            for part in summary.parts
        ]
        exported = export_events(Imported(rows, (), ()), self.options.to, path)
        for note in exported.notes:
            print(f"note: {note}", file=sys.stderr)
        return exported.files


def open_writer(options: SummaryOptions, videos: Sequence[Path]) -> SummaryWriter:
    """Checks, before the work, that the files can be written. Raises RunError and DataError."""
    check_writable(options.out / PARTS_FILE)
    stems = output_stems(videos)
    sources = {video.resolve() for video in videos}
    for video, stem in stems.items():
        for suffix in VIDEO_SUFFIXES:
            target = options.out / stem.with_name(f"{stem.name}-summary{suffix}")
            if target.resolve() in sources:
                raise RunError(f"{target}: is one of the recordings, and the video of {video} would replace it")
    annotations = annotations_path(options)
    if annotations is not None and annotations.exists():
        raise DataError(f"{annotations} exists already, and may hold corrections; give another --out, or remove it")
    return SummaryWriter(options, stems)


def annotations_path(options: SummaryOptions) -> Path | None:
    """The file or folder of annotations; None where none were asked for."""
    if options.to is None:
        return None
    from finetune.annotations.export_files import default_output

    return default_output(options.out / PARTS_FILE, options.to)


def output_stems(videos: Sequence[Path]) -> dict[Path, Path]:
    """The path of each recording's files below the output folder, without suffix: its name, if no other has it.

    Else its path below the folder that all share, and with its own suffix where that is not enough. Names that differ
    in upper and lower case alone are one name on some disks.
    """
    top = Path(os.path.commonpath([video.absolute().parent for video in videos])) if videos else Path()
    below = {video: video.absolute().relative_to(top) for video in videos}
    levels = (
        {video: Path(path.stem) for video, path in below.items()},
        {video: path.with_suffix("") for video, path in below.items()},
        below,
    )
    return next((level for level in levels if _are_unique(level.values())), below)


def _are_unique(paths: Iterable[Path]) -> bool:
    counts = Counter(str(path).casefold() for path in paths)
    return max(counts.values(), default=1) == 1


def _how(video: "CutVideo") -> str:
    if not video.is_copy:
        return f"encoded anew: {video.reason}"
    longer = f"; it is {video.longer:.1f} s longer, as its parts begin at keyframes" if video.longer > 0.05 else ""
    return f"cut without encoding{longer}"


def _write_parts(path: Path, summaries: Sequence[Summary]) -> None:
    """One row for each part; times in seconds, and the number of the frame that is its picture.

    Paths are absolute, as those of a manifest are relative to its own folder.
    """
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for summary in summaries:
            for part in summary.parts:
                times = [f"{time:.3f}" for time in (part.start, part.end)]
                row = [summary.path.absolute(), *times, part.label or "", f"{part.score:.4f}", part.frame]
                writer.writerow(spreadsheet_row(row))
