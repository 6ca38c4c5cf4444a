"""Find labelled videos: in the columns of a CSV, or in folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.tables import Table, read_table
from finetune.data.valid_names import escape_invisible
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.recipe.input_sections import Data
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
    "put the frames of each video into its own folder, without other files, or make each image a clip with "
    "data.image_sequences=false (predict: --single-images)"
)


def read_csv(source: Path, *, labels: str) -> Table:
    """The table of a manifest's CSV. Raises DataError for missing columns, no rows, or rows without a path.

    `labels` says what a row has: `one` label (an empty one raises DataError), `several` (may be empty), or labels
    `of tasks`, which are in other columns.
    """
    table = read_table(source)
    needed = ("path", "label")[: 1 if labels == "of tasks" else 2]
    if missing := [name for name in needed if name not in table]:
        raise DataError(f"{source}: {missing_columns_advice(table, missing)}")
    if not table["path"]:
        raise DataError(f"{source}: has a header but no rows")
    for name in ("path", "label") if labels == "one" else ("path",):
        empty = [line for line, value in zip(table.lines, table[name], strict=True) if not value]
        if empty:
            raise DataError(f"{source}: no {name} in line {shorten_list(empty)}")
    return table


def missing_columns_advice(table: Table, missing: Sequence[str]) -> str:
    """A message that names missing columns and says what to do, for example which column to rename."""
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
    """Raise DataError if files of a manifest do not exist."""
    missing = [file for file in files if not (file.is_file() or file.is_dir())]
    if missing:
        names = shorten_list([escape_invisible(str(file)) for file in missing])
        hint = "; write / instead of \\ in paths" if any("\\" in file.name for file in missing) else ""
        raise DataError(f"{source}: {len(missing)} of {len(files)} files do not exist: {names}{hint}")


def read_groups(table: Table) -> list[str] | None:
    """The column `group`, or None without one; a row with an empty cell gets its path as its own group."""
    groups = table.filled("group")
    return None if groups is None else [group or path for group, path in zip(groups, table["path"], strict=True)]


def groups_by_file(paths: Sequence[str], *, are_parts: bool) -> list[str] | None:
    """The path of each row as its group, where rows are parts of files and several are of one file; otherwise None."""
    return list(paths) if are_parts and len(set(paths)) < len(paths) else None


@dataclass(frozen=True)
class FolderScan:
    """Labelled clips of a folder, one item per clip; `splits` is None if the folders are classes, not splits.

    `misplaced_files` are videos outside every class folder. `skip_counts` counts other skipped files by reason.
    `problems` maps a kind, for programs, to an error message; training refuses a folder that has any.
    """

    files: list[Path]
    labels: list[str]
    splits: list[str] | None
    misplaced_files: list[Path]
    skip_counts: Mapping[str, int]
    problems: dict[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user before training: skipped files, and classes that are named like splits."""
        misplaced = {"outside any class folder": len(self.misplaced_files)} if self.misplaced_files else {}
        odd = [] if self.splits else sorted({label for label in self.labels if label.casefold() in SPLIT_ALIASES})
        classes = [f"the folder “{name}” is read as a class, not as a split" for name in odd]
        return tuple(filter(None, [summarize_skipped({**misplaced, **self.skip_counts}), *classes]))


def scan_folder(source: Path, *, image_sequences: bool = True) -> FolderScan:
    """The clips of `<class>/*` or `<split>/<class>/*`, with their labels and splits.

    A clip is a file or, with `image_sequences`, a folder of numbered images below its class folder. Raises DataError
    if `source` is not a folder; other errors are in `problems`.
    """
    if not source.is_dir():
        hint = "; it is a file: use data.manifest for a CSV" if source.is_file() else ""
        raise DataError(f"there is no folder {str(source)!r}{hint}")
    folders = subfolders(source)
    problem = _problem_with_layout(folders)
    has_splits = not problem and bool(folders) and all(split_from_folder(folder) for folder in folders)
    parts = [(split_from_folder(top), inner) for top in folders for inner in subfolders(top)] if has_splits else []
    parts = parts or [("", folder) for folder in folders if not problem]
    files, labels, splits, empty, unclear = [], [], [], [], []
    skip_counts: Counter[str] = Counter()
    for split, folder in parts:
        clips, skipped = list_media(folder)
        skip_counts.update(skipped)
        if image_sequences:
            clips, unclear_folders = group_into_clips(clips, apart={folder})
            unclear += unclear_folders
        empty += [] if clips else [str(folder.relative_to(source))]
        files += clips
        labels += [folder.name.strip()] * len(clips)
        splits += [split] * len(clips)
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
    """The split that a folder is named after, or an empty text."""
    return SPLIT_ALIASES.get(folder.name.strip().casefold(), "")


