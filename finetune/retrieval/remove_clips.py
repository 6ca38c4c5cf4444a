"""Which clips are removed from an index: by a pattern of their paths, by a CSV, or because their files are gone."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from finetune.data.intervals import WHOLE, read_intervals
from finetune.data.read import read_csv
from finetune.data.tables import is_table
from finetune.errors import IndexFolderError
from finetune.retrieval.indexed_rows import path_in_index
from finetune.vector_index.entry import Entry
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.writer import IndexWriter

Chooses = Callable[[Entry], bool]


def remove_clips(folder: Path, *, pattern: str | None = None, missing: bool = False) -> int:
    """Remove entries from an index, and give their number; their files need not exist.

    `pattern` is a path, the end of one, or either with `*` and `?`, or a CSV path[,start,end]. With `missing` all
    entries are removed whose files do not exist. Raises IndexFolderError where the pattern fits no entry.
    """
    chooses = [*([] if pattern is None else [_by_pattern(pattern)]), *([_is_missing] if missing else [])]
    with IndexWriter(folder, VectorIndex.open(folder).source) as writer:
        number = writer.remove(lambda entry: any(chosen(entry) for chosen in chooses))
    if not number and pattern is not None:
        raise IndexFolderError(
            f"{folder}: no clip fits {pattern!r}; write a path, the end of one, or a pattern as '*.avi'"
        )
    return number


def _by_pattern(pattern: str) -> Chooses:
    if is_table(Path(pattern)) and Path(pattern).is_file():
        return _by_table(Path(pattern))
    path = path_in_index(Path(pattern))
    return lambda entry: (
        entry.path == path or any(fnmatchcase(entry.path, wanted) for wanted in (pattern, f"*/{pattern}", f"{path}/*"))
    )


def _by_table(source: Path) -> Chooses:
    """A row of the CSV without times is all entries of its file."""
    table = read_csv(source, labels="of tasks")
    paths = [path_in_index(source.parent / name) for name in table["path"]]
    intervals_N2 = read_intervals(table)
    times = [WHOLE] * len(paths) if intervals_N2 is None else [(start, end) for start, end in intervals_N2.tolist()]
    clips = set(zip(paths, times, strict=True))
    return lambda entry: (entry.path, WHOLE) in clips or (entry.path, _interval(entry)) in clips


def _interval(entry: Entry) -> tuple[float, float]:
    start, end = entry.start, entry.end
    return (WHOLE[0] if start is None else start, WHOLE[1] if end is None else end)


def _is_missing(entry: Entry) -> bool:
    return not Path(entry.path).exists()
