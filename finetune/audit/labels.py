"""How classes and groups lie in the splits: what training lacks, what is rare, and what stands on both sides."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune.audit.finding import Finding
from finetune.audit.rows import Rows
from finetune.errors import some
from finetune.manifest import SPLITS
from finetune.report.words import count

IMBALANCE = 5  # times as many training clips in the largest class as in the smallest: from there on a warning
FEWEST_TO_LEARN = 5


def class_counts(rows: Rows, readable: Sequence[int]) -> list[dict[str, Any]]:
    """For each class its readable files in each split, and how many cannot be read; classes in order of their names."""
    found = Counter((name, rows.splits[row]) for row in readable for name in rows.classes(row))
    readable_of = Counter(name for row in readable for name in rows.classes(row))
    all_of = Counter(name for row in range(len(rows)) for name in rows.classes(row))
    return [
        {
            "class": name,
            **{split: found[name, split] for split in SPLITS},
            "readable": readable_of[name],
            "unreadable": all_of[name] - readable_of[name],
        }
        for name in sorted(all_of)
    ]


def label_findings(rows: Rows, readable: Sequence[int]) -> list[Finding]:
    """Of readable files alone: a class whose training files are all unreadable is one that training lacks."""
    classes = class_counts(rows, readable)
    if not classes:
        return []
    found = []
    if len(classes) == 1:
        what = f"{_named([classes[0]['class']])} is the only class."
        found.append(Finding("mend", "one_class", what, "A classifier needs at least two."))
    if not any(rows.splits):
        return found
    of_split = {split: [each["class"] for each in classes if each[split]] for split in SPLITS}
    taught = of_split["train"]
    found += _missing_from_train(rows, classes, taught)
    for split in ("val", "test"):
        absent = [name for name in taught if name not in set(of_split[split])]
        if not of_split[split]:
            judged = "the best epoch is chosen" if split == "val" else "the result is judged"
            found.append(Finding("warning", "no_split", f"No file is in {split}, by which {judged}.", "Give it some."))
        elif absent:
            what = f"{split} has no file of {_named(absent)}: how well they are told stays unknown."
            found.append(Finding("warning", "absent", what, f"Give {split} some of each class."))
    return found + _rare(classes, taught)


def _missing_from_train(rows: Rows, classes: Sequence[dict[str, Any]], taught: Sequence[str]) -> list[Finding]:
    if not taught:
        return [Finding("mend", "no_training", "No readable file is in train.", "Give it some.")]
    missing = [each["class"] for each in classes if each["class"] not in set(taught)]
    if not missing:
        return []
    concerned = tuple(row for row in range(len(rows)) if not set(missing).isdisjoint(rows.classes(row)))
    what = f"train has no readable file of {_named(missing)}: no model can learn to name it."
    return [Finding("mend", "untaught", what, "Move some of its files to train, or take the class out.", concerned)]


def _rare(classes: Sequence[dict[str, Any]], taught: Sequence[str]) -> list[Finding]:
    found = []
    by_size = sorted((each for each in classes if each["train"]), key=lambda each: each["train"])
    rare = [each["class"] for each in by_size if each["train"] < FEWEST_TO_LEARN]
    if rare:
        what = f"Fewer than {FEWEST_TO_LEARN} training files each: {_named(rare)}."
        found.append(Finding("warning", "rare", what, "Add some; a class is hardly learned from so few."))
    if len(taught) > 1 and by_size[-1]["train"] >= IMBALANCE * by_size[0]["train"]:
        least, most = by_size[0], by_size[-1]
        what = (
            f"The classes are uneven: {_named([most['class']])} has {count(most['train'], 'training file')}, "
            f"{_named([least['class']])} {least['train']}."
        )
        todo = "Add files of the small ones; judge by macro recall, not by top-1 alone."
        found.append(Finding("warning", "imbalance", what, todo))
    return found


def group_findings(rows: Rows) -> list[Finding]:
    """Groups on both sides of a border between splits."""
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
    return some([f"“{name}”" for name in names])
