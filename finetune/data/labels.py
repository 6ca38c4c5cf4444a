"""Labels of tasks, masked where missing, and laid out as one target vector per clip; read_labels.py reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from finetune.data.frame_objects import classes_present, no_objects, objects_of_frame, with_class_codes
from finetune.data.object_labels import objects_text
from finetune.errors import RecipeError
from finetune.recipe.tasks import CATEGORICAL_KINDS, DENSE_KINDS, DETECTION_KINDS, SPATIAL_KINDS, OutputSpec

LABEL_SEPARATOR = ";"  # between the classes of a multi-label row
UNKNOWN_LABELS = ";;"  # marks a row without a label of several classes or objects; an empty cell means that it has none
LIST_KINDS = ("multilabel", *DETECTION_KINDS)  # a row has any number of classes or objects, also none
TARGET_SCALE = 0.1  # boxes and motion are regressed in units of a tenth of the picture's side
INITIAL_BOX = (0.5, 0.5, 0.25, 0.25)  # cx, cy, w, h in fractions of the picture: what a head's output of 0 means


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one task: `values` are class indices (N,), present classes, bool (N, K), or numbers (N, K).

    Of detection and tracking they are objects (N, M, 9), see `frame_objects`; of segmentation the paths (N,) of masks,
    absolute, UTF-8 bytes. `names` (K,) are the classes or levels, or else the columns. `known` (N,) is false where a
    row has no label; its values are then undefined.
    """

    kind: str
    names: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray

    def at(self, rows: np.ndarray) -> Labels:
        """The labels of some rows, given by their indices (M,), in this order."""
        return Labels(self.kind, self.names, self.values[rows], self.known[rows])

    def named(self, names: tuple[str, ...]) -> Labels:
        """The same labels with classes `names`, which must include all present ones; columns of numbers are renamed."""
        if names == self.names:
            return self
        if self.kind in DETECTION_KINDS:
            values = with_class_codes(self.values, [names.index(name) for name in self.names])
            return replace(self, names=names, values=values)
        if self.kind not in CATEGORICAL_KINDS:
            return Labels(self.kind, names, self.values, self.known)
        places = np.array([names.index(name) for name in self.names], dtype=np.int64)
        if self.kind == "multilabel":
            values = np.zeros((len(self.values), len(names)), dtype=bool)
            values[:, places] = self.values
        else:
            values = np.append(places, len(names))[self.values]
        return Labels(self.kind, names, values, self.known)

    def among(self, names: tuple[str, ...]) -> Labels:
        """The same labels with classes `names` only; a row with any other class becomes unlabelled."""
        if self.kind not in (*CATEGORICAL_KINDS, *DETECTION_KINDS):
            return self.named(names)
        unknown_K = np.array([name not in names for name in self.names], dtype=bool)
        known = self.known & ~self.presence()[:, unknown_K].any(1)
        if self.kind in DETECTION_KINDS:
            codes = [names.index(name) if name in names else -1 for name in self.names]
            return Labels(self.kind, names, with_class_codes(self.values, codes), known)
        places = np.array([names.index(name) if name in names else len(names) for name in self.names], dtype=np.int64)
        if self.kind == "multilabel":
            values = np.zeros((len(known), len(names)), dtype=bool)
            values[:, places[~unknown_K]] = self.values[:, ~unknown_K]
        else:
            values = np.append(places, len(names))[self.values]
        return Labels(self.kind, names, values, known)

    def text(self, row: int) -> list[str]:
        """The row's label as a manifest's cells, one per column."""
        if not self.known[row]:
            return [UNKNOWN_LABELS if self.kind in LIST_KINDS else ""] * self.num_columns
        if self.kind == "multilabel":
            return [join_labels(self.names, self.values[row])]
        if self.kind in DETECTION_KINDS:
            return [objects_text(objects_of_frame(self.values[row], self.names))]
        if self.kind == "segment":
            return [os.fsdecode(self.values[row])]
        return (
            [self.names[self.values[row]]]
            if self.kind in CATEGORICAL_KINDS
            else [repr(float(x)) for x in self.values[row]]
        )

    def counts(self, rows: np.ndarray) -> list[int]:
        """The number of these rows (M,) with each class; an empty list for tasks of numbers or of masks."""
        if self.kind in DETECTION_KINDS:
            return self.at(rows).presence().sum(0).tolist()
        known_values = self.values[rows][self.known[rows]]
        if self.kind == "multilabel":
            return known_values.sum(0).tolist()
        return np.bincount(known_values, minlength=len(self.names)).tolist() if self.kind in CATEGORICAL_KINDS else []

    def presence(self) -> np.ndarray:
        """Which classes each row has, bool (N, K); for numbers and masks, whether it has a label, bool (N, 1).

        Objects to ignore do not count.
        """
        if self.kind == "multilabel":
            return self.values & self.known[:, None]
        if self.kind in DETECTION_KINDS:
            return classes_present(self.values, len(self.names)) & self.known[:, None]
        if self.kind not in CATEGORICAL_KINDS:
            return self.known[:, None]
        return (self.values[:, None] == np.arange(len(self.names))) & self.known[:, None]

    @property
    def num_columns(self) -> int:
        return 1 if self.kind in (*CATEGORICAL_KINDS, *DENSE_KINDS) else len(self.names)


