"""Which rows of an index may be hits: those with a label, of a split or a group, or below a path."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune.errors import IndexFolderError, shorten_list, suggest_similar
from finetune.vector_index.entry import Entry
from finetune.vector_index.index import VectorIndex

KEYS = ("label", "split", "group", "path")
MAX_NAMES = 10_000  # that are kept for the message about an unknown one


@dataclass
class _Condition:
    """`key=value`, the number of rows that meet it, and the names that there are for its key."""

    text: str
    key: str
    value: str
    rows: int = 0
    known: set[str] = field(default_factory=set)

    def is_met(self, entry: Entry) -> bool:
        names = _names(entry, self.key)
        is_met = any(_is_below(name, self.value) for name in names) if self.key == "path" else self.value in names
        self.rows += is_met
        if not self.rows and len(self.known) < MAX_NAMES:
            self.known.update(names)
        return is_met


def allowed_rows(index: VectorIndex, conditions: Sequence[str]) -> np.ndarray | None:
    """Whether each row (N,) meets all conditions; None without conditions. One pass, in constant memory.

    A condition is `label=NAME`, `split=NAME`, `group=NAME`, `path=FOLDER`, or `TASK=NAME` for the labels of one task.
    Several with the same key are alternatives. Raises IndexFolderError for a condition that no row meets.
    """
    if not conditions:
        return None
    parsed = [_parse(condition) for condition in conditions]
    by_key: dict[str, list[_Condition]] = {}
    for condition in parsed:
        by_key.setdefault(condition.key, []).append(condition)
    tasks: dict[str, None] = {}
    allowed = np.zeros(len(index), dtype=bool)
    for row, entry in enumerate(index.entries()):
        tasks |= dict.fromkeys(entry.labels or ())
        met = [[each.is_met(entry) for each in group] for group in by_key.values()]  # each condition sees each row
        allowed[row] = all(map(any, met))
    if problems := [_problem(condition, tasks) for condition in parsed if not condition.rows]:
        raise IndexFolderError("\n".join(f"{index.folder}: {problem}" for problem in problems))
    if not allowed.any():
        raise IndexFolderError(f"{index.folder}: no row meets all of {', '.join(conditions)}")
    return allowed


def _parse(text: str) -> _Condition:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise IndexFolderError(f"--within {text}: needs a key and a value, such as label=NAME; keys are {_keys(())}")
    return _Condition(text, key, os.path.normpath(Path(value).absolute()) if key == "path" else value)


def _names(entry: Entry, key: str) -> Sequence[str]:
    labels = entry.labels or {}
    if key == "label" and "label" not in labels:
        return [name for names in labels.values() for name in names]
    single = {"split": entry.split, "group": entry.group, "path": entry.path}
    if key in labels or key not in single:
        return labels.get(key, [])
    value = single[key]
    return [] if value is None else [value]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _keys(tasks: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys([*KEYS, *tasks]))


def _problem(condition: _Condition, tasks: Iterable[str]) -> str:
    if condition.key == "path":
        return f"no row has a file in {condition.value}"
    if condition.known:
        near = suggest_similar(condition.value, condition.known)
        known = near or f"; there are {shorten_list(sorted(condition.known))}"
        return f"no row has {condition.text}{known}"
    if condition.key in KEYS:
        return f"no row has a {condition.key}, so none has {condition.text}"
    return (
        f"there is no key {condition.key!r}{suggest_similar(condition.key, [*KEYS, *tasks])}; keys are {_keys(tasks)}"
    )
