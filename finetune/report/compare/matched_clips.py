"""Match the clips of several runs, and count those that cannot be compared."""

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
    """The clips that all runs have in common, with the same label.

    `rows[i][n]` is the prediction of run i for clip n. `groups[n]` is from the first run that has groups; None without.
    `by_name`: no path was in all runs, so clips were matched by parent folder and file name. `left_out[i]` counts clips
    of run i that other runs do not have. `relabelled` are common clips whose labels differ; they are not in `rows`.
    """

    rows: list[list[Row]]
    groups: list[str] | None
    by_name: bool
    left_out: list[int]
    relabelled: list[dict[str, Any]]


def match_clips(names: Sequence[str], tables: Sequence[Sequence[Row]], *, multilabel: bool) -> MatchedClips:
    """Match the clips of one table per run. Raises RunError where no clip is in all tables with the same label."""
    keyed = [_by_key(table, _path_resolver()) for table in tables]
    by_name = not _common_keys(keyed)
    if by_name:
        keyed = [_by_key(table, _folder_and_name) for table in tables]
    common = _common_keys(keyed)
    if not common:
        raise RunError(_no_common_clips(names, tables))
    relabelled = [key for key in common if len({label_set(table[key]["label"], multilabel) for table in keyed}) > 1]
    excluded = set(relabelled)
    compared = [key for key in common if key not in excluded]
    if not compared:
        raise RunError(
            f"all {len(common)} clips that {shorten_list(names)} share have different labels in these runs; "
            "compare runs of the same task"
        )
    rows = [[table[key] for key in compared] for table in keyed]
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
    """A label or a prediction as a set of classes."""
    return frozenset(filter(None, text.split(LABEL_SEPARATOR))) if multilabel else frozenset([text])


def _by_key(table: Sequence[Row], key_of: Callable[[str], str]) -> dict[str, Row]:
    """Rows by key; rows whose key is not unique are left out."""
    keys = [key_of(row["path"]) for row in table]
    counts = Counter(keys)
    return {key: row for key, row in zip(keys, table, strict=True) if counts[key] == 1}


def _path_resolver() -> Callable[[str], str]:
    """A function that gives the real path of a clip; each folder is resolved only once."""
    folder_of = functools.cache(os.path.realpath)

    def resolved(path: str) -> str:
        folder, name = os.path.split(path)
        inside = os.path.join(folder_of(folder), name)  # noqa: PTH118 (a Path takes long)
        return os.path.realpath(inside) if name in {"", ".", ".."} or os.path.islink(inside) else inside  # noqa: PTH114

    return resolved


def _folder_and_name(path: str) -> str:
    return "/".join(PurePath(path.replace("\\", "/")).parts[-2:])


def _common_keys(keyed: Sequence[dict[str, Row]]) -> list[str]:
    return [key for key in keyed[0] if all(key in table for table in keyed[1:])]


def _groups(rows: Sequence[Sequence[Row]]) -> list[str] | None:
    """The groups of the first run that has any; a clip without a group is a group of its own."""
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
        f"no clip is in all of these runs: {shorten_list(firsts)}; compare runs that were evaluated on the same clips, "
        "or evaluate them on a split that they share (--split)"
    )
