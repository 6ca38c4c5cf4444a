"""What a manifest is read from: the columns of a CSV, or folders of videos."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import DataError, nearest, some
from finetune.folder_walk import OWN, reason_to_pass_over, summary, walk_files
from finetune.numbered_images import clips_of, is_media

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

UNCLEAR_IMAGES = (
    "put the frames of each video into a folder of their own and all else elsewhere, or take each image by itself "
    "with data.image_sequences=false (predict: --no-image-sequences)"
)


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
        kept["group"] = [group or path for group, path in zip(kept["group"], kept["path"], strict=True)]
    return kept


def _plain(reader: csv.DictReader) -> Iterable[dict]:
    for record in reader:
        record.pop(None, None)  # surplus fields have no column
        yield record


def _advice(source: Path) -> str:
    return "; `finetune data quickstart` draws it" if "quickstart" in source.parts else ""


@dataclass(frozen=True)
class FolderScan:
    """Labelled clips of a folder, one item a clip; `splits` is None where its folders are no splits.

    `loose` are files in no class's folder, `passed_over` counts what else was not taken, by reason, and `problems` are
    what training refuses, each by a word for programs.
    """

    files: list[Path]
    labels: list[str]
    splits: list[str] | None
    loose: list[Path]
    passed_over: Mapping[str, int]
    problems: dict[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is told before training."""
        loose = {"in no class's folder": len(self.loose)} if self.loose else {}
        odd = [] if self.splits else sorted({label for label in self.labels if label.casefold() in SPLIT_NAMES})
        classes = [f"the folder “{name}” is read as a class, not as a split" for name in odd]
        return tuple(filter(None, [summary({**loose, **self.passed_over}), *classes]))


def scan_folder(source: Path, *, image_sequences: bool = True) -> FolderScan:
    """The clips of `<class>/*` or `<split>/<class>/*`, with their labels and splits. Raises DataError for no folder.

    A clip is a file or, with `image_sequences`, a folder of numbered images below that of its class.
    """
    if not source.is_dir():
        raise DataError(f"there is no folder {str(source)!r}")
    folders = subfolders(source)
    problem = _problem_with_layout(source, folders)
    has_splits = not problem and bool(folders) and all(split_of(folder) for folder in folders)
    parts = [(split_of(top), inner) for top in folders for inner in subfolders(top)] if has_splits else []
    parts = parts or [("", folder) for folder in folders if not problem]
    files, labels, splits, empty, unclear = [], [], [], [], []
    passed_over: Counter[str] = Counter()
    for split, folder in parts:
        found, others = media_below(folder)
        passed_over.update(others)
        if image_sequences:
            found, more = clips_of(found, apart={folder})
            unclear += more
        empty += [] if found else [str(folder.relative_to(source))]
        files += found
        labels += [folder.name.strip()] * len(found)
        splits += [split] * len(found)
    loose = _loose_files(source, folders if has_splits else [], passed_over) if parts or not folders else []
    problems = (
        {"layout": problem} if problem else {"empty_class": f"no video or image in {some(empty)}"} if empty else {}
    )
    if unclear:
        problems["unclear_images"] = f"{some(unclear)}; {UNCLEAR_IMAGES}"
    return FolderScan(files, labels, splits if has_splits else None, loose, passed_over, problems)


def split_of(folder: Path) -> str:
    """The split that a folder is named as, or an empty text."""
    return SPLIT_NAMES.get(folder.name.strip().casefold(), "")


def _problem_with_layout(source: Path, folders: Sequence[Path]) -> str:
    """Why the folders below can be neither all classes nor all splits; an empty text where they can."""
    if not folders:
        return "holds no folders; put each class's videos into a folder named as the class"
    splits = [folder for folder in folders if split_of(folder)]
    others = [folder for folder in folders if not split_of(folder)]
    names, extra = some([folder.name for folder in splits]), some([folder.name for folder in others])
    if not others:
        bare = [folder.name for folder in splits if not subfolders(folder)]
        hint = "a split holds a folder for each class, with the class's videos in it; fill the split, or remove it"
        return f"no class's folder in {some(bare)}: {hint}" if bare else ""
    if splits and (len(splits) > 1 or not _holds_media(splits[0])):
        return (
            f"{names} {'are splits' if len(splits) > 1 else 'is a split'} by name, and {extra} beside "
            f"{'them' if len(splits) > 1 else 'it'} is none: move {extra} elsewhere or into a split; or, where all "
            "of them are classes, list the files in a CSV with path,label"
        )
    within = [inner for folder in others for inner in subfolders(folder)]
    if not splits and within and all(map(split_of, within)) and not any(map(_holds_media, folders)):
        mend = f"put the classes into the splits, as {within[0].name}/{within[0].parent.name}"
        if len(others) == 1:
            mend = f"take {others[0]}, if that is where the classes are in their splits"
        return f"the splits {some(sorted({folder.name for folder in within}))} are within {extra}; {mend}"
    return ""


def media_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Videos and images below a folder, sorted, and how many other entries there are, by why they are passed over."""
    files, passed_over = walk_files(folder)
    found = [file for file in files if is_media(file.name)]
    passed_over.update(map(_no_media, filter(lambda file: not is_media(file.name), files)))
    return found, passed_over


def _loose_files(source: Path, splits: Sequence[Path], passed_over: Counter[str]) -> list[Path]:
    """Videos and images directly in the source, or in its splits; what else is there is counted."""
    loose = []
    for folder in (source, *splits):
        for entry in sorted(folder.iterdir()):
            reason = reason_to_pass_over(entry)
            if reason or entry.is_dir():
                passed_over.update([reason] if reason not in ("", OWN) else [])
            elif is_media(entry.name):
                loose.append(entry)
            else:
                passed_over[_no_media(entry)] += 1
    return loose


def find_media(path: Path, *, image_sequences: bool = True) -> list[Path]:
    """The path itself, or, for a folder, the clips within it, sorted: files and folders of numbered images.

    Without `image_sequences` each image is a clip. Raises DataError for none, and for folders that are unclear.
    """
    if not path.is_dir():
        return [path]
    found = media_below(path)[0]
    if not found:
        raise DataError(f"{path}: no video or image in this folder")
    clips, unclear = clips_of(found) if image_sequences else (found, [])
    if unclear:
        raise DataError(f"{some(unclear)}; {UNCLEAR_IMAGES}")
    return clips


def subfolders(source: Path) -> list[Path]:
    """Folders directly in a folder, without hidden ones and those of devices."""
    return sorted(folder for folder in source.iterdir() if folder.is_dir() and not reason_to_pass_over(folder))


def _holds_media(folder: Path) -> bool:
    return any(is_media(entry.name) and entry.is_file() for entry in folder.iterdir())


def _no_media(file: Path) -> str:
    ending = file.suffix if file.suffix.isprintable() else "odd ending"
    return f"no video or image by its name ({ending or 'no ending'})"


def groups_from(files: Sequence[Path], pattern: str | None) -> list[str] | None:
    if pattern is None:
        return None
    found = [re.search(pattern, file.as_posix()) for file in files]
    missed = [str(file) for file, match in zip(files, found, strict=True) if match is None]
    if missed:
        raise DataError(f"data.group_pattern {pattern!r} finds no group in {some(missed)}")
    return [match.group(1) for match in found if match]
