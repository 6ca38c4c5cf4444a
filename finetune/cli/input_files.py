"""The files that a command reads: those of its arguments, and counts of files that are done and that are unreadable."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from finetune.errors import DataError, RunError, VideoError
from finetune.text import count


class FileCounts:
    """Counts the files that are done, and those that cannot be read, which are named on stderr."""

    def __init__(self, on_error: Literal["skip", "fail"] = "skip") -> None:
        self.on_error = on_error
        self.done = self.skipped = 0

    @contextmanager
    def count_file(self) -> Iterator[None]:
        """The block handles one file. Its VideoError counts the file as skipped, and is raised with `fail`."""
        try:
            yield
            self.done += 1
        except VideoError as error:
            if self.on_error == "fail":
                raise
            self.skipped += 1
            print(f"finetune: {error}", file=sys.stderr)

    def require_done(self) -> None:
        """Raises DataError where no file can be read."""
        if not self.done:
            many = self.skipped > 1
            raise DataError(f"none of {self.skipped} files can be read" if many else "the file cannot be read")


@contextmanager
def count_predicted_files(on_error: Literal["skip", "fail"]) -> Iterator[FileCounts]:
    """The counts of a block that predicts files and writes each at once; at Ctrl-C, prints how many are complete.

    Raises DataError where no file can be read.
    """
    counts = FileCounts(on_error)
    try:
        yield counts
    except KeyboardInterrupt:
        print(f"Stopped; predictions of {count(counts.done, 'file')} are complete", file=sys.stderr)
        raise
    counts.require_done()


def check_inputs(paths: Sequence[Path]) -> None:
    """Raises DataError where no path exists: before torch is imported, which takes seconds."""
    if not any(path.exists() for path in paths):
        raise DataError("\n".join(f"{path}: there is no such file" for path in paths))


def find_videos(paths: Sequence[Path], *, image_sequences: bool = True) -> list[Path]:
    """The videos of files and folders. Raises DataError with all paths that do not exist."""
    from finetune.data.read import find_media

    if missing := [path for path in paths if not path.exists()]:
        raise DataError("\n".join(f"{path}: there is no such file" for path in missing))
    return [video for path in paths for video in find_media(path, image_sequences=image_sequences)]


def find_recordings(paths: Sequence[Path], *, image_sequences: bool = True) -> list[Path]:
    """The files in which objects are detected. Raises RunError for a CSV."""
    from finetune.data.read import find_media
    from finetune.data.tables import is_table

    if tables := [path for path in paths if is_table(path)]:
        raise RunError(f"{tables[0]}: objects are predicted in whole recordings, not in the rows of a CSV")
    return [file for path in paths for file in find_media(path, image_sequences=image_sequences)]
