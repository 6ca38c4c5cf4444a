"""The tasks of a run: what is told of a clip, from which columns it is learnt, and how tasks share a backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from finetune.recipe.fields import Head, NonNegativeFloat, PathOrUrl, Pooling, PositiveFloat, Section

TaskKind = Literal["classify", "multilabel", "ordinal", "regress", "box", "motion"]
DEFAULT_TASK = "label"  # the name of the only task of a run without tasks
CATEGORICAL_KINDS = ("classify", "multilabel", "ordinal")  # kinds that choose among names; the others give numbers
CLASSIFICATION_KINDS = (
    "classify",
    "multilabel",
)  # those of them without an order: training fits a temperature for them
SPATIAL_KINDS = ("box", "motion")  # kinds that lie in the picture: what moves it moves them
DEFAULT_COLUMNS = {"box": ("x", "y", "w", "h"), "motion": ("dx", "dy")}
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
    """One of several tasks. What is null is as its kind, or `model`, says."""

    kind: TaskKind = Field(
        description="classify (one of several), multilabel (some of several: a;b), ordinal (levels in order), regress "
        "(numbers), box (of the middle frame, in pixels of the video: left, top, width, height) or motion (pixels a "
        "frame, to the right and down)",
    )
    columns: StringTuple | None = Field(
        None, description="of the manifest; null: x, y, w, h of a box, dx, dy of motion, else the task's own name"
    )
    manifest: PathOrUrl | None = Field(
        None, description="a CSV of its own, with path and these columns; rows that it has not lack the label"
    )
    levels: StringTuple | None = Field(None, description="ordinal: from the lowest up; null: numbers, in their order")
    weight: PositiveFloat = Field(1.0, description="factor on the task's loss")
    loss: Literal["cross_entropy", "focal", "class_balanced", "bce", "smooth_l1", "mse", "l1"] | None = Field(
        None,
        description="null: train.loss of classes, smooth_l1 of boxes (in tenths of the picture), mse of other numbers",
    )
    head: Head | None = Field(None, description="null: model.head")
    feature_stage: str | None = Field(
        None, description="the stage whose features it reads, as blocks.4; null: the last, after pooling over space"
    )
    spatial_pooling: Literal["mean", "keypoints"] | None = Field(
        None,
        description="what is kept of places in the picture: their mean, or where learnt points lie (arXiv:1509.06113); "
        "null: keypoints of box and motion, else mean",
    )
    temporal: Pooling | Literal["middle"] | None = Field(
        None,
        description="its own pooling over T, or the middle frames alone; null: middle of a box, slope of motion, else "
        "the one that tasks share, model.temporal",
    )
    tower: Literal[0, 1] | None = Field(
        None, description="with sharing towers or cross_stitch; null: the first task's is 0, that of all others 1"
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Task:
        wanted = len(DEFAULT_COLUMNS.get(self.kind, ()))
        if self.columns is not None and wanted and len(self.columns) != wanted:
            raise ValueError(
                f"a {self.kind} has {wanted} columns, {', '.join(DEFAULT_COLUMNS[self.kind])}, in this order"
            )
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns are {', '.join(self.columns)}; each is named once")
        if self.kind in CATEGORICAL_KINDS and self.columns is not None and len(self.columns) != 1:
            raise ValueError(f"columns are {', '.join(self.columns)}; a task of kind {self.kind} has one")
        if self.loss is not None and self.loss not in ALLOWED_LOSSES[self.kind]:
            raise ValueError(
                f"loss {self.loss} is not for kind {self.kind}; take {', '.join(ALLOWED_LOSSES[self.kind])}"
            )
        if self.levels is not None and (self.kind != "ordinal" or len(set(self.levels)) < max(2, len(self.levels))):
            raise ValueError("levels are two or more different names, of kind ordinal alone")
        return self

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The columns that label the task of this name."""
        return self.columns or DEFAULT_COLUMNS.get(self.kind, (name,))

    @property
    def uses_keypoints(self) -> bool:
        """Whether it reads where things are in the picture."""
        return (self.spatial_pooling or ("keypoints" if self.kind in SPATIAL_KINDS else "mean")) == "keypoints"

    def pooling(self, shared: str) -> str:
        """Over T, where tasks share the pooling `shared`."""
        return self.temporal or {"box": "middle", "motion": "slope"}.get(self.kind, shared)

    @property
    def has_own_pooling(self) -> bool:
        """Whether it pools for itself, over space or time."""
        return (
            self.feature_stage is not None
            or self.uses_keypoints
            or self.temporal is not None
            or self.kind in SPATIAL_KINDS
        )


