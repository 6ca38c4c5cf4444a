"""What is right of one training clip of several tasks, as numbers side by side: boxes and motion moved as it was."""

from collections.abc import Callable, Mapping

import numpy as np

from finetune.data.labels import Labels, TargetLayout, class_targets
from finetune.recipe.tasks import SPATIAL_KINDS
from finetune.video.geometry import Placement, box_is_visible, boxes_to_crop, motion_to_crop


def clip_targets(
    tasks: Mapping[str, Labels], row: int, layout: TargetLayout, place: Callable[[], Placement], *, middle: int
) -> np.ndarray:
    """float32 as `layout` has it. `place` says where the clip lies in its video, whose middle frame boxes belong to.

    A box that the clip does not show, and motion in a clip that stands still, count as unknown.
    """
    known = {name: labels for name, labels in tasks.items() if labels.known[row]}
    at = place() if any(labels.kind in SPATIAL_KINDS for labels in known.values()) else None
    targets: dict[str, np.ndarray | None] = dict.fromkeys(tasks)
    for name, labels in known.items():
        output = layout.outputs[name]
        if output.is_categorical:
            targets[name] = class_targets(labels, row)
            continue
        values = labels.values[row]
        if labels.kind in SPATIAL_KINDS:
            assert at is not None
            if not _is_visible(labels.kind, values, at, middle):
                continue
            values = (boxes_to_crop if labels.kind == "box" else motion_to_crop)(values[None], at)[0]
        targets[name] = (values - np.array(output.center)) / np.array(output.scale)
    return layout.vector(targets)


def _is_visible(kind: str, values: np.ndarray, at: Placement, middle: int) -> bool:
    return at.step > 0 if kind == "motion" else box_is_visible(values, at, frame=middle)
