"""What a manifest is read from: the columns of a CSV, or folders of videos."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from finetune.errors import DataError, nearest, some
from finetune.numbered_images import clips_of, is_media

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_table(source: Path) -> dict[str, list[str]]:
    """Every named column of a CSV file, a text a row. Raises DataError when it cannot be read."""
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [(name or "").strip() for name in reader.fieldnames or []]
            records = [[(value or "").strip() for value in record.values()][: len(names)] for record in _plain(reader)]
    except FileNotFoundError:
        raise DataError(f"there is no manifest {str(source)!r}{_advice(source)}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: cannot be read as a UTF-8 CSV file: {error}") from None
    return {name: [record[names.index(name)] for record in records] for name in names if name}


def read_csv(source: Path, *, labels: str) -> dict[str, list[str]]:
    """Columns path, label and, when the file has them filled in, split and group.

    Rows have `one` label, or `several`, or none; those `of tasks` are in whichever columns, which are given too.
    """
    table = read_table(source)
    missing = [name for name in ("path", "label")[: 1 if labels == "of tasks" else 2] if name not in table]
    if missing:
        hints = "".join(nearest(name, table) for name in missing)
        raise DataError(f"{source}: no column {' and no column '.join(missing)}{hints}; it has {', '.join(table)}")
    if not table["path"]:
        raise DataError(f"{source}: holds a header and no rows")
    for name in ("path", "label") if labels == "one" else ("path",):
        empty = [number for number, value in enumerate(table[name], start=2) if not value]
        if empty:
            raise DataError(f"{source}: no {name} in line {some(empty)}")
    ours = {"path", "label", "split", "group"}
    kept = {name: values for name, values in table.items() if name in ours or labels == "of tasks"}
    for name in ("split", "group"):
        if name in kept and not any(kept[name]):
            del kept[name]
    if "group" in kept:  # a row without a group is a group of its own
        kept["group"] = [group or f"row {row}" for row, group in enumerate(kept["group"])]
    return kept


def _plain(reader: csv.DictReader) -> Iterable[dict]:
    for record in reader:
        record.pop(None, None)  # surplus fields have no column
        yield record


def _advice(source: Path) -> str:
    return "; `finetune data quickstart` draws it" if "quickstart" in source.parts else ""


def scan_folder(source: Path, *, image_sequences: bool = True) -> tuple[list[Path], list[str], list[str] | None]:
    """Clips, their class and, when the folders below are splits, their split.

    A clip is a file or, with `image_sequences`, a folder of numbered images below that of its class.
    """
    if not source.is_dir():
        raise DataError(f"there is no folder {str(source)!r}")
    top = _folders(source)
    if not top:
        raise DataError(f"{source}: holds no folders; put each class's videos into a folder named as the class")
    has_splits = all(folder.name.lower() in SPLIT_NAMES for folder in top)
    parts = [(folder.name, inner) for folder in top for inner in _folders(folder)] if has_splits else None
    files, labels, splits, empty = [], [], [], []
    for split, folder in parts or [("", folder) for folder in top]:
        found = sorted(file for file in folder.rglob("*") if _is_media(file.relative_to(source)) and file.is_file())
        found = found if not image_sequences else as_clips(found, apart={folder})
        empty += [] if found else [str(folder.relative_to(source))]
        files += found
        labels += [folder.name] * len(found)
        splits += [split.lower()] * len(found)
    if empty or not files:
        raise DataError(f"{source}: no video or image in {some(empty) or 'any folder'}")
    return files, labels, splits if has_splits else None


def find_media(path: Path, *, image_sequences: bool = True) -> list[Path]:
    """The path itself, or, for a folder, the clips within it, sorted: files and folders of numbered images.

    Without `image_sequences` each image is a clip. Raises DataError for none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if _is_media(file.relative_to(path)) and file.is_file())
    if not found:
        raise DataError(f"{path}: no video or image in this folder")
    return as_clips(found) if image_sequences else found


def as_clips(files: Sequence[Path], *, apart: Collection[Path] = ()) -> list[Path]:
    """Files with the images of each image sequence replaced by their folder; see `clips_of`. Raises DataError."""
    clips, unclear = clips_of(files, apart=apart)
    if unclear:
        raise DataError(
            "\n".join(unclear) + "\nput the frames of each video into a folder of their own and all else elsewhere, "
            "or take each image by itself with data.image_sequences=false"
        )
    return clips


def _folders(source: Path) -> list[Path]:
    return sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _is_media(path: Path) -> bool:
    return is_media(path.name) and not any(part.startswith(".") for part in path.parts)


def groups_from(files: Sequence[Path], pattern: str | None) -> list[str] | None:
    if pattern is None:
        return None
    found = [re.search(pattern, file.as_posix()) for file in files]
    missed = [str(file) for file, match in zip(files, found, strict=True) if match is None]
    if missed:
        raise DataError(f"data.group_pattern {pattern!r} finds no group in {some(missed)}")
    return [match.group(1) for match in found if match]