class Multitask(Section):
    """How several tasks share a backbone, and how their losses become one."""

    weighting: Weighting = Field(
        "fixed",
        description="fixed, or by what training shows: uncertainty, dwa, random, famo, gradnorm; of the gradients at "
        'what tasks share: pcgrad, cagrad, aligned_mtl, upgrad (pip install "finetune[mtl]")',
    )
    normalize_losses: Literal["none", "initial", "running"] = Field(
        "initial",
        description="each loss is divided by nothing (the posts' plain weighted sum), by its first value, or by its "
        "running mean",
    )
    sharing: Literal["hard", "towers", "cross_stitch"] = Field(
        "hard",
        description="hard: one backbone; towers: two, see soft_sharing_towers; cross_stitch: two that exchange "
        "features after each stage (arXiv:1604.03539)",
    )
    soft_sharing_heads: NonNegativeFloat = Field(
        0.0, description="pull between parameters of the same shape in the heads and poolings of different tasks (L2)"
    )
    soft_sharing_towers: NonNegativeFloat = Field(0.0, description="pull between the two towers (L2), as 0.01")


@dataclass(frozen=True)
class OutputSpec:
    """What a head gives: logits of `names`, of the steps between them (ordinal), or numbers, one a name.

    A number is what the head gives, times `scale`, plus `center`; of boxes and motion in shares of the picture.
    """

    kind: str
    names: tuple[str, ...]
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        return len(self.names) - (self.kind == "ordinal")

    @property
    def is_categorical(self) -> bool:
        return self.kind in CATEGORICAL_KINDS


@dataclass(frozen=True)
class MultitaskSpec:
    """Several tasks of a model: their settings, what their heads give, in the same order, and how they share."""

    tasks: Mapping[str, Task]
    outputs: Mapping[str, OutputSpec]
    multitask: Multitask = field(default_factory=Multitask)

    @property
    def uses_shared_pooling(self) -> bool:
        """Whether any task reads what is pooled for all."""
        return not all(task.has_own_pooling for task in self.tasks.values())

    def tower_index(self, name: str) -> int:
        """The tower, 0 or 1, that a task reads; 0 where all share one backbone."""
        if self.multitask.sharing == "hard":
            return 0
        chosen = self.tasks[name].tower
        return int(next(iter(self.tasks)) != name) if chosen is None else chosen


def primary_task(kinds: Mapping[str, Any]) -> str:
    """The task that clips are divided, listed and shown by: the first that chooses among names, else the first.

    Of a mapping from names to what has a kind, or a dictionary with it.
    """
    found = {name: each.get("kind") if isinstance(each, Mapping) else each.kind for name, each in kinds.items()}
    return next((name for name, kind in found.items() if kind in CATEGORICAL_KINDS), next(iter(found)))


def check_tasks(tasks: Mapping[str, Task], multitask: Multitask) -> None:
    """Raise ValueError with what is wrong with several tasks together."""
    odd = [name for name in tasks if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
    if odd:
        raise ValueError(f"tasks are named by letters, digits and _: {', '.join(odd)}")
    if not tasks and multitask != Multitask():
        raise ValueError("multitask is set and there are no tasks")
    towers = {task.tower for task in tasks.values()} - {None}
    if multitask.sharing == "hard" and (towers or multitask.soft_sharing_towers):
        raise ValueError("tower and multitask.soft_sharing_towers need multitask.sharing towers or cross_stitch")
