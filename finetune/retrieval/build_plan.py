"""What a build of an index has to do: compare the rows of a source with those that the index has. Imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.retrieval.indexed_rows import IndexedRows
from finetune.vector_index.entry import EmbeddingSource, Entry
from finetune.vector_index.index import INDEX_FILE, VectorIndex

UNFINISHED_FILE = "unfinished"  # in the index folder while a build adds rows, and after it was stopped


@dataclass(frozen=True)
class WindowLengths:
    """Recordings are indexed in windows of so many seconds, which begin every `step`, by default a quarter of it."""

    seconds: float
    step: float | None = None


@dataclass(frozen=True, eq=False)
class BuildPlan:
    """Which rows are embedded: those `missing` (R,) in the index, by their numbers.

    `outdated` are clips of the index that are removed, as hashes: their files have changed. `continued` is a recording
    of which the first windows are there, with their number. `present` counts rows that are there, `repeated` those that
    the source has twice.
    """

    missing: np.ndarray
    outdated: frozenset[int]
    continued: tuple[str, int]
    present: int
    repeated: int


def is_index(folder: Path) -> bool:
    """Whether a folder has an index, finished or not."""
    return (folder / INDEX_FILE).exists()


def is_unfinished(folder: Path) -> bool:
    """Whether the last build of an index was stopped before its end."""
    return (folder / UNFINISHED_FILE).exists()


def with_windows(source: EmbeddingSource, windows: WindowLengths | None) -> EmbeddingSource:
    """The source of an index of these windows, or of whole rows."""
    seconds, step = (None, None) if windows is None else (windows.seconds, windows.step)
    return replace(source, settings={**source.settings, "window_seconds": seconds, "step_seconds": step})


def windows_of_source(source: EmbeddingSource) -> WindowLengths | None:
    """The windows that an index has; None where it has whole rows."""
    seconds = source.settings.get("window_seconds")
    return None if seconds is None else WindowLengths(seconds, source.settings.get("step_seconds"))


def plan_build(rows: IndexedRows, index: VectorIndex | None, *, in_windows: bool) -> BuildPlan:
    """Compare rows with an index. Recordings are added one after the other, so only the last one may lack windows."""
    present, last, windows = _present(index, in_windows)
    partial = hash(last) if in_windows and index is not None and is_unfinished(index.folder) else None
    missing: list[int] = []
    outdated, seen, is_continued = set[int](), set[int](), False
    for row in range(len(rows)):
        entry = rows.entry(row)
        identity = entry_hash(entry, in_windows)
        if identity in seen:
            continue
        seen.add(identity)
        if present.get(identity) != hash(entry.key):
            missing.append(row)
            outdated |= {identity} & present.keys()
        elif identity == partial:
            missing.append(row)
            is_continued = True
    if partial is not None and not is_continued:
        outdated.add(partial)
    continued = (last, windows) if is_continued else ("", 0)
    counts = len(seen) - len(missing), len(rows) - len(seen)
    return BuildPlan(np.array(missing, dtype=np.int64), frozenset(outdated), continued, *counts)


def _present(index: VectorIndex | None, in_windows: bool) -> tuple[dict[int, int], str, int]:
    """The hash of each clip's key by that of the clip, as a million texts would take too much memory.

    And the path of the last entry, with the number of entries in a row that have it.
    """
    present: dict[int, int] = {}
    last, number = "", 0
    for entry in index.entries() if index is not None else ():
        number = number + 1 if entry.path == last else 1
        last = entry.path
        present[entry_hash(entry, in_windows)] = hash(entry.key)
    return present, last, number


def entry_hash(entry: Entry, in_windows: bool) -> int:
    """A hash of what an entry is of: a clip, or, in windows, a recording."""
    return hash(entry.path if in_windows else (entry.path, entry.start, entry.end, entry.boxes))
