"""Which videos are there twice, and which copies stand on both sides of a border between splits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.checks.finding import Finding
from finetune.checks.rows import Rows, units_of_rows
from finetune.data.labels import Labels
from finetune.text import count
from finetune.video.fingerprints import exact_duplicates, near_duplicates

_KEEP_ORDER = {"test": 0, "val": 1, "train": 2, "": 3}


@dataclass(frozen=True)
class DuplicateSet:
    """Rows of one video: the same to the byte, or two of them (and their exact copies) that look the same."""

    rows: tuple[int, ...]
    exact: bool
    mirrored: bool
    across: bool  # on both sides of a border, or so that chance can put them there


def find_duplicates(rows: Rows, readable: Sequence[int], pictures_N3SS: np.ndarray) -> list[DuplicateSet]:
    """Copies among the readable rows, whose pictures are given in their order; the grave ones first."""
    sides = leak_partition(rows)
    sets = [[readable[each] for each in same] for same in exact_duplicates([rows.paths[row] for row in readable])]
    found = [DuplicateSet(tuple(each), True, False, _cross_splits(sides, each)) for each in sets]
    copies_of = {each[0]: each for each in sets}
    surplus = {row for each in sets for row in each[1:]}
    single = [position for position, row in enumerate(readable) if row not in surplus]
    for one, other, mirrored in near_duplicates(pictures_N3SS[single]):
        pair = readable[single[one]], readable[single[other]]
        alike = [row for each in pair for row in copies_of.get(each, [each])]
        found.append(DuplicateSet(tuple(alike), False, mirrored, _cross_splits(sides, alike)))
    return sorted(found, key=lambda copies: (not copies.across, not copies.exact, copies.rows))


def leak_partition(rows: Rows) -> list[str]:
    """What a row shares with those that no border parts it from: its split, or, undivided, its group or file."""
    if not rows.labelled:
        return [""] * len(rows)
    if rows.divided:
        return units_of_rows(rows.source, rows.paths, rows.groups).tolist()
    return rows.splits


def _cross_splits(sides: Sequence[str], copies: Sequence[int]) -> bool:
    return len({sides[row] for row in copies}) > 1


def duplicate_findings(rows: Rows, found: Sequence[DuplicateSet]) -> list[Finding]:
    """What copies mean for the test and for the labels."""
    findings = []
    for where, labels in rows.named_tasks.items():
        if contradictory := _conflicting_rows(labels, found):
            what = f"{where}{len(contradictory)} files are copies of one another, to the byte, under different labels."
            findings.append(
                Finding("mend", "contradiction", what, "Only one of the labels can be right.", contradictory)
            )
    apart, todo = "stand in different splits", "Keep one of each, or move them into one split."
    if rows.divided:
        apart, todo = "can be parted by chance, as no split is given", "Keep one of each, or give them one group."
    for across in (True, False):
        for exact in (True, False):
            chosen = [copies for copies in found if (copies.exact, copies.across) == (exact, across)]
            concerned = tuple(dict.fromkeys(row for copies in chosen for row in copies.rows))
            kind = "exact_copies" if exact else "near_copies"
            if chosen and across:
                what = (
                    f"{_describe_count(chosen, exact)}; they {apart}: a model would be tested on what it learned from."
                )
                findings.append(Finding("mend", kind, what, todo, concerned))
            elif chosen:
                where = "" if not rows.labelled else ", in one group" if rows.divided else ", in one split"
                findings.append(Finding("note", kind, f"{_describe_count(chosen, exact)}{where}.", "", concerned))
    return findings


def _conflicting_rows(labels: Labels, found: Sequence[DuplicateSet]) -> tuple[int, ...]:
    """Rows of exact copies whose known labels differ."""
    concerned: list[int] = []
    for rows in (copies.rows for copies in found if copies.exact):
        known = [row for row in rows if labels.known[row]]
        if len({tuple(labels.text(row)) for row in known}) > 1:
            concerned += known
    return tuple(concerned)


def _describe_count(chosen: Sequence[DuplicateSet], exact: bool) -> str:
    if exact:
        number = sum(len(copies.rows) for copies in chosen)
        return f"{number} files are copies, to the byte, of {count(len(chosen), 'video')}"
    pairs = count(len(chosen), "pair looks", "pairs look")
    mirrored = sum(copies.mirrored for copies in chosen)
    return f"{pairs} the same in first, middle and last frame" + (f" ({mirrored} mirrored)" if mirrored else "")


def duplicates_to_drop(rows: Rows, found: Sequence[DuplicateSet]) -> set[int]:
    """Rows to leave out so that no copies stand apart and none has two labels.

    What is tested on stays, so that results compare, and training loses its copy; of what is not divided yet the
    first row stays. Of exact copies with different labels none stays.
    """
    out = {row for labels in rows.named_tasks.values() for row in _conflicting_rows(labels, found)}
    sides = leak_partition(rows)
    stays_first = [0] * len(rows) if rows.divided else [_KEEP_ORDER[split] for split in rows.splits]
    for copies in found:
        left = sorted(set(copies.rows) - out, key=lambda row: (stays_first[row], row))
        if copies.across:
            out |= {row for row in left if sides[row] != sides[left[0]]}
    return out
