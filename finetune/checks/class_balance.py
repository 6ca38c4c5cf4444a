"""How classes and groups are spread over the splits: missing and rare classes, groups in several splits."""

from collections import Counter
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
    "There are no groups, so clips of one person or one recording may be both in training and {where}, and the "
    "interval treats every clip as independent."
)
ADD_GROUPS = "If clips are related, add a column group to the manifest, or set data.group_pattern."
MIN_IMBALANCE_RATIO = 5  # of the largest to the smallest class, in training files, for a warning
MIN_TRAIN_FILES = 5  # of a class; fewer give a warning


def class_counts(rows: Rows, readable: Sequence[int]) -> list[dict[str, Any]]:
    """For each class the number of its readable files in each split, and of its unreadable files; sorted by name.

    With several tasks, for each task that has classes, with its name as `task`.
    """
    counts = []
    for where, labels in rows.named_tasks.items():
        task = {"task": where.removeprefix("tasks.").removesuffix(": ")} if where else {}
        counts += [task | of_class for of_class in _counts_of(labels, rows.splits, readable)]
    return counts


def _counts_of(labels: Labels, splits: Sequence[str], readable: Sequence[int]) -> list[dict[str, Any]]:
    has_NK = labels.presence()
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
    """Findings about classes, by readable files alone: those in unreadable files are missing from training."""
    findings = _empty_splits(rows, readable) if any(rows.splits) and rows.labelled else []
    for where, labels in rows.named_tasks.items():
        classes = _counts_of(labels, rows.splits, readable)
        if classes:
            of_task = _findings_of_task(rows, labels, classes)
            findings += [replace(finding, what=f"{where}{finding.what}") for finding in of_task]
    return findings


def _empty_splits(rows: Rows, readable: Sequence[int]) -> list[Finding]:
    splits = {rows.splits[row] for row in readable}
    todo = f"Add {rows.noun}s to it."
    findings = []
    if "train" not in splits:
        findings.append(Finding("mend", "no_training", f"The split train has no readable {rows.noun}.", todo))
    for split, purpose in (("val", "choose the best epoch"), ("test", "measure the result")):
        if split not in splits:
            what = f"The split {split} has no readable {rows.noun}, so it cannot {purpose}."
            findings.append(Finding("warning", "no_split", what, todo))
    return findings


def _findings_of_task(rows: Rows, labels: Labels, classes: Sequence[dict[str, Any]]) -> list[Finding]:
    findings = []
    if len(classes) == 1:
        what = f"{_named([classes[0]['class']])} is the only class."
        findings.append(Finding("mend", "one_class", what, "A classifier needs at least two."))
    if not any(rows.splits):
        return findings
    classes_of = {split: [counts["class"] for counts in classes if counts[split]] for split in SPLITS}
    trained = classes_of["train"]
    if not trained:
        if "train" in rows.splits:
            what = f"No readable {rows.noun} in train has a label."
            findings.append(Finding("mend", "no_training", what, f"Label training {rows.noun}s."))
        return findings
    findings += _missing_from_train(labels, classes, trained, rows.noun)
    for split in ("val", "test"):
        absent = [name for name in trained if name not in set(classes_of[split])]
        if absent and split in rows.splits:
            what = (
                f"{split} has no readable {rows.noun} of {_named(absent)}: accuracy on them cannot be measured there."
            )
            findings.append(Finding("warning", "absent", what, f"Add {rows.noun}s of each class to {split}."))
    return findings + _rare(classes, trained, rows.noun)


def _missing_from_train(
    labels: Labels, classes: Sequence[dict[str, Any]], trained: Sequence[str], noun: str
) -> list[Finding]:
    missing = [counts["class"] for counts in classes if counts["class"] not in set(trained)]
    if not missing:
        return []
    concerned = np.flatnonzero(labels.presence()[:, [name in missing for name in labels.names]].any(1))
    what = f"train has no readable {noun} of {_named(missing)}: a model cannot learn to predict it."
    todo = f"Move some of its {noun}s to train, or remove the class."
    return [Finding("mend", "untaught", what, todo, tuple(concerned.tolist()))]


def _rare(classes: Sequence[dict[str, Any]], trained: Sequence[str], noun: str) -> list[Finding]:
    findings = []
    by_size = sorted((counts for counts in classes if counts["train"]), key=lambda counts: counts["train"])
    rare = [counts["class"] for counts in by_size if counts["train"] < MIN_TRAIN_FILES]
    if rare:
        what = f"Classes with fewer than {MIN_TRAIN_FILES} training {noun}s: {_named(rare)}."
        findings.append(Finding("warning", "rare", what, f"Add {noun}s; so few are rarely enough to learn a class."))
    if len(trained) > 1 and by_size[-1]["train"] >= MIN_IMBALANCE_RATIO * by_size[0]["train"]:
        smallest, largest = by_size[0], by_size[-1]
        what = (
            f"Classes are imbalanced: {_named([largest['class']])} has {count(largest['train'], f'training {noun}')}, "
            f"{_named([smallest['class']])} {smallest['train']}."
        )
        todo = f"Add {noun}s of the rare classes; report macro recall, not top-1 alone."
        findings.append(Finding("warning", "imbalance", what, todo))
    return findings


def group_findings(rows: Rows) -> list[Finding]:
    """Findings about groups: that there are none, or that some are in more than one split."""
    if rows.labelled and not any(rows.groups):
        return [Finding("warning", "no_groups", NO_GROUPS.format(where="in the test"), ADD_GROUPS)]
    # Of intervals, a group of one file is a recording, whose splits `interval_findings` compares.
    files_of = Counter(group for group, _ in set(zip(rows.groups, rows.paths, strict=True)))
    splits_of: dict[str, set[str]] = {}
    for group, split in zip(rows.groups, rows.splits, strict=True):
        if group and split and (rows.noun == "file" or files_of[group] > 1):
            splits_of.setdefault(group, set()).add(split)
    leaks = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if not leaks:
        return []
    concerned = tuple(row for row, group in enumerate(rows.groups) if group in set(leaks))
    where = "; ".join(f"“{group}” in {' and '.join(s for s in SPLITS if s in splits_of[group])}" for group in leaks[:5])
    more = f" and {len(leaks) - 5} more" if len(leaks) > 5 else ""
    what = f"{count(len(leaks), 'group is', 'groups are')} in more than one split: {where}{more}."
    todo = "Correct the split column, or remove it: files are then divided by group."
    return [Finding("mend", "leak", what, todo, concerned)]


def _named(names: Sequence[str]) -> str:
    return shorten_list([f"“{name}”" for name in names])
