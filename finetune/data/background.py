"""Background rows: intervals of annotated recordings in which nothing is labelled.

A classifier that has only seen labelled intervals gives each window of a recording one of its classes. These rows teach
it that most of a recording is none of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from finetune.data.intervals import WHOLE
from finetune.data.manifest import Manifest
from finetune.data.splits import SPLITS, file_ids
from finetune.errors import DataError
from finetune.text import count

TRIES_PER_ROW = 20  # draws of a length and a place, before the free time counts as used up
MIN_SECONDS = 0.05  # shorter labelled intervals are points in time, and give no length

Gap = tuple[int, float, float]  # a row of the recording, and [start, end) in seconds


@dataclass(frozen=True)
class Background:
    """How background rows are drawn; see the keys `data.background…` of a recipe.

    `share` is the fraction of a split's rows that are background, labelled ones included. A background row keeps
    `margin` seconds from every labelled interval.
    """

    name: str
    share: float
    margin: float
    seed: int = 0


def add_background(manifest: Manifest, background: Background, durations: Mapping[bytes, float]) -> Manifest:
    """The manifest with background rows after its own: of the class `background.name`, or of no class if multi-label.

    They have lengths of labelled intervals, lie in recordings with interval rows, whose `durations` in seconds are
    given by path, do not overlap, and get split and group of their recording. A function of the rows and the seed.
    Raises DataError where the manifest has several tasks, or no interval rows.
    """
    if manifest.tasks:
        raise DataError(
            "data.background takes one task of classes, not tasks; label the background rows in the manifest yourself"
        )
    if manifest.intervals is None:
        raise DataError(
            f"{manifest.source}: data.background draws from the unlabelled time of recordings, but no row has a start "
            "or an end; add these columns"
        )
    random = Random(f"{background.seed} {background.name}")
    lengths = _labelled_lengths(manifest, background.name, durations)
    drawn: list[Gap] = []
    notes: list[str] = []
    for split in SPLITS:
        wanted = _wanted_rows(manifest, split, background)
        free = _free_time(manifest, split, background, durations)
        in_split = _draw_intervals(free, wanted, lengths, random)
        drawn += in_split
        if len(in_split) < wanted:
            notes.append(
                f"data.background: only {len(in_split)} of {count(wanted, 'background row')} fit into the unlabelled "
                f"time of {split}"
            )
    manifest = _with_rows(manifest, drawn, background.name, notes)
    if background.share and not _is_background(manifest, background.name)[manifest.rows("train")].any():
        raise DataError(
            f"{manifest.source}: data.background: no row of {background.name} fits into the unlabelled time of the "
            "recordings in train; lower data.background_margin, or remove data.background"
        )
    return manifest


def _is_background(manifest: Manifest, name: str) -> np.ndarray:
    """Which rows (N,) are labelled as background already."""
    if manifest.targets is not None:
        return np.asarray(~manifest.targets.any(1))
    return np.array([manifest.label(row) == name for row in range(len(manifest))], dtype=bool)


def _wanted_rows(manifest: Manifest, split: str, background: Background) -> int:
    """How many rows a split lacks to have its share of background."""
    is_background = _is_background(manifest, background.name)[manifest.rows(split)]
    others = int((~is_background).sum())
    return max(0, round(background.share / (1 - background.share) * others) - int(is_background.sum()))


def _labelled_lengths(manifest: Manifest, name: str, durations: Mapping[bytes, float]) -> list[float]:
    """The lengths of labelled intervals in seconds, sorted."""
    lengths = []
    for row in np.flatnonzero(~_is_background(manifest, name)).tolist():
        start, end = manifest.interval(row)
        if (start, end) != WHOLE:
            lengths.append(min(end, durations.get(manifest.paths[row], end)) - start)
    return sorted(length for length in lengths if MIN_SECONDS <= length < float("inf"))


def _free_time(manifest: Manifest, split: str, background: Background, durations: Mapping[bytes, float]) -> list[Gap]:
    """The parts of a split's recordings that no row covers or comes near to."""
    files = file_ids([manifest.path(row) for row in range(len(manifest))])  # a file may have several paths
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in sorted(manifest.rows(split).tolist(), key=lambda row: (manifest.paths[row], manifest.interval(row))):
        rows_of[int(files[row])].append(row)
    gaps: list[Gap] = []
    for rows in rows_of.values():
        path = manifest.paths[rows[0]]
        if path not in durations or any(manifest.interval(row) == WHOLE for row in rows):
            continue
        begin = 0.0
        for row in sorted(rows, key=manifest.interval):
            start, end = manifest.interval(row)
            gaps.append((row, begin, start - background.margin))
            begin = max(begin, end + background.margin)
        gaps.append((rows[-1], begin, durations[path]))
    return [gap for gap in gaps if gap[2] - gap[1] >= MIN_SECONDS]


