"""Find duplicate videos, and duplicates in different splits (leakage)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.checks.finding import Finding
from finetune.checks.near_copies import find_near_copies
from finetune.checks.rows import Rows, units_of_rows
from finetune.data.labels import Labels
from finetune.data.splits import file_ids
from finetune.text import count
from finetune.video.fingerprints import exact_duplicates
from finetune.video.probe_files import ClipOfFile, FileInspection, Progress

_KEEP_ORDER = {"test": 0, "val": 1, "train": 2, "": 3}


@dataclass(frozen=True)
class DuplicateSet:
    """Rows with the same video: exact duplicates, or a pair of near duplicates with the exact duplicates of both."""

    rows: tuple[int, ...]
    exact: bool
    mirrored: bool
    across: bool  # in different splits, or able to get there when rows are divided at random
    changes: tuple[str, ...] = ()  # how near duplicates differ, in words
    still: bool = False  # the pictures are the same, but nothing moves: copies, or two takes of one scene

    @property
    def kind(self) -> str:
        """The kind of the finding."""
        return "exact_copies" if self.exact else "same_scene" if self.still else "near_copies"


def find_duplicates(
    rows: Rows,
    inspections: Mapping[int, FileInspection],
    contents: np.ndarray,
    *,
    reading: tuple[float, float],
    progress: Progress | None = None,
) -> list[DuplicateSet]:
    """Duplicates among readable rows, by row number; those across splits first.

    `contents` (N,) are from `content_ids`, in the same order. Clips of one file are compared only with clips of other
    files. For `reading` and `progress` see `find_near_copies`.
    """
    sides, readable = leak_partition(rows), list(inspections)
    by_clip: dict[tuple, list[int]] = {}
    for row, content in zip(readable, contents.tolist(), strict=True):
        by_clip.setdefault((content, rows.interval(row), rows.boxes_cell(row)), []).append(row)
    sets = [same for same in by_clip.values() if len(same) > 1]
    duplicates = [DuplicateSet(tuple(same), True, False, _cross_splits(sides, same)) for same in sets]
    copies_of = {same[0]: same for same in sets}
    surplus = {row for same in sets for row in same[1:]}
    single = [position for position, row in enumerate(readable) if row not in surplus]
    compared = [readable[position] for position in single]
    clips = [ClipOfFile(rows.paths[row], rows.interval(row), boxes=rows.boxes_cell(row)) for row in compared]
    looks = [inspections[row] for row in compared]
    for near in find_near_copies(clips, looks, contents[single], reading=reading, progress=progress):
        pair = sorted((compared[near.whole], compared[near.part]))
        alike = tuple(copy for row in pair for copy in copies_of.get(row, [row]))
        duplicates.append(
            DuplicateSet(alike, False, near.mirrored, _cross_splits(sides, alike), near.changes, near.still)
        )
    return sorted(duplicates, key=lambda copies: (not copies.across, not copies.exact, copies.still, copies.rows))


def content_ids(paths: Sequence[Path]) -> np.ndarray:
    """An ID (N,) for the content of each file; each file is read once, however many rows name it."""
    files = file_ids(paths)
    numbers, first = np.unique(files, return_index=True)
    for same in exact_duplicates([paths[position] for position in first]):
        numbers[same] = numbers[same[0]]
    return numbers[files]


def leak_partition(rows: Rows) -> list[str]:
    """For each row the name of what keeps rows on one side: its split, or, where none is given, its group or file."""
    if not rows.labelled:
        return [""] * len(rows)
    if rows.divided:
        return units_of_rows(rows.source, rows.paths, rows.groups).tolist()
    return rows.splits


def _cross_splits(sides: Sequence[str], copies: Sequence[int]) -> bool:
    return len({sides[row] for row in copies}) > 1


def duplicate_findings(rows: Rows, duplicates: Sequence[DuplicateSet]) -> list[Finding]:
    """Findings about duplicates: contradictory labels, leakage between splits, and harmless ones."""
    findings = []
    for where, labels in rows.named_tasks.items():
        if contradictory := _conflicting_rows(labels, duplicates):
            what = f"{where}{len(contradictory)} {rows.noun}s are exact duplicates of each other with different labels."
            findings.append(Finding("mend", "contradiction", what, "Remove those with a wrong label.", contradictory))
    apart, todo = "are in different splits", "Keep one of each, or move them into one split."
    if rows.divided:
        apart, todo = "may get into different splits, as none is given", "Keep one of each, or give them one group."
    for across in (True, False):
        for kind in ("exact_copies", "near_copies", "same_scene"):
            chosen = [copies for copies in duplicates if (copies.kind, copies.across) == (kind, across)]
            if not chosen:
                continue
            concerned = tuple(dict.fromkeys(row for copies in chosen for row in copies.rows))
            number = _describe_count(chosen, kind, rows.noun)
            if across and kind == "same_scene":
                what = f"{number}; they {apart}: if they are copies, a model would be tested on its training clips."
                findings.append(
                    Finding("warning", kind, what, "Look at them. If they are copies, keep one.", concerned)
                )
            elif across:
                what = f"{number}; they {apart}: a model would be tested on its training clips."
                findings.append(Finding("mend", kind, what, todo, concerned))
            else:
                where = "" if not rows.labelled else ", in one group" if rows.divided else ", in one split"
                findings.append(Finding("note", kind, f"{number}{where}.", "", concerned))
    return findings


def _conflicting_rows(labels: Labels, duplicates: Sequence[DuplicateSet]) -> tuple[int, ...]:
    """Rows of exact duplicates whose known labels differ."""
    concerned: list[int] = []
    for rows in (copies.rows for copies in duplicates if copies.exact):
        known = [row for row in rows if labels.known[row]]
        if len({tuple(labels.text(row)) for row in known}) > 1:
            concerned += known
    return tuple(concerned)


def _describe_count(chosen: Sequence[DuplicateSet], kind: str, noun: str) -> str:
    if kind == "exact_copies":
        number = sum(len(copies.rows) for copies in chosen)
        return f"{number} {noun}s are exact duplicates" + (f" ({len(chosen)} sets)" if len(chosen) > 1 else "")
    if kind == "same_scene":
        pairs = count(len(chosen), f"pair of {noun}s shows", f"pairs of {noun}s show")
        return f"{pairs} the same scene, and too little moves to tell whether they are copies"
    if noun == "frame":
        return f"{count(len(chosen), 'pair of frames looks', 'pairs of frames look')} the same" + _describe_changes(
            chosen
        )
    pairs = count(len(chosen), f"pair of {noun}s shows", f"pairs of {noun}s show")
    return f"{pairs} the same video" + _describe_changes(chosen)


def _describe_changes(chosen: Sequence[DuplicateSet]) -> str:
    """How many pairs are mirrored, cropped and so on, in parentheses."""
    kinds = {"mirrored": "mirrored", "cropped": "cropped", "shifted": "shifted in time", "fast": "at another speed"}
    numbers = {
        text: sum(any(word in change for change in copies.changes) for copies in chosen) for word, text in kinds.items()
    }
    parts = [f"{number} {text}" for text, number in numbers.items() if number]
    return f" ({', '.join(parts)})" if parts else ""


def duplicates_to_drop(rows: Rows, duplicates: Sequence[DuplicateSet]) -> set[int]:
    """Rows to remove so that no duplicates are in different splits and none has two labels.

    The test row stays, then the val row, so that results stay comparable; without splits the first row stays. Of exact
    duplicates with different labels none stays. Rows that may only show the same scene all stay.
    """
    dropped = {row for labels in rows.named_tasks.values() for row in _conflicting_rows(labels, duplicates)}
    sides = leak_partition(rows)
    priority = [0] * len(rows) if rows.divided else [_KEEP_ORDER[split] for split in rows.splits]
    for copies in (copies for copies in duplicates if not copies.still):
        left = sorted(set(copies.rows) - dropped, key=lambda row: (priority[row], row))
        if copies.across:
            dropped |= {row for row in left if sides[row] != sides[left[0]]}
    return dropped
