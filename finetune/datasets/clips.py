"""Find the clips and the official lists of a data set on disk."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune.errors import DataError, shorten_list


def find_clips(root: Path) -> dict[str, str]:
    """Every .avi file below `root`, at any depth: from its name in lower case to its path relative to `root`.

    Hidden folders, which hold unfinished unpacking, are ignored; linked folders are followed. Of two files with one
    name the one nearer to `root` is taken.
    """
    clips: dict[str, str] = {}
    for path in sorted(_walk(root), key=lambda path: (len(path.parts), path)):
        if path.suffix.lower() == ".avi":
            clips.setdefault(path.name.lower(), path.relative_to(root).as_posix())
    return clips


def find_lists(root: Path, pattern: str) -> Path | None:
    """The folder nearest to `root` with a list whose name matches the glob `pattern`; None without one."""
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
    """Raise DataError with the number of listed clips that are missing, and the first of them; case is ignored."""
    listed = dict.fromkeys(names)
    missing = [name for name in listed if name.lower() not in clips]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(listed)} listed clips are missing: {shorten_list(missing)}; "
            "delete the incomplete folder, and unpack the videos again"
        )