def _draw_intervals(free: list[Gap], wanted: int, lengths: list[float], random: Random) -> list[Gap]:
    """At most `wanted` intervals that do not overlap, each with one of `lengths`, uniform in the free time."""
    rows = [row for row, _, _ in free]
    borders_G2 = np.zeros((len(free) + 2 * wanted, 2))  # of G gaps: a draw empties one, and adds what is left of it
    borders_G2[: len(free)] = [(start, end) for _, start, end in free] or np.empty((0, 2))
    drawn: list[Gap] = []
    for _ in range(TRIES_PER_ROW * wanted if lengths else 0):
        sizes_G = borders_G2[:, 1] - borders_G2[:, 0]
        if len(drawn) == wanted or sizes_G.max() <= lengths[0]:
            break
        length = random.choice(lengths)
        slack_G = np.cumsum(np.maximum(0.0, sizes_G - length))
        if not slack_G[-1]:
            continue
        place = int(np.searchsorted(slack_G, random.random() * slack_G[-1], side="right"))
        row, (low, high) = rows[place], borders_G2[place].tolist()
        start = min(max(round(random.uniform(low, high - length), 3), low), high - length)
        drawn.append((row, round(start, 6), round(start + length, 6)))
        borders_G2[place] = 0.0
        borders_G2[len(rows) : len(rows) + 2] = (low, start), (start + length, high)
        rows += [row, row]
    return sorted(drawn)


def _with_rows(manifest: Manifest, drawn: list[Gap], name: str, notes: list[str]) -> Manifest:
    if not drawn:
        return replace(manifest, notes=(*manifest.notes, *notes))
    assert manifest.intervals is not None
    if manifest.targets is None and name not in manifest.classes:
        manifest = manifest.with_classes(tuple(sorted((*manifest.classes, name))))
    rows = np.array([row for row, _, _ in drawn])
    is_single = manifest.targets is None
    code = manifest.classes.index(name) if is_single else len(manifest.classes)
    of_class = f"of the class {name}" if is_single else "without a class"
    no_class = None if is_single else np.zeros((len(rows), len(manifest.classes)), dtype=bool)
    return replace(
        manifest,
        paths=np.append(manifest.paths, manifest.paths[rows]),
        labels=np.append(manifest.labels, np.full(len(rows), code, dtype=np.int64)),
        splits=np.append(manifest.splits, manifest.splits[rows]),
        groups=None if manifest.groups is None else np.append(manifest.groups, manifest.groups[rows]),
        targets=None if manifest.targets is None else np.concatenate([manifest.targets, no_class]),
        intervals=np.concatenate([manifest.intervals, [(start, end) for _, start, end in drawn]]),
        boxes=None if manifest.boxes is None else np.append(manifest.boxes, np.zeros(len(rows), dtype=bytes)),
        notes=(*manifest.notes, f"{count(len(rows), 'row')} {of_class} drawn from unlabelled time", *notes),
    )
