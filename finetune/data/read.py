"""What a manifest is read from: the columns of a CSV, or folders of videos."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.tables import Table, read_table
from finetune.data.valid_names import escape_invisible
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.storage.folder_walk import OWN_FILE_REASON, skip_reason, summarize_skipped, walk_files
from finetune.storage.numbered_images import group_into_clips, is_media

SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
COLUMN_ALIASES = {  # what people call the columns
    "path": ("file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "clip"),
    "label": ("class", "class_name", "category", "target", "action"),
}

UNCLEAR_IMAGES = (
    "put the frames of each video into a folder of their own and all else elsewhere, or take each image by itself "
    "with data.image_sequences=false (predict: --no-image-sequences)"
)


def read_csv(source: Path, *, labels: str) -> Table:
    """The table of a manifest, once it has a path in every row, and a label where rows have `one`.

    Rows have `one` label, or `several`, or none; those `of tasks` are in whichever columns.
    """
    table = read_table(source)
    needed = ("path", "label")[: 1 if labels == "of tasks" else 2]
    if missing := [name for name in needed if name not in table]:
        raise DataError(f"{source}: {missing_columns_advice(table, missing)}")
    if not table["path"]:
        raise DataError(f"{source}: holds a header and no rows")
    for name in ("path", "label") if labels == "one" else ("path",):
        empty = [line for line, value in zip(table.lines, table[name], strict=True) if not value]
        if empty:
            raise DataError(f"{source}: no {name} in line {shorten_list(empty)}")
    return table


def missing_columns_advice(table: Table, missing: Sequence[str]) -> str:
    """What to do about columns that a table lacks."""
    what = f"no column {' and no column '.join(missing)}"
    if "path" in missing and any(is_media(name) for name in table.names):
        return f"{what}; the first line looks like a row: add a header line above it, such as path,label"
    synonyms = [
        f"rename {name} to {wanted}"
        for wanted in missing
        for name in table.names
        if name.casefold().replace(" ", "_") in COLUMN_ALIASES.get(wanted, ())
    ]
    hints = (
        f"; {' and '.join(synonyms)}"
        if synonyms
        else escape_invisible("".join(suggest_similar(name, table) for name in missing))
    )
    return f"{what}{hints}; it has {', '.join(map(escape_invisible, table.names))}"


def check_files_exist(source: Path, files: Sequence[Path]) -> None:
    """Raise DataError with the files of a manifest that are not there."""
    missing = [file for file in files if not (file.is_file() or file.is_dir())]
    if missing:
        names = shorten_list([escape_invisible(str(file)) for file in missing])
        hint = "; write / instead of \\ in paths" if any("\\" in file.name for file in missing) else ""
        raise DataError(f"{source}: {len(missing)} of {len(files)} files are not there: {names}{hint}")


def read_groups(table: Table) -> list[str] | None:
    """The column group; a row without one is in the group of its file."""
    groups = table.filled("group")
    return None if groups is None else [group or path for group, path in zip(groups, table["path"], strict=True)]


@dataclass(frozen=True)
class FolderScan:
    """Labelled clips of a folder, one item a clip; `splits` is None where its folders are no splits.

    `misplaced_files` are videos outside every class folder. `skip_counts` counts other skipped files by reason.
    `problems` maps a kind, for programs, to the message of what training refuses.
    """

    files: list[Path]
    labels: list[str]
    splits: list[str] | None
    misplaced_files: list[Path]
    skip_counts: Mapping[str, int]
    problems: dict[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is told before training."""
        misplaced = {"outside any class folder": len(self.misplaced_files)} if self.misplaced_files else {}
        odd = [] if self.splits else sorted({label for label in self.labels if label.casefold() in SPLIT_ALIASES})
        classes = [f"the folder “{name}” is read as a class, not as a split" for name in odd]
        return tuple(filter(None, [summarize_skipped({**misplaced, **self.skip_counts}), *classes]))


def scan_folder(source: Path, *, image_sequences: bool = True) -> FolderScan:
    """The clips of `<class>/*` or `<split>/<class>/*`, with their labels and splits. Raises DataError for no folder.

    A clip is a file or, with `image_sequences`, a folder of numbered images below that of its class.
    """
    if not source.is_dir():
        hint = "; it is a file: use data.manifest for a CSV" if source.is_file() else ""
        raise DataError(f"there is no folder {str(source)!r}{hint}")
    folders = subfolders(source)
    problem = _problem_with_layout(source, folders)
    has_splits = not problem and bool(folders) and all(split_from_folder(folder) for folder in folders)
    parts = [(split_from_folder(top), inner) for top in folders for inner in subfolders(top)] if has_splits else []
    parts = parts or [("", folder) for folder in folders if not problem]
    files, labels, splits, empty, unclear = [], [], [], [], []
    skip_counts: Counter[str] = Counter()
    for split, folder in parts:
        found, others = list_media(folder)
        skip_counts.update(others)
        if image_sequences:
            found, more = group_into_clips(found, apart={folder})
            unclear += more
        empty += [] if found else [str(folder.relative_to(source))]
        files += found
        labels += [folder.name.strip()] * len(found)
        splits += [split] * len(found)
    misplaced = _misplaced_files(source, folders if has_splits else [], skip_counts) if parts or not folders else []
    problems = (
        {"layout": problem}
        if problem
        else {"empty_class": f"no video or image in {shorten_list(empty)}"}
        if empty
        else {}
    )
    if unclear:
        problems["unclear_images"] = f"{shorten_list(unclear, limit=2)}; {UNCLEAR_IMAGES}"
    return FolderScan(files, labels, splits if has_splits else None, misplaced, skip_counts, problems)


