"""From the names in a data set's official lists to the clips on the disk."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune.errors import DataError, shorten_list


def find_clips(root: Path) -> dict[str, str]:
    """Every .avi below `root`, at whatever depth: name in lower case to path from `root`, with slashes.

    Hidden folders, where unpacking goes on, are passed over; linked folders are followed. Of two files of one
    name the one nearer to `root` is taken.
    """
    clips: dict[str, str] = {}
    for path in sorted(_walk(root), key=lambda path: (len(path.parts), path)):
        if path.suffix.lower() == ".avi":
            clips.setdefault(path.name.lower(), path.relative_to(root).as_posix())
    return clips


def find_lists(root: Path, pattern: str) -> Path | None:
    """The folder, nearest to `root`, that holds a list whose name matches the glob `pattern`."""
    folders = [path.parent for path in _walk(root) if path.match(pattern)]
    return min(folders, key=lambda path: (len(path.parts), path), default=None)


def _walk(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            yield from (Path(folder, name) for name in names if not name.startswith("."))


def require_clips(root: Path, names: Iterable[str], *, clips: dict[str, str]) -> None:
    """Raise DataError with the count and the first of the listed names (in any case) that are not there."""
    listed = dict.fromkeys(names)
    missing = [name for name in listed if name.lower() not in clips]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(listed)} listed clips are not there: {shorten_list(missing)}; "
            "unpack the videos again, into a folder from which the incomplete ones are removed"
        )
