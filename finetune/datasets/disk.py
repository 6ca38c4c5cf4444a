"""Write to disk safely: check the free space first, and leave no partial file under its final name."""

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.storage.atomic import atomic_file


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise FinetuneError where the disk of the existing `folder` has less free space."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise FinetuneError(
            f"{folder}: {needed_bytes:,} bytes are needed and {free_bytes:,} are free; free some space, and try again"
        )


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """An empty folder for this block, deleted afterwards; remains of a killed run are deleted first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows, at least one, under a header of the first one's keys; replaces an earlier file atomically."""
    try:
        with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise FinetuneError(
            f"{path}: cannot be written: {error.strerror}; "
            "if you cannot write to the folder of the clips, link it into one that you can write to"
        ) from error