def _split_words(folder: Path) -> set[str]:
    """The splits that occur as words in a folder's name: train in training_set."""
    return {SPLIT_ALIASES[word] for word in re.findall("[a-z]+", folder.name.casefold()) if word in SPLIT_ALIASES}


def _problem_with_layout(folders: Sequence[Path]) -> str:
    """An error message for folders that are neither all classes nor all splits; an empty text if they are."""
    if not folders:
        return "has no subfolders; put each class's videos into a folder named after the class"
    splits = [folder for folder in folders if split_from_folder(folder)]
    others = [folder for folder in folders if not split_from_folder(folder)]
    names, extra = shorten_list([folder.name for folder in splits]), shorten_list([folder.name for folder in others])
    if not others:
        bare = [folder.name for folder in splits if not subfolders(folder)]
        todo = "put each class's videos into <split>/<class>/, or remove the folder"
        return f"no class folders in {shorten_list(bare)}: {todo}" if bare else ""
    if splits and (len(splits) > 1 or not _holds_media(splits[0])):
        return (
            f"split folders ({names}) next to other folders ({extra}): move {extra} elsewhere or into a split; "
            "if all of them are classes, list the files in a CSV with path,label instead"
        )
    like_splits = [_split_words(folder) for folder in others]
    if not splits and all(like_splits) and len(set.union(*like_splits)) > 1:
        return f"folder names similar to splits ({extra}): name them train, val and test, or list the files in a CSV"
    within = [inner for folder in others for inner in subfolders(folder)]
    if not splits and within and all(map(split_from_folder, within)) and not any(map(_holds_media, folders)):
        todo = f"put the splits first, as in {within[0].name}/{within[0].parent.name}"
        if len(others) == 1:
            todo = f"use data.folder={others[0]} if the splits contain class folders"
        return f"split folders ({shorten_list(sorted({folder.name for folder in within}))}) inside {extra}: {todo}"
    return ""


def list_media(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Videos and images below a folder, sorted, and the number of skipped entries by reason."""
    files, skip_counts = walk_files(folder)
    media = [file for file in files if is_media(file.name)]
    skip_counts.update(map(_no_media, filter(lambda file: not is_media(file.name), files)))
    return media, skip_counts


def _misplaced_files(source: Path, splits: Sequence[Path], skip_counts: Counter[str]) -> list[Path]:
    """Videos and images directly in the source or in a split folder; other files are added to `skip_counts`."""
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
    """The path itself, or, for a folder, the clips below it, sorted: files and folders of numbered images.

    Without `image_sequences` each image is a clip. Raises DataError if a folder has no clips, or mixes numbered images
    with other files (see `folder_kind`).
    """
    if not path.is_dir():
        return [path]
    media = list_media(path)[0]
    if not media:
        raise DataError(f"{path}: no video or image in this folder")
    clips, unclear = group_into_clips(media) if image_sequences else (media, [])
    if unclear:
        raise DataError(f"{shorten_list(unclear, limit=2)}; {UNCLEAR_IMAGES}")
    return clips


def subfolders(source: Path) -> list[Path]:
    """Folders directly in a folder, sorted, without hidden folders and system folders."""
    return sorted(folder for folder in source.iterdir() if folder.is_dir() and not skip_reason(folder))


def _holds_media(folder: Path) -> bool:
    return any(is_media(entry.name) and entry.is_file() for entry in folder.iterdir())


def _no_media(file: Path) -> str:
    ending = file.suffix if file.suffix.isprintable() else "odd ending"
    return f"not a video or image ({ending or 'no ending'})"


def groups_by_pattern(files: Sequence[Path], pattern: str | None) -> list[str] | None:
    """The group of each file by a regular expression. Raises DataError naming files whose path does not match."""
    if pattern is None:
        return None
    Data(group_pattern=pattern)  # raises RecipeError for one that is not valid
    groups = [match_group(file.as_posix(), pattern) for file in files]
    unmatched = [escape_invisible(str(file)) for file, group in zip(files, groups, strict=True) if not group]
    if unmatched:
        raise DataError(f"data.group_pattern {pattern!r} finds no group in {shorten_list(unmatched)}")
    return groups


def match_group(path: str, pattern: str) -> str:
    """The text that the pattern's one (...) matches, stripped; an empty text without a match."""
    match = re.search(pattern, path)
    return (match[1] or "").strip() if match else ""
