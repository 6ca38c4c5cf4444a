"""Rows that are intervals of recordings: ends after the end of the file, overlaps, recordings in several splits."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.checks.duplicates import leak_partition
from finetune.checks.finding import Finding
from finetune.checks.rows import Rows
from finetune.data.intervals import interval_text
from finetune.data.labels import Labels
from finetune.data.splits import SPLITS
from finetune.errors import shorten_list
from finetune.text import count
from finetune.video.probe_files import FileInspection

LISTED = 3  # examples in a message


def interval_findings(rows: Rows, good: Mapping[int, FileInspection], contents: np.ndarray) -> list[Finding]:
    """Findings about intervals. `good` are the inspections of readable rows, `contents` (N,) their `content_ids`."""
    if rows.intervals is None:
        return []
    return [*_late_ends(rows, good), *_overlaps(rows, good), *_divided_recordings(rows, list(good), contents)]


def _late_ends(rows: Rows, good: Mapping[int, FileInspection]) -> list[Finding]:
    """Intervals that end more than a frame after the end of their file."""
    late = []
    for row, inspection in good.items():
        end = rows.interval(row)[1]
        if np.isfinite(end) and end > inspection.file_seconds + _frame_seconds(inspection):
            late.append(row)
    if not late:
        return []
    named = [f"{_clip(rows, row)} in a file of {good[row].file_seconds:.2f} s" for row in late]
    what = f"{count(len(late), 'interval ends', 'intervals end')} after the end of the file: {_listed(named)}."
    return [Finding("warning", "late_end", what, "Correct the times; only the frames that exist are used.", (*late,))]


def _overlaps(rows: Rows, good: Mapping[int, FileInspection]) -> Iterator[Finding]:
    """Intervals of one file that overlap by more than a frame, under different labels where a clip has only one."""
    by_file: dict[Path, list[int]] = defaultdict(list)
    for row in sorted(good, key=rows.interval):
        by_file[rows.paths[row]].append(row)
    for where, labels in rows.named_tasks.items():
        if labels.kind == "multilabel":
            continue
        pairs = [pair for clips in by_file.values() for pair in _overlapping(rows, clips, labels, good)]
        if pairs:
            named = [f"{_labelled(rows, labels, one)} and {_labelled(rows, labels, other)}" for one, other in pairs]
            overlap = count(len(pairs), "pair of intervals overlaps", "pairs of intervals overlap")
            what = f"{where}{overlap} under different labels: {_listed(named)}."
            todo = "The same frames have two labels; correct the times, or use data.multilabel."
            yield Finding("warning", "overlap", what, todo, tuple(dict.fromkeys(row for pair in pairs for row in pair)))


def _overlapping(
    rows: Rows, clips: Sequence[int], labels: Labels, good: Mapping[int, FileInspection]
) -> Iterator[tuple[int, int]]:
    """Pairs of rows of one file, in the order of their starts; the same interval twice is a duplicate, not a pair."""
    open_clips: list[int] = []
    for row in clips:
        start = rows.interval(row)[0] + _frame_seconds(good[row])
        open_clips = [other for other in open_clips if rows.interval(other)[1] > start]
        for other in open_clips if labels.known[row] else ():
            differ = labels.known[other] and labels.text(row) != labels.text(other)
            same_object = rows.boxes_cell(row) == rows.boxes_cell(other)
            if differ and same_object and rows.interval(row) != rows.interval(other):
                yield other, row
        open_clips.append(row)


def _divided_recordings(rows: Rows, readable: Sequence[int], contents: np.ndarray) -> Iterator[Finding]:
    """Recordings, their exact copies included, that are or may get on both sides of a split."""
    sides = leak_partition(rows)
    by_content: dict[int, list[int]] = defaultdict(list)
    for row, content in zip(readable, contents.tolist(), strict=True):
        by_content[content].append(row)
    divided = [clips for clips in by_content.values() if len({sides[row] for row in clips}) > 1]
    if not divided:
        return
    concerned = tuple(row for clips in divided for row in clips)
    if rows.divided:
        named = [" = ".join(dict.fromkeys(f"“{rows.paths[row].name}”" for row in clips)) for clips in divided]
        what = f"Copies of {count(len(divided), 'recording')} may get into different splits: {_listed(named)}."
        yield Finding("mend", "leak", what, "Keep one of each, or give them one group.", concerned)
        return
    named = [f"“{rows.paths[clips[0]].name}” in {_splits_of(sides, clips)}" for clips in divided]
    is_in = count(len(divided), "recording is", "recordings are")
    what = f"{is_in} in more than one split: {_listed(named)}; a model would be tested on what it was trained on."
    yield Finding("mend", "leak", what, "Correct the split column, or remove it: files are then kept whole.", concerned)


def _splits_of(sides: Sequence[str], clips: Sequence[int]) -> str:
    return " and ".join(split for split in SPLITS if split in {sides[row] for row in clips})


def _frame_seconds(inspection: FileInspection) -> float:
    return 1 / inspection.info.fps if inspection.info.fps else 0.0


def _clip(rows: Rows, row: int) -> str:
    return f"“{rows.paths[row].name}” {interval_text(*rows.interval(row)) or 'whole'}"


def _labelled(rows: Rows, labels: Labels, row: int) -> str:
    return f"{_clip(rows, row)} ({labels.text(row)[0]})"


def _listed(names: Sequence[str]) -> str:
    return shorten_list(names, limit=LISTED)
