"""List the files below a folder: links are followed once, and skipped entries are counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from finetune.errors import shorten_list

# Folders that cameras, network storage and operating systems create.
IGNORED_FOLDERS = frozenset(
    [
        *("@eadir", "#recycle", "@recycle", "@tmp", "#snapshot", "__macosx", ".appledouble", ".trashes"),
        *(
            ".spotlight-v100",
            ".fseventsd",
            ".thumbnails",
            "thumbnails",
            "$recycle.bin",
            "system volume information",
            "lost+found",
        ),
    ]
)

OWN_FILE_REASON = "written by finetune"


def walk_files(folder: Path) -> tuple[list[Path], Counter[str]]:
    """All files below a folder, sorted, and the number of skipped entries by reason.

    Skipped are hidden files, system folders, broken links, and links to a folder that was already read or contains
    `folder`, so that no file is listed twice and link cycles end.
    """
    files: list[Path] = []
    skip_counts: Counter[str] = Counter()
    read = {_file_identity(parent) for parent in folder.resolve().parents}
    waiting, links = [folder], list[Path]()
    while waiting or links:
        current = waiting.pop() if waiting else links.pop(0)  # links last: a folder is listed by its real path
        if _file_identity(current) in read:
            skip_counts["link to a folder that is already included"] += 1
            continue
        read.add(_file_identity(current))
        try:
            entries = sorted(current.iterdir())
        except OSError:
            skip_counts["folder that cannot be read"] += 1
            continue
        for entry in entries:
            if reason := skip_reason(entry):
                skip_counts[reason] += reason != OWN_FILE_REASON
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append(entry)
            else:
                files.append(entry)
    return sorted(files), skip_counts


def skip_reason(entry: Path) -> str:
    """Why a file or folder is skipped; an empty text if it is not."""
    if entry.name.casefold() in IGNORED_FOLDERS:
        return f"device or system folder ({entry.name})"
    if entry.name.startswith("."):
        return OWN_FILE_REASON if entry.suffix == ".facts" else "hidden"
    return "" if entry.is_dir() or entry.is_file() else "broken link" if entry.is_symlink() else "not a regular file"


def summarize_skipped(skip_counts: Mapping[str, int]) -> str:
    """`skipped: 12 × not a video or image (.csv, .txt), 2 × hidden`, or an empty text if nothing was skipped."""
    numbers: Counter[str] = Counter()
    details: dict[str, list[str]] = {}
    for reason, number in sorted(skip_counts.items()):
        kind, _, detail = reason.removesuffix(")").partition(" (")
        numbers[kind] += number
        details.setdefault(kind, []).extend([detail] if detail else [])
    parts = [
        f"{number} × {kind}{f' ({shorten_list(details[kind])})' if details[kind] else ''}"
        for kind, number in numbers.most_common()
    ]
    return f"skipped: {', '.join(parts)}" if parts else ""


def _file_identity(folder: Path) -> tuple[int, int] | str:
    try:
        stat = folder.stat()
    except OSError:
        return str(folder)
    return stat.st_dev, stat.st_ino
