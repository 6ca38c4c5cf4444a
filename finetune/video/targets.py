"""The targets of one training clip for several tasks: boxes, motion and masks are transformed like its frames."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from finetune.data.frame_objects import BOX, CLASS, IGNORE, MOTION
from finetune.data.labels import Labels, TargetLayout, class_targets
from finetune.recipe.object_fields import TARGET_FIELDS
from finetune.recipe.tasks import DENSE_KINDS, DETECTION_KINDS, SPATIAL_KINDS, OutputSpec
from finetune.video.geometry import (
    MIN_VISIBLE_AREA,
    Placement,
    box_is_visible,
    boxes_to_crop,
    motion_to_crop,
    visible_shares,
)
from finetune.video.masks import mask_in_crop


def clip_targets(
    tasks: Mapping[str, Labels], row: int, layout: TargetLayout, place: Callable[[], Placement], *, middle: int
) -> np.ndarray:
    """The targets of a row, float32 (W,), laid out by `layout`: values, then for each task 1 where it is known.

    `place` computes where the clip lies in its video. Boxes are those of the video's `middle` frame, in source pixels.
    A box outside the clip's picture or frames, and motion where all frames of the clip are the same, count as unknown.
    Raises VideoError for a mask that cannot be read.
    """
    labelled = {name: labels for name, labels in tasks.items() if labels.known[row]}
    is_placed = any(labels.kind in (*SPATIAL_KINDS, *DENSE_KINDS) for labels in labelled.values())
    placement = place() if is_placed else None
    targets: dict[str, np.ndarray | None] = dict.fromkeys(tasks)
    for name, labels in labelled.items():
        output = layout.outputs[name]
        if output.is_categorical:
            targets[name] = class_targets(labels, row)
        elif placement is None:
            targets[name] = _standardized(labels.values[row], output)
        else:
            targets[name] = _placed_target(labels, row, output, placement, middle=middle)
    return layout.vector(targets)


def _placed_target(
    labels: Labels, row: int, output: OutputSpec, placement: Placement, *, middle: int
) -> np.ndarray | None:
    """The target of a task whose labels lie in the picture, or of numbers; None where the clip does not show it."""
    values = labels.values[row]
    if labels.kind in DETECTION_KINDS:
        return object_targets(values, placement, output.slots).reshape(-1)
    if labels.kind == "segment":
        return mask_in_crop(Path(os.fsdecode(values)), placement, output.slots).reshape(-1)
    if labels.kind in SPATIAL_KINDS:
        if not _is_visible(labels.kind, values, placement, middle):
            return None
        values = (boxes_to_crop if labels.kind == "box" else motion_to_crop)(values[None], placement)[0]
    return _standardized(values, output)


def _standardized(values_K: np.ndarray, output: OutputSpec) -> np.ndarray:
    return (values_K - np.array(output.center)) / np.array(output.scale)


def _is_visible(kind: str, values: np.ndarray, placement: Placement, middle: int) -> bool:
    return placement.step > 0 if kind == "motion" else box_is_visible(values, placement, frame=middle)


def object_targets(values_M9: np.ndarray, placement: Placement, slots: int) -> np.ndarray:
    """The targets (slots, 8) of a frame's objects (M, 9), with the columns TARGET_FIELDS of recipe/object_fields.py.

    Boxes are cut off at the border of the crop. One of which less than MIN_VISIBLE_AREA is left is to be ignored, and
    one of which nothing is left is dropped. Motion is not known where all frames of the clip are the same.
    """
    objects_L9 = values_M9[values_M9[:, CLASS] >= 0]
    shares_L = visible_shares(objects_L9[:, BOX], placement)
    objects_L9, shares_L = objects_L9[shares_L > 0], shares_L[shares_L > 0]
    units_L4 = boxes_to_crop(objects_L9[:, BOX], placement)
    starts_L2 = (units_L4[:, :2] - units_L4[:, 2:] / 2).clip(0, 1)
    ends_L2 = (units_L4[:, :2] + units_L4[:, 2:] / 2).clip(0, 1)
    is_clear_L = (shares_L >= MIN_VISIBLE_AREA) & (objects_L9[:, IGNORE] == 0)
    motion_L2 = motion_to_crop(objects_L9[:, MOTION], placement)
    targets_L8 = np.column_stack(
        [
            np.where(is_clear_L, 1, -1),
            objects_L9[:, CLASS],
            (starts_L2 + ends_L2) / 2,
            ends_L2 - starts_L2,
            motion_L2 if placement.step > 0 else np.full_like(motion_L2, np.nan),
        ]
    )
    targets_S8 = np.zeros((slots, len(TARGET_FIELDS)))
    targets_S8[: len(targets_L8)] = targets_L8[:slots]
    return targets_S8
