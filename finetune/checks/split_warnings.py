"""What makes a test hard to believe and shows without opening a video.

Copies across splits, names that nothing taught, shortcuts, no groups.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.checks.class_balance import ADD_GROUPS, NO_GROUPS
from finetune.checks.shortcuts import find_shortcuts, shortcut_findings
from finetune.data.manifest import Manifest
from finetune.data.splits import file_ids
from finetune.errors import shorten_list
from finetune.text import count
from finetune.video.file_facts import FileFacts
from finetune.video.fingerprints import exact_duplicates

MAX_ROWS = 20_000  # of which shortcuts are asked for


def warnings_of_test(manifest: Manifest, tested: Manifest, facts: FileFacts, split: str) -> list[dict[str, str]]:
    """{"what", "do"} of each thing. `tested` are the rows of a split alone, and `facts` what is known of them."""
    return warnings_of_folds([manifest], tested, facts, split)


def warnings_of_folds(
    folds: Sequence[Manifest], tested: Manifest, facts: FileFacts, split: str
) -> list[dict[str, str]]:
    """The same of several tests of one set of rows, each with its own splits, that together are `tested`."""
    return [*_duplicate_leaks(folds, split), *_untrained_classes(folds, split), *warnings_of_set(tested, facts, split)]


def _duplicate_leaks(folds: Sequence[Manifest], split: str) -> list[dict[str, str]]:
    """Tested files that are, to the byte, also among those that the model learned from or was chosen by."""
    manifest = folds[0]
    known = {"test": {"train", "val"}, "val": {"train"}}.get(split, set())
    leaked = {
        row
        for same in _duplicate_positions([manifest.path(row) for row in range(len(manifest))])
        for fold in folds
        if known & set(fold.splits[same].tolist())
        for row in same
        if fold.splits[row] == split
    }
    if not leaked:
        return []
    among = "learned from or was chosen by" if split == "test" else "learned from"
    return [{"what": _leak(len(leaked), among), "do": "Run finetune check on the data with --fix, then train again."}]


def _leak(number: int, among: str) -> str:
    verb = "is" if number == 1 else "are"
    return f"A leak: {count(number, 'tested file')} {verb}, to the byte, also among those that the model {among}."


def _duplicate_positions(paths: Sequence[Path]) -> list[list[int]]:
    """Positions of files with equal contents; those that are not there, or are packed, are left aside."""
    there = [position for position, path in enumerate(paths) if path.exists()]
    return [[there[place] for place in each] for each in exact_duplicates([paths[position] for position in there])]


def overlap_warnings(trained: Manifest, other: Manifest) -> list[dict[str, str]]:
    """{"what", "do"} of files and groups of another set that the model learned from or was chosen by."""
    rows = np.flatnonzero(trained.splits != "test")
    paths = [trained.path(row) for row in rows.tolist()] + [other.path(row) for row in range(len(other))]
    sets = [*_duplicate_positions(paths), *_positions_by_number(file_ids(paths))]
    leaked = {each for same in sets if min(same) < len(rows) for each in same if each >= len(rows)}
    todo = "Leave them out of the set: the model has seen them."
    found = [{"what": _leak(len(leaked), "learned from or was chosen by"), "do": todo}] if leaked else []
    if trained.groups is not None and other.groups is not None:
        shared = np.isin(other.groups, trained.groups[rows])
        if shared.any():
            clips, names = count(int(shared.sum()), "clip"), shorten_list(sorted(set(other.groups[shared].tolist())))
            what = f"A possible leak: {clips} in groups that the model learned from, by their names: {names}."
            found.append({"what": what, "do": "If they are the same people or recordings, leave these clips out."})
    return found


def _positions_by_number(numbers: np.ndarray) -> list[list[int]]:
    sets: dict[int, list[int]] = {}
    for position, number in enumerate(numbers.tolist()):
        sets.setdefault(number, []).append(position)
    return [same for same in sets.values() if len(same) > 1]


def warnings_of_set(tested: Manifest, facts: FileFacts, split: str) -> list[dict[str, str]]:
    """{"what", "do"} of what weakens a test on these rows, whatever the model learned from."""
    return [*_shortcuts(tested, facts), *_no_groups(tested, split)]


def _untrained_classes(folds: Sequence[Manifest], split: str) -> list[dict[str, str]]:
    """Of several tasks, the names that tested rows have and no training row; a first task with such is refused."""
    found = []
    for task, labels in folds[0].tasks.items():
        missed: dict[str, int] = {}
        for fold in folds:
            taught, asked = (fold.tasks[task].counts(fold.rows(each)) for each in ("train", split))
            for name, there, wanted in zip(labels.names, taught, asked, strict=False):
                if wanted and not there:
                    missed[name] = missed.get(name, 0) + wanted
        if missed:
            clips = count(sum(missed.values()), "tested clip")
            what = f"Of {task}, no training clip has {shorten_list([*missed])}: of {clips} the model cannot know it."
            found.append({"what": what, "do": "Label training clips of it, or leave these labels of the test empty."})
    return found


def _shortcuts(manifest: Manifest, facts: FileFacts) -> list[dict[str, str]]:
    """Of each task with one class a clip."""
    found = []
    for task, labels in manifest.labels_by_task.items():
        if labels.kind not in ("classify", "ordinal"):
            continue
        rows = np.setdiff1d(np.flatnonzero(labels.known), list(facts.bad))[:MAX_ROWS]
        if len(rows):
            named = np.array(labels.names)[labels.values[rows]]
            units = rows.astype(str) if manifest.groups is None else manifest.groups[rows]
            findings = shortcut_findings(find_shortcuts(_facts_at(facts, rows), named, units))
            where = f"tasks.{task}: " if manifest.tasks else ""
            found += [{"what": f"{where}{each.what}", "do": each.todo} for each in findings]
    return found


def _facts_at(facts: FileFacts, rows: np.ndarray) -> dict[str, np.ndarray]:
    heights, widths = facts.heights[rows].astype(float), facts.widths[rows].astype(float)
    asked = {"shape": np.round(widths / np.maximum(heights, 1), 3), "size": widths * heights}
    if facts.rates is not None and facts.seconds is not None:
        asked |= {"frame rate": np.round(facts.rates[rows], 2), "duration": facts.seconds[rows]}
    return asked


def _no_groups(manifest: Manifest, split: str) -> list[dict[str, str]]:
    if manifest.groups is not None or split == "train":
        return []
    return [{"what": NO_GROUPS.format(where="here"), "do": ADD_GROUPS}]
