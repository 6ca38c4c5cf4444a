"""Find duplicate videos, and duplicates in different splits (leakage)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.checks.finding import Finding
from finetune.checks.rows import Rows, units_of_rows
from finetune.data.labels import Labels
from finetune.data.splits import file_ids
from finetune.text import count
from finetune.video.fingerprints import exact_duplicates, near_duplicates

_KEEP_ORDER = {"test": 0, "val": 1, "train": 2, "": 3}


@dataclass(frozen=True)
class DuplicateSet:
    """Rows with the same video: exact duplicates, or a pair of near duplicates with the exact duplicates of both."""

    rows: tuple[int, ...]
    exact: bool
    mirrored: bool
    across: bool  # in different splits, or able to get there when rows are divided at random


def find_duplicates(
    rows: Rows, readable: Sequence[int], pictures_N3SS: np.ndarray, contents: np.ndarray
) -> list[DuplicateSet]:
    """Duplicates among the readable rows, whose thumbnails are given in their order; those across splits first.

    `contents` (N,) are from `content_ids`. Clips of one file are compared only with clips of other files.
    """
    sides = leak_partition(rows)
    by_clip: dict[tuple, list[int]] = {}
    for row, content in zip(readable, contents.tolist(), strict=True):
        by_clip.setdefault((content, rows.interval(row), rows.boxes_cell(row)), []).append(row)
    sets = [same for same in by_clip.values() if len(same) > 1]
    duplicates = [DuplicateSet(tuple(same), True, False, _cross_splits(sides, same)) for same in sets]
    copies_of = {same[0]: same for same in sets}
    surplus = {row for same in sets for row in same[1:]}
    single = [position for position, row in enumerate(readable) if row not in surplus]
    for one, other, mirrored in near_duplicates(pictures_N3SS[single], contents[single]):
        pair = readable[single[one]], readable[single[other]]
        alike = [copy for row in pair for copy in copies_of.get(row, [row])]
        duplicates.append(DuplicateSet(tuple(alike), False, mirrored, _cross_splits(sides, alike)))
    return sorted(duplicates, key=lambda copies: (not copies.across, not copies.exact, copies.rows))


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
        for exact in (True, False):
            chosen = [copies for copies in duplicates if (copies.exact, copies.across) == (exact, across)]
            concerned = tuple(dict.fromkeys(row for copies in chosen for row in copies.rows))
            kind = "exact_copies" if exact else "near_copies"
            if chosen and across:
                number = _describe_count(chosen, exact, rows.noun)
                what = f"{number}; they {apart}: a model would be tested on its training clips."
                findings.append(Finding("mend", kind, what, todo, concerned))
            elif chosen:
                where = "" if not rows.labelled else ", in one group" if rows.divided else ", in one split"
                findings.append(
                    Finding("note", kind, f"{_describe_count(chosen, exact, rows.noun)}{where}.", "", concerned)
                )
    return findings


def _conflicting_rows(labels: Labels, duplicates: Sequence[DuplicateSet]) -> tuple[int, ...]:
    """Rows of exact duplicates whose known labels differ."""
    concerned: list[int] = []
    for rows in (copies.rows for copies in duplicates if copies.exact):
        known = [row for row in rows if labels.known[row]]
        if len({tuple(labels.text(row)) for row in known}) > 1:
            concerned += known
    return tuple(concerned)


def _describe_count(chosen: Sequence[DuplicateSet], exact: bool, noun: str) -> str:
    if exact:
        number = sum(len(copies.rows) for copies in chosen)
        return f"{number} {noun}s are exact duplicates" + (f" ({len(chosen)} sets)" if len(chosen) > 1 else "")
    pairs = count(len(chosen), f"pair of {noun}s looks", f"pairs of {noun}s look")
    mirrored = sum(copies.mirrored for copies in chosen)
    where = "" if noun == "frame" else " in first, middle and last frame"
    return f"{pairs} the same{where}" + (f" ({mirrored} mirrored)" if mirrored else "")


def duplicates_to_drop(rows: Rows, duplicates: Sequence[DuplicateSet]) -> set[int]:
    """Rows to remove so that no duplicates are in different splits and none has two labels.

    The test row stays, then the val row, so that results stay comparable; without splits the first row stays. Of exact
    duplicates with different labels none stays.
    """
    dropped = {row for labels in rows.named_tasks.values() for row in _conflicting_rows(labels, duplicates)}
    sides = leak_partition(rows)
    priority = [0] * len(rows) if rows.divided else [_KEEP_ORDER[split] for split in rows.splits]
    for copies in duplicates:
        left = sorted(set(copies.rows) - dropped, key=lambda row: (priority[row], row))
        if copies.across:
            dropped |= {row for row in left if sides[row] != sides[left[0]]}
    return dropped