def split_from_folder(folder: Path) -> str:
    """The split that a folder is named as, or an empty text."""
    return SPLIT_ALIASES.get(folder.name.strip().casefold(), "")


def _split_words(folder: Path) -> set[str]:
    """The splits that are words of a folder's name: train of training_set."""
    return {SPLIT_ALIASES[word] for word in re.findall("[a-z]+", folder.name.casefold()) if word in SPLIT_ALIASES}


def _problem_with_layout(source: Path, folders: Sequence[Path]) -> str:
    """What is wrong with folders that are neither all classes nor all splits; an empty text for nothing."""
    if not folders:
        return "holds no folders; put each class's videos into a folder named as the class"
    splits = [folder for folder in folders if split_from_folder(folder)]
    others = [folder for folder in folders if not split_from_folder(folder)]
    names, extra = shorten_list([folder.name for folder in splits]), shorten_list([folder.name for folder in others])
    if not others:
        bare = [folder.name for folder in splits if not subfolders(folder)]
        todo = "put each class's videos into <split>/<class>/, or remove the folder"
        return f"no class folders in {shorten_list(bare)}: {todo}" if bare else ""
    if splits and (len(splits) > 1 or not _holds_media(splits[0])):
        return (
            f"folders of splits ({names}) beside other folders ({extra}): move {extra} elsewhere or into a split; "
            "if all of them are classes, list the files in a CSV with path,label instead"
        )
    like_splits = [_split_words(folder) for folder in others]
    if not splits and all(like_splits) and len(set.union(*like_splits)) > 1:
        return f"folders named almost as splits ({extra}): name them train, val and test, or list the files in a CSV"
    within = [inner for folder in others for inner in subfolders(folder)]
    if not splits and within and all(map(split_from_folder, within)) and not any(map(_holds_media, folders)):
        todo = f"put the splits first, as {within[0].name}/{within[0].parent.name}"
        if len(others) == 1:
            todo = f"use data.folder={others[0]} if the splits hold folders of classes"
        return f"folders of splits ({shorten_list(sorted({folder.name for folder in within}))}) within {extra}: {todo}"
    return ""


def list_media(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Videos and images below a folder, sorted, and how many other entries there are, by why they are passed over."""
    files, skip_counts = walk_files(folder)
    found = [file for file in files if is_media(file.name)]
    skip_counts.update(map(_no_media, filter(lambda file: not is_media(file.name), files)))
    return found, skip_counts


def _misplaced_files(source: Path, splits: Sequence[Path], skip_counts: Counter[str]) -> list[Path]:
    """Videos and images directly in the source, or in its splits; what else is there is counted."""
    misplaced = []
    for folder in (source, *splits):
        for entry in sorted(folder.iterdir()):
            reason = skip_reason(entry)
            if reason or entry.is_dir():
                skip_counts.update([reason] if reason not in ("", OWN_FILE_REASON) else [])
            elif is_media(entry.name):
                misplaced.append(entry)
            else:
                skip_counts[_no_media(entry)] += 1
    return misplaced


def find_media(path: Path, *, image_sequences: bool = True) -> list[Path]:
    """The path itself, or, for a folder, the clips within it, sorted: files and folders of numbered images.

    Without `image_sequences` each image is a clip. Raises DataError for none, and for folders that are unclear.
    """
    if not path.is_dir():
        return [path]
    found = list_media(path)[0]
    if not found:
        raise DataError(f"{path}: no video or image in this folder")
    clips, unclear = group_into_clips(found) if image_sequences else (found, [])
    if unclear:
        raise DataError(f"{shorten_list(unclear, limit=2)}; {UNCLEAR_IMAGES}")
    return clips


def subfolders(source: Path) -> list[Path]:
    """Folders directly in a folder, without hidden ones and those of devices."""
    return sorted(folder for folder in source.iterdir() if folder.is_dir() and not skip_reason(folder))


def _holds_media(folder: Path) -> bool:
    return any(is_media(entry.name) and entry.is_file() for entry in folder.iterdir())


def _no_media(file: Path) -> str:
    ending = file.suffix if file.suffix.isprintable() else "odd ending"
    return f"not a video or image ({ending or 'no ending'})"


def groups_by_pattern(files: Sequence[Path], pattern: str | None) -> list[str] | None:
    """The group of each file by a pattern. Raises DataError with the files in whose path it finds none."""
    if pattern is None:
        return None
    groups = [match_group(file.as_posix(), pattern) for file in files]
    missed = [escape_invisible(str(file)) for file, group in zip(files, groups, strict=True) if not group]
    if missed:
        raise DataError(f"data.group_pattern {pattern!r} finds no group in {shorten_list(missed)}")
    return groups


def match_group(path: str, pattern: str) -> str:
    """What the pattern's one group finds, without blanks at its ends; an empty text for nothing."""
    match = re.search(pattern, path)
    return (match[1] or "").strip() if match else ""
