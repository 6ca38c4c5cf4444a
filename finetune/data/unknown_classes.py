"""Classes left out of training, whose clips show how well an evaluation tells what is none of the model's classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetune.arguments import check_arguments
from finetune.data.manifest import Manifest
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.text import count


@check_arguments
def leave_out_classes(manifest: Manifest, classes: Sequence[str]) -> Manifest:
    """The manifest without some classes; their rows become its `unknown`, which is None without any.

    Raises DataError for a class that no row has, where fewer than two classes are left, and for clips with several
    classes or tasks.
    """
    if manifest.tasks or manifest.targets is not None:
        raise DataError(f"{manifest.source}: evaluate.unknown takes one class per clip, not several classes or tasks")
    for name in classes:
        if name not in manifest.classes:
            near = suggest_similar(name, manifest.classes)
            listed = shorten_list(manifest.classes, limit=20)
            raise DataError(
                f"{manifest.source}: evaluate.unknown: there is no class {name!r}{near}; there are {listed}"
            )
    known = tuple(name for name in manifest.classes if name not in classes)
    if len(known) < 2:
        raise DataError(
            f"{manifest.source}: evaluate.unknown leaves {shorten_list(known) or 'no class'} to train on; a classifier "
            "needs at least two classes"
        )
    divided = divide_by_classes(manifest, known)
    if divided.unknown is None:
        return divided
    left_out = f"{count(len(divided.unknown), 'clip')} of {shorten_list(divided.unknown.classes)}"
    return replace(divided, notes=(*manifest.notes, f"evaluate.unknown: left out of training: {left_out}"))


def divide_by_classes(manifest: Manifest, known: Sequence[str]) -> Manifest:
    """The rows with the classes `known`, in this order; its `unknown` are the rows of all others, None without any."""
    labels = manifest.labels_by_task[DEFAULT_TASK]
    others = tuple(name for name in labels.names if name not in known)
    of_known = labels.among(tuple(known))
    rows = manifest.relabelled(of_known).without(np.flatnonzero(~of_known.known))
    unknown = manifest.relabelled(labels.among(others)).without(np.flatnonzero(of_known.known))
    return replace(rows, unknown=replace(unknown, notes=()) if len(unknown) else None)


def unknown_rows(manifest: Manifest, split: str) -> Manifest | None:
    """The rows of unknown classes that an evaluation on a split scores; None where there are none.

    They are all rows whose group has no row of a known class in another split, whatever their own split is: clips of a
    person or place that the model was trained on would look more familiar than the known clips of the split. Without
    groups, they are the rows of other files.
    """
    if manifest.unknown is None:
        return None
    unknown, is_elsewhere = manifest.unknown, manifest.splits != split
    if manifest.groups is not None and unknown.groups is not None:
        is_familiar = np.isin(unknown.groups, manifest.groups[is_elsewhere])
    else:
        is_familiar = np.isin(unknown.paths, manifest.paths[is_elsewhere])
    rows = unknown.without(np.flatnonzero(is_familiar))
    return replace(rows, splits=np.full(len(rows), split)) if len(rows) else None
