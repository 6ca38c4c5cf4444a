"""How classes and groups lie in the splits: what training lacks, what is rare, and what stands on both sides."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.checks.finding import Finding
from finetune.checks.rows import Rows
from finetune.data.labels import Labels
from finetune.data.splits import SPLITS
from finetune.errors import shorten_list
from finetune.text import count

NO_GROUPS = (
    "It is not known which clips belong together, so clips of one person or one recording may be both in training and "
    "{where}, and the interval treats every clip as independent."
)
ADD_GROUPS = "Give the manifest a column group, or set data.group_pattern, where clips are related."
MIN_IMBALANCE_RATIO = 5  # times as many training clips in the largest class as in the smallest: from there on a warning
MIN_TRAIN_FILES = 5


def class_counts(rows: Rows, readable: Sequence[int]) -> list[dict[str, Any]]:
    """For each class its readable files in each split, and how many cannot be read; classes in order of their names.

    With several tasks those of each that has classes, with the `task`.
    """
    found = []
    for where, labels in rows.named_tasks.items():
        task = {"task": where.removeprefix("tasks.").removesuffix(": ")} if where else {}
        found += [task | each for each in _counts_of(labels, rows.splits, readable)]
    return found


def _counts_of(labels: Labels, splits: Sequence[str], readable: Sequence[int]) -> list[dict[str, Any]]:
    has_NK = labels.has()
    of_split = np.array(splits)[list(readable)]
    good_NK = has_NK[list(readable)]
    return [
        {
            "class": name,
            **{split: int(good_NK[of_split == split, column].sum()) for split in SPLITS},
            "readable": int(good_NK[:, column].sum()),
            "unreadable": int(has_NK[:, column].sum() - good_NK[:, column].sum()),
        }
        for column, name in enumerate(labels.names)
        if has_NK[:, column].any()
    ]


def label_findings(rows: Rows, readable: Sequence[int]) -> list[Finding]:
    """Of readable files alone: a class whose training files are all unreadable is one that training lacks."""
    found = _empty_splits(rows, readable) if any(rows.splits) and rows.labelled else []
    for where, labels in rows.named_tasks.items():
        classes = _counts_of(labels, rows.splits, readable)
        if classes:
            found += [replace(each, what=f"{where}{each.what}") for each in _findings_of_task(rows, labels, classes)]
    return found


def _empty_splits(rows: Rows, readable: Sequence[int]) -> list[Finding]:
    there = {rows.splits[row] for row in readable}
    found = []
    if "train" not in there:
        found.append(Finding("mend", "no_training", "No readable file is in train.", "Give it some."))
    for split, judged in (("val", "the best epoch is chosen"), ("test", "the result is judged")):
        if split not in there:
            found.append(Finding("warning", "no_split", f"No file is in {split}, by which {judged}.", "Give it some."))
    return found


def _findings_of_task(rows: Rows, labels: Labels, classes: Sequence[dict[str, Any]]) -> list[Finding]:
    found = []
    if len(classes) == 1:
        what = f"{_named([classes[0]['class']])} is the only class."
        found.append(Finding("mend", "one_class", what, "A classifier needs at least two."))
    if not any(rows.splits):
        return found
    of_split = {split: [each["class"] for each in classes if each[split]] for split in SPLITS}
    taught = of_split["train"]
    if not taught:
        if "train" in rows.splits:
            found.append(Finding("mend", "no_training", "No readable file in train has a label.", "Give it some."))
        return found
    found += _missing_from_train(labels, classes, taught)
    for split in ("val", "test"):
        absent = [name for name in taught if name not in set(of_split[split])]
        if absent and split in rows.splits:
            what = f"{split} has no file of {_named(absent)}: how well they are told stays unknown."
            found.append(Finding("warning", "absent", what, f"Give {split} some of each class."))
    return found + _rare(classes, taught)


def _missing_from_train(labels: Labels, classes: Sequence[dict[str, Any]], taught: Sequence[str]) -> list[Finding]:
    missing = [each["class"] for each in classes if each["class"] not in set(taught)]
    if not missing:
        return []
    concerned = np.flatnonzero(labels.has()[:, [name in missing for name in labels.names]].any(1))
    what = f"train has no readable file of {_named(missing)}: no model can learn to name it."
    todo = "Move some of its files to train, or take the class out."
    return [Finding("mend", "untaught", what, todo, tuple(concerned.tolist()))]


def _rare(classes: Sequence[dict[str, Any]], taught: Sequence[str]) -> list[Finding]:
    found = []
    by_size = sorted((each for each in classes if each["train"]), key=lambda each: each["train"])
    rare = [each["class"] for each in by_size if each["train"] < MIN_TRAIN_FILES]
    if rare:
        what = f"Fewer than {MIN_TRAIN_FILES} training files each: {_named(rare)}."
        found.append(Finding("warning", "rare", what, "Add some; a class is hardly learned from so few."))
    if len(taught) > 1 and by_size[-1]["train"] >= MIN_IMBALANCE_RATIO * by_size[0]["train"]:
        least, most = by_size[0], by_size[-1]
        what = (
            f"The classes are uneven: {_named([most['class']])} has {count(most['train'], 'training file')}, "
            f"{_named([least['class']])} {least['train']}."
        )
        todo = "Add files of the small ones; judge by macro recall, not by top-1 alone."
        found.append(Finding("warning", "imbalance", what, todo))
    return found


def group_findings(rows: Rows) -> list[Finding]:
    """Groups on both sides of a border between splits, or that no group is known."""
    if rows.labelled and not any(rows.groups):
        return [Finding("warning", "no_groups", NO_GROUPS.format(where="in the test"), ADD_GROUPS)]
    sides: dict[str, set[str]] = {}
    for group, split in zip(rows.groups, rows.splits, strict=True):
        if group and split:
            sides.setdefault(group, set()).add(split)
    leaks = sorted(group for group, splits in sides.items() if len(splits) > 1)
    if not leaks:
        return []
    concerned = tuple(row for row, group in enumerate(rows.groups) if group in set(leaks))
    where = "; ".join(f"“{group}” in {' and '.join(s for s in SPLITS if s in sides[group])}" for group in leaks[:5])
    more = f" and {len(leaks) - 5} more" if len(leaks) > 5 else ""
    what = f"{count(len(leaks), 'group stands', 'groups stand')} on both sides of a border: {where}{more}."
    todo = "Mend the split column, or leave it out and files are divided by group."
    return [Finding("mend", "leak", what, todo, concerned)]


def _named(names: Sequence[str]) -> str:
    return shorten_list([f"“{name}”" for name in names])
