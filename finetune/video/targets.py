"""The targets of one training clip for several tasks, with boxes and motion transformed like its frames."""

from collections.abc import Callable, Mapping

import numpy as np

from finetune.data.labels import Labels, TargetLayout, class_targets
from finetune.recipe.tasks import SPATIAL_KINDS
from finetune.video.geometry import Placement, box_is_visible, boxes_to_crop, motion_to_crop


def clip_targets(
    tasks: Mapping[str, Labels], row: int, layout: TargetLayout, place: Callable[[], Placement], *, middle: int
) -> np.ndarray:
    """The targets of a row, float32 (W,), laid out by `layout`: values, then for each task 1 where it is known.

    `place` computes where the clip lies in its video. Boxes are those of the video's `middle` frame, in source pixels.
    A box outside the clip's picture or frames, and motion where all frames of the clip are the same, count as unknown.
    """
    labelled = {name: labels for name, labels in tasks.items() if labels.known[row]}
    placement = place() if any(labels.kind in SPATIAL_KINDS for labels in labelled.values()) else None
    targets: dict[str, np.ndarray | None] = dict.fromkeys(tasks)
    for name, labels in labelled.items():
        output = layout.outputs[name]
        if output.is_categorical:
            targets[name] = class_targets(labels, row)
            continue
        values = labels.values[row]
        if labels.kind in SPATIAL_KINDS:
            assert placement is not None
            if not _is_visible(labels.kind, values, placement, middle):
                continue
            values = (boxes_to_crop if labels.kind == "box" else motion_to_crop)(values[None], placement)[0]
        targets[name] = (values - np.array(output.center)) / np.array(output.scale)
    return layout.vector(targets)


def _is_visible(kind: str, values: np.ndarray, placement: Placement, middle: int) -> bool:
    return placement.step > 0 if kind == "motion" else box_is_visible(values, placement, frame=middle)
