"""Write to the disk so that what is there is whole: room is asked for first, and the name is given last."""

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.storage.atomic import atomic_file


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise FinetuneError where the disk of `folder`, which exists, has less room than that."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise FinetuneError(
            f"{folder}: {needed_bytes:,} bytes are needed and {free_bytes:,} are free; make room, try again"
        )


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards; what a killed run left of it goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write at least one row, under a header of its keys. An earlier file stays until all is written."""
    try:
        with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise FinetuneError(
            f"{path}: cannot be written: {error.strerror}; "
            "if the clips lie in a folder that is not yours to write to, "
            "link it into one that is"
        ) from error