def split_labels(label: str) -> tuple[str, ...]:
    """The classes in a text `a;b;c`."""
    return tuple(name for name in map(str.strip, label.split(LABEL_SEPARATOR)) if name)


def join_labels(classes: Sequence[str], present_K: np.ndarray) -> str:
    """The classes that are present, `present_K` bool (K,), as a manifest's cell `a;b;c`."""
    return LABEL_SEPARATOR.join(name for name, present in zip(classes, present_K, strict=True) if present)


def output_specs(
    labels: Mapping[str, Labels], rows: np.ndarray, *, clip_size: int | None = None
) -> dict[str, OutputSpec]:
    """The outputs of a model's head for each task; segmentation needs the side `clip_size` of clips in pixels.

    Numbers are standardized: `center` and `scale` are their mean and standard deviation over the labelled `rows` (M,).
    """
    specs = {}
    for name, task_labels in labels.items():
        kind, names = task_labels.kind, task_labels.names
        center: tuple[float, ...] = ()
        scale: tuple[float, ...] = ()
        if kind == "box":
            center, scale = INITIAL_BOX, (TARGET_SCALE,) * 4
        elif kind in SPATIAL_KINDS:
            center, scale = (0.0, 0.0), _motion_scale(task_labels.at(rows))
        elif kind == "regress":
            values = task_labels.values[rows][task_labels.known[rows]]
            deviation = values.std(0) if len(values) else np.ones(len(names))
            center = tuple(values.mean(0).tolist()) if len(values) else (0.0,) * len(names)
            scale = tuple(np.where(deviation > 0, deviation, 1.0).tolist())
        specs[name] = OutputSpec(kind, names, center, scale, _target_slots(name, task_labels.at(rows), clip_size))
    return specs


def _target_slots(name: str, labels: Labels, clip_size: int | None) -> int:
    """`OutputSpec.slots`: the most objects of a labelled frame, at least 1, or the side of a mask in pixels."""
    if labels.kind in DETECTION_KINDS:
        counts = (labels.values[labels.known][..., 0] >= 0).sum(1)
        return max(1, int(counts.max(initial=1)))
    if labels.kind == "segment" and clip_size is None:
        raise RecipeError(f"tasks.{name}: segmentation needs the size of clips in pixels; set clip.size")
    return clip_size or 0 if labels.kind == "segment" else 0


def _motion_scale(motion: Labels) -> tuple[float, ...]:
    """Scales (x, y) in proportion to the standard deviations of motion; the larger is a tenth of the picture."""
    values = motion.values[motion.known]
    deviation = values.std(0) if len(values) else np.ones(2)
    ratios = deviation / deviation.max() if deviation.max() > 0 else np.ones(2)
    return tuple((TARGET_SCALE * np.maximum(ratios, 0.01)).tolist())


@dataclass(frozen=True)
class TargetLayout:
    """Positions of each task's targets in one vector: first the targets of all tasks, then one 0/1 mask per task.

    The mask is 1 where the clip has a label for the task.
    """

    outputs: Mapping[str, OutputSpec]

    @property
    def places(self) -> dict[str, slice]:
        """The slice of each task's targets; a class or level takes one number, see `OutputSpec.target_width`."""
        ends = [0, *accumulate(output.target_width for output in self.outputs.values())]
        return {name: slice(*bounds) for name, bounds in zip(self.outputs, pairwise(ends), strict=True)}

    @property
    def width(self) -> int:
        return sum(output.target_width for output in self.outputs.values()) + len(self.outputs)

    def vector(self, targets: Mapping[str, np.ndarray | None]) -> np.ndarray:
        """The vector, float32 (W,), of one clip's targets: by task (target_width,), or None where it has no label."""
        vector = np.zeros(self.width, dtype=np.float32)
        for number, (name, place) in enumerate(self.places.items()):
            target = targets[name]
            if target is not None:
                vector[place] = target
                vector[self.width - len(self.outputs) + number] = 1
        return vector


def class_targets(labels: Labels, row: int) -> np.ndarray:
    """The target of a categorical row, float32 (K,): 1 for each class that it has, else 0."""
    if labels.kind == "multilabel":
        return labels.values[row].astype(np.float32)
    return (np.arange(len(labels.names)) == labels.values[row]).astype(np.float32)


def empty_labels(output: OutputSpec, rows: int) -> Labels:
    """The labels of a task of which none of `rows` rows has a label."""
    count = len(output.names)
    values: np.ndarray = np.zeros((rows, count), dtype=bool if output.kind == "multilabel" else float)
    if output.kind in CATEGORICAL_KINDS and output.kind != "multilabel":
        values = np.full(rows, count, dtype=np.int64)
    elif output.kind in DENSE_KINDS:
        values = np.full(rows, b"") if output.kind == "segment" else no_objects(rows)
    return Labels(output.kind, output.names, values, np.zeros(rows, dtype=bool))
