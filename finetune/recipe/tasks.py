"""The recipe's sections `tasks` and `multitask`: kinds of tasks, their columns, and how tasks share a backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from finetune.errors import RunError
from finetune.recipe.fields import Head, NonNegativeFloat, PathOrUrl, Pooling, PositiveFloat, Section
from finetune.recipe.object_fields import TARGET_FIELDS

TaskKind = Literal["classify", "multilabel", "ordinal", "regress", "box", "motion", "detect", "track", "segment"]
DEFAULT_TASK = "label"  # the name of the only task of a run without tasks
CATEGORICAL_KINDS = ("classify", "multilabel", "ordinal")  # the output is a class or level; other kinds predict numbers
CLASSIFICATION_KINDS = ("classify", "multilabel")  # unordered classes: a temperature is fitted to calibrate them
SPATIAL_KINDS = ("box", "motion")  # positions in the picture: geometric augmentation transforms their targets too
DETECTION_KINDS = ("detect", "track")  # any number of boxes with classes in a frame
DENSE_KINDS = (*DETECTION_KINDS, "segment")  # outputs for positions of a feature pyramid, see model/dense
MAX_MASK_CLASSES = 255  # a mask's value 255 is unlabelled
DEFAULT_COLUMNS = {
    "box": ("x", "y", "w", "h"),
    "motion": ("dx", "dy"),
    "detect": ("objects",),
    "track": ("objects",),
    "segment": ("mask",),
}
ALLOWED_LOSSES = {
    **dict.fromkeys(CLASSIFICATION_KINDS, ("cross_entropy", "focal", "class_balanced", "bce")),
    "ordinal": ("bce",),
    **dict.fromkeys(("regress", "box", "motion"), ("smooth_l1", "mse", "l1")),
}
DEFAULT_LOSS = {"ordinal": "bce", "motion": "mse", "regress": "mse", "box": "smooth_l1"}
Weighting = Literal[
    "fixed", "uncertainty", "dwa", "random", "famo", "gradnorm", "pcgrad", "cagrad", "aligned_mtl", "upgrad"
]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


StringTuple = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Task(Section):
    """One of several tasks. Keys that are null get the default of the task's kind, or the value in `model`."""

    kind: TaskKind = Field(
        description="classify: one of several classes; multilabel: any of several classes, a;b; ordinal: ordered "
        "levels; regress: numbers; box: one box in the middle frame, in pixels of the video: left, top, width, height; "
        "motion: pixels per frame, right and down; detect: any number of boxes with classes in the middle frame; "
        "track: the same, and the motion of each box; segment: a class for each pixel of the middle frame",
    )
    columns: StringTuple | None = Field(
        None,
        description="label columns of the manifest; null: x, y, w, h for a box, dx, dy for motion, objects for detect "
        "and track, mask for segment, else the task's name",
    )
    manifest: PathOrUrl | None = Field(
        None,
        description="a separate CSV file with path and these columns; clips that are not in it have no label",
    )
    levels: StringTuple | None = Field(
        None, description="ordinal: names of levels, lowest first; null: numbers, sorted"
    )
    classes: StringTuple | None = Field(
        None, description="segment: names of the mask's values 0, 1, 2, …; 255 is unlabelled"
    )
    detector: Literal["fcos", "retinanet"] | None = Field(
        None, description="detect and track: torchvision's detection head; null: fcos"
    )
    weight: PositiveFloat = Field(1.0, description="weight of the task's loss")
    box_weight: PositiveFloat = Field(1.0, description="detect and track: weight of the loss of boxes")
    class_weight: PositiveFloat = Field(1.0, description="detect and track: weight of the loss of classes")
    motion_weight: PositiveFloat = Field(1.0, description="track: weight of the loss of motion")
    loss: Literal["cross_entropy", "focal", "class_balanced", "bce", "smooth_l1", "mse", "l1"] | None = Field(
        None,
        description="null: train.loss for classes, bce for ordinal, smooth_l1 for boxes (in tenths of the picture), "
        "mse for other numbers",
    )
    head: Head | None = Field(None, description="null: model.head")
    feature_stage: str | None = Field(
        None,
        description="stage whose output the task's head reads, for example blocks.4; null: the last, after spatial "
        "pooling",
    )
    spatial_pooling: Literal["mean", "keypoints"] | None = Field(
        None,
        description="mean: average over positions; keypoints: coordinates of learned keypoints, by a spatial softmax "
        "(arXiv:1509.06113); null: keypoints for box and motion, else mean",
    )
    temporal: Pooling | Literal["middle"] | None = Field(
        None,
        description="the task's own temporal pooling; middle: the middle frames alone; null: middle for box, slope for "
        "motion, else the pooling that tasks share, model.temporal",
    )
    tower: Literal[0, 1] | None = Field(
        None,
        description="with sharing towers or cross_stitch: index of the backbone; null: 0 for the first task, 1 for "
        "the others",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Task:
        self._check_dense_keys()
        wanted = len(DEFAULT_COLUMNS.get(self.kind, ()))
        if self.columns is not None and wanted and len(self.columns) != wanted:
            raise ValueError(
                f"a {self.kind} has {wanted} columns, {', '.join(DEFAULT_COLUMNS[self.kind])}, in this order"
            )
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns are {', '.join(self.columns)}; name each column once")
        if self.kind in CATEGORICAL_KINDS and self.columns is not None and len(self.columns) != 1:
            raise ValueError(f"columns are {', '.join(self.columns)}; a task of kind {self.kind} has one column")
        if self.loss is not None and self.loss not in ALLOWED_LOSSES[self.kind]:
            allowed = ", ".join(ALLOWED_LOSSES[self.kind])
            raise ValueError(f"loss {self.loss} cannot be used with kind {self.kind}; use one of {allowed}")
        if self.levels is not None and (self.kind != "ordinal" or len(set(self.levels)) < max(2, len(self.levels))):
            raise ValueError("levels must be two or more different names, and are for kind ordinal only")
        return self

    def _check_dense_keys(self) -> None:
        """Raise ValueError for keys that do not belong to detection or segmentation, or that these do not take."""
        if self.kind in DENSE_KINDS:
            read = ("loss", "head", "feature_stage", "spatial_pooling", "temporal", "levels", "manifest")
            if unfit := [key for key in read if getattr(self, key) is not None]:
                raise ValueError(
                    f"{', '.join(unfit)} cannot be set for kind {self.kind}, which reads a feature pyramid"
                )
        if (self.kind == "segment") != (self.classes is not None):
            need = (
                "needs classes, the names of the mask's values 0, 1, 2, …" if self.classes is None else "has no classes"
            )
            raise ValueError(f"a task of kind {self.kind} {need}")
        if self.classes is not None and not 2 <= len(set(self.classes)) == len(self.classes) <= MAX_MASK_CLASSES:
            raise ValueError(f"classes must be 2 to {MAX_MASK_CLASSES} different names, one for each value of the mask")
        owners = dict.fromkeys(("detector", "box_weight", "class_weight"), DETECTION_KINDS) | {
            "motion_weight": ("track",)
        }
        for key, kinds in owners.items():
            if self.kind not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for kind {' and '.join(kinds)} only")

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The label columns of this task, given its name."""
        return self.columns or DEFAULT_COLUMNS.get(self.kind, (name,))

    @property
    def uses_keypoints(self) -> bool:
        """Whether the task pools features over space by keypoints."""
        return (self.spatial_pooling or ("keypoints" if self.kind in SPATIAL_KINDS else "mean")) == "keypoints"

    def pooling(self, shared: Any) -> Any:
        """Its pooling over time; `shared` is the pooling that tasks share, model.temporal."""
        return self.temporal or {"box": "middle", "motion": "slope"}.get(self.kind, shared)

    @property
    def has_own_pooling(self) -> bool:
        """Whether the task does not use the shared pooling, but its own over space or time."""
        return (
            self.feature_stage is not None
            or self.uses_keypoints
            or self.temporal is not None
            or self.kind in (*SPATIAL_KINDS, *DENSE_KINDS)
        )


class Multitask(Section):
    """How several tasks share a backbone, and how their losses are combined."""

    weighting: Weighting = Field(
        "fixed",
        description="fixed: by tasks.*.weight; uncertainty, dwa, random, famo, gradnorm: loss weights that change "
        "during training; pcgrad, cagrad, aligned_mtl, upgrad: combine the tasks' gradients of shared parameters "
        '(pip install "finetune-video[mtl]")',
    )
    normalize_losses: Literal["none", "initial", "running"] = Field(
        "initial",
        description="none: a plain weighted sum; initial: each loss is divided by its first value; running: by its "
        "running mean",
    )
    sharing: Literal["hard", "towers", "cross_stitch"] = Field(
        "hard",
        description="hard: one backbone; towers: two, see soft_sharing_towers; cross_stitch: two that exchange "
        "features after each stage (arXiv:1604.03539)",
    )
    soft_sharing_heads: NonNegativeFloat = Field(
        0.0,
        description="soft parameter sharing: L2 penalty between same-shaped parameters of the heads and poolings of "
        "different tasks, for example 0.01",
    )
    soft_sharing_towers: NonNegativeFloat = Field(
        0.0, description="soft parameter sharing: L2 penalty between the two towers, for example 0.01"
    )


@dataclass(frozen=True)
class OutputSpec:
    """What a head outputs: a logit per name, one per step between levels (ordinal), or a number per name.

    A predicted number is the head's output times `scale` plus `center`; boxes and motion are in fractions of the
    picture. `slots` is the most objects that a training frame has (detect, track), or the side of the target mask in
    pixels (segment), else 0.
    """

    kind: str
    names: tuple[str, ...]
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    slots: int = 0

    @property
    def width(self) -> int:
        return len(self.names) - (self.kind == "ordinal")

    @property
    def target_width(self) -> int:
        """How many numbers the target of a clip takes: objects (slots, 8), a mask (slots, slots), or one per name."""
        if self.kind in DETECTION_KINDS:
            return self.slots * len(TARGET_FIELDS)
        return self.slots**2 if self.kind == "segment" else len(self.names)

    @property
    def is_categorical(self) -> bool:
        return self.kind in CATEGORICAL_KINDS

    @property
    def is_dense(self) -> bool:
        return self.kind in DENSE_KINDS


@dataclass(frozen=True)
class MultitaskSpec:
    """The tasks of a model: their settings, the outputs of their heads in the same order, and how they share."""

    tasks: Mapping[str, Task]
    outputs: Mapping[str, OutputSpec]
    multitask: Multitask = field(default_factory=Multitask)

    @property
    def uses_shared_pooling(self) -> bool:
        """Whether any task uses the shared pooling."""
        return not all(task.has_own_pooling for task in self.tasks.values())

    @property
    def dense_tasks(self) -> tuple[str, ...]:
        """The tasks whose heads read a feature pyramid."""
        return tuple(name for name, task in self.tasks.items() if task.kind in DENSE_KINDS)

    def tower_index(self, name: str) -> int:
        """The tower, 0 or 1, that a task reads; 0 where all share one backbone."""
        if self.multitask.sharing == "hard":
            return 0
        chosen = self.tasks[name].tower
        return int(next(iter(self.tasks)) != name) if chosen is None else chosen


def primary_task(kinds: Mapping[str, Any]) -> str:
    """The task by which clips are split, listed and shown: the first categorical one, else the first.

    `kinds` maps the names of tasks to objects with an attribute `kind`, or to dictionaries with a key `kind`.
    """
    by_name = {name: task.get("kind") if isinstance(task, Mapping) else task.kind for name, task in kinds.items()}
    return next((name for name, kind in by_name.items() if kind in CATEGORICAL_KINDS), next(iter(by_name)))


def require_classes(kinds: Mapping[str, Any], run: object, what: str, *, advice: str = "") -> None:
    """Raise RunError where no task of a run has classes, which `what` needs; `kinds` are as in `primary_task`."""
    by_name = {name: task.get("kind") if isinstance(task, Mapping) else task.kind for name, task in kinds.items()}
    if not set(by_name.values()) & set(CATEGORICAL_KINDS):
        listed = ", ".join(f"{name} ({kind})" for name, kind in by_name.items())
        raise RunError(f"{run}: {what} needs a task with classes; this run has {listed}{advice and f'; {advice}'}")


def check_tasks(tasks: Mapping[str, Task], multitask: Multitask) -> None:
    """Raise ValueError where the tasks and how they share do not fit together."""
    invalid = [name for name in tasks if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
    if invalid:
        raise ValueError(
            f"invalid names of tasks: {', '.join(invalid)}; use letters, digits and _, starting with a letter"
        )
    if not tasks and multitask != Multitask():
        raise ValueError("multitask is set, but there are no tasks")
    towers = {task.tower for task in tasks.values()} - {None}
    if multitask.sharing == "hard" and (towers or multitask.soft_sharing_towers):
        raise ValueError("tower and multitask.soft_sharing_towers need multitask.sharing towers or cross_stitch")
