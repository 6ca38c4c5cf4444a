"""Which clips several runs were all tested on, and which do not count in a comparison, with the reason."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from finetune.data.labels import LABEL_SEPARATOR
from finetune.errors import RunError, shorten_list

Row = dict[str, Any]


class MatchedClips(NamedTuple):
    """`rows[i][n]` is what run i says of common clip n; `groups` are of the first run that knows them, or None.

    `by_name`: paths had nothing in common, so that clips are matched by folder and file name. `left_out` counts for
    each run the clips that are not in all; `relabelled` are common clips that runs label differently, left out as well.
    """

    rows: list[list[Row]]
    groups: list[str] | None
    by_name: bool
    left_out: list[int]
    relabelled: list[dict[str, Any]]


def match_clips(names: Sequence[str], tables: Sequence[Sequence[Row]], *, multilabel: bool) -> MatchedClips:
    """Raises RunError where no clip is in all of the tables with the same label."""
    keyed = [_by_key(table, _path_resolver()) for table in tables]
    by_name = not _common_keys(keyed)
    if by_name:
        keyed = [_by_key(table, _folder_and_name) for table in tables]
    common = _common_keys(keyed)
    if not common:
        raise RunError(_no_common_clips(names, tables))
    relabelled = [key for key in common if len({label_set(table[key]["label"], multilabel) for table in keyed}) > 1]
    left_out = set(relabelled)
    counted = [key for key in common if key not in left_out]
    if not counted:
        raise RunError(
            f"all {len(common)} clips that {shorten_list(names)} share have different labels in them; "
            "compare runs that learned the same task"
        )
    rows = [[table[key] for key in counted] for table in keyed]
    return MatchedClips(
        rows=rows,
        groups=_groups(rows),
        by_name=by_name,
        left_out=[len(table) - len(common) for table in tables],
        relabelled=[
            {"path": keyed[0][key]["path"], "labels": [table[key]["label"] for table in keyed]} for key in relabelled
        ],
    )


def label_set(text: str, multilabel: bool) -> frozenset[str]:
    """A label, or what was predicted, as a set: of several classes, or of one."""
    return frozenset(filter(None, text.split(LABEL_SEPARATOR))) if multilabel else frozenset([text])


def _by_key(table: Sequence[Row], key_of: Callable[[str], str]) -> dict[str, Row]:
    """Rows by their key; a key that several rows have is not one."""
    keys = [key_of(row["path"]) for row in table]
    times = Counter(keys)
    return {key: row for key, row in zip(keys, table, strict=True) if times[key] == 1}


def _path_resolver() -> Callable[[str], str]:
    """The path without links, and from the root; a folder is followed once, not with each of its clips."""
    folder_of = functools.cache(os.path.realpath)

    def resolved(path: str) -> str:
        folder, name = os.path.split(path)
        inside = os.path.join(folder_of(folder), name)  # noqa: PTH118 (a Path of each takes long)
        return os.path.realpath(inside) if name in {"", ".", ".."} or os.path.islink(inside) else inside  # noqa: PTH114

    return resolved


def _folder_and_name(path: str) -> str:
    return "/".join(PurePath(path.replace("\\", "/")).parts[-2:])


def _common_keys(keyed: Sequence[dict[str, Row]]) -> list[str]:
    return [key for key in keyed[0] if all(key in table for table in keyed[1:])]


def _groups(rows: Sequence[Sequence[Row]]) -> list[str] | None:
    """A clip without a group, where others have one, is a group of its own."""
    for table in rows:
        if any(row["group"] for row in table):
            return [row["group"] or f"\0{number}" for number, row in enumerate(table)]
    return None


def _no_common_clips(names: Sequence[str], tables: Sequence[Sequence[Row]]) -> str:
    firsts = [
        f"{name} has {table[0]['path']}" if table else f"{name} has none"
        for name, table in zip(names, tables, strict=True)
    ]
    return (
        f"no clip is in all of these runs: {shorten_list(firsts)}; compare runs that were tested on the same clips, or "
        "evaluate them on a split that they share (--split)"
    )


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all paths are in, or an empty text where they share none."""
    try:
        folder = os.path.commonpath({os.path.dirname(path) for path in paths})  # noqa: PTH120 (a Path of each takes long)
    except ValueError:  # relative and absolute ones, or two drives
        return ""
    return "" if folder == os.path.sep else folder
