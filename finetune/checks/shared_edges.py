"""Which still edges the groups of some classes share and other classes lack. Arithmetic on arrays only.

A mark that is burnt into the picture has the same edges in every clip, at the same place, whatever is behind it; what
is filmed has not. The mean over groups of the edges' directions shows such marks (Dekel et al., "On the effectiveness
of visible watermarks", CVPR 2017). Edges are (2, H, W) fields of vectors of length 0 to 1, see video/still_edges.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

# Agreement is the mean cosine between groups times the strength of both edges. Measured on real clips of different
# places without marks it is at most 0.22; of one unmoved camera 0.60, where a person stays at one place.
_LOW_THRESHOLD, _HIGH_THRESHOLD, _HIGH_THRESHOLD_SAME_SCENE = 0.3, 0.4, 0.6
_MAX_THRESHOLD, _MAX_THRESHOLD_SAME_SCENE = 0.7, 0.8  # however few the groups: an opaque mark reaches 0.85
_MIN_PEAK_POINTS = 8  # of a part that reach the peak
# Agreement outside of the shared parts, as a share of all edges there: at most 0.07 where classes differ by a mark,
# from 0.24 where a camera that does not move films one class.
_MAX_SCENE_SHARE = 0.15
_MAX_MARK_AREA = 0.5  # of the picture; parts that take more are no mark
_MARGIN, _JOIN, _HALO = 9, 5, 2  # grid points
_MAX_OTHER_CLASSES = 24  # classes that one class is compared with, evenly over all


Box = tuple[int, int, int, int]  # left, top, width, height in grid points


@dataclass(frozen=True, eq=False)
class GroupEdges:
    """Edges that some groups share."""

    groups: int
    mean_2HW: np.ndarray
    agreement_HW: np.ndarray  # mean scalar product between different groups: 0 by chance
    strength_HW: np.ndarray  # mean square of the groups' own edges


@dataclass(frozen=True, eq=False)
class SharedParts:
    """Parts of the picture whose edges the groups of a class share and other classes lack."""

    mask_HW: np.ndarray
    boxes: tuple[Box, ...]  # the largest first
    kind: Literal["mark", "background"]
    excess_HW: np.ndarray  # agreement within the class less that with the classes that have least of it
    one_scene: bool = False  # all classes show the same scene


def group_means(fields_N2HW: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    """float32 (groups, 2, H, W)."""
    return np.stack([fields_N2HW[groups_N == group].mean(0, dtype=np.float32) for group in np.unique(groups_N)])


def group_edges(means_G2HW: np.ndarray) -> GroupEdges:
    """Of one group alone the agreement is 0."""
    groups = len(means_G2HW)
    total_2HW, squares_HW = means_G2HW.sum(0), (means_G2HW**2).sum((0, 1))
    pairs = groups * (groups - 1)
    agreement_HW = ((total_2HW**2).sum(0) - squares_HW) / pairs if pairs else np.zeros_like(squares_HW)
    return GroupEdges(groups, total_2HW / groups, agreement_HW, squares_HW / groups)


def shared_parts(one: GroupEdges, other_means: Sequence[np.ndarray]) -> SharedParts:
    """Parts that the groups of `one` share, compared with the mean edges (2, H, W) of each other class.

    Where all classes share the scene, a person who stays at one place looks much like a mark, so more agreement is
    asked for.
    """
    excess_HW = one.agreement_HW - _least_agreement(one.mean_2HW, other_means)
    standard_error = 1 / np.sqrt(one.groups * (one.groups - 1))  # of the agreement of edges in random directions
    edge = min(_MAX_THRESHOLD, max(_LOW_THRESHOLD, 2 * standard_error))
    mask_HW, boxes = _parts(excess_HW, edge, min(_MAX_THRESHOLD, max(_HIGH_THRESHOLD, 3 * standard_error)))
    outside_HW = ~ndimage.binary_dilation(mask_HW, np.ones((_MARGIN, _MARGIN)))
    enough = _MAX_SCENE_SHARE * (one.strength_HW[outside_HW].sum() + 0.01 * mask_HW.size)
    if excess_HW[outside_HW].sum() > enough or outside_HW.mean() < 1 - _MAX_MARK_AREA:
        return SharedParts(mask_HW, boxes, "background", excess_HW)
    one_scene = bool(one.agreement_HW[outside_HW].sum() > enough)
    if one_scene:
        mask_HW, boxes = _parts(
            excess_HW, edge, min(_MAX_THRESHOLD_SAME_SCENE, _HIGH_THRESHOLD_SAME_SCENE + standard_error)
        )
    return SharedParts(mask_HW, boxes, "mark", excess_HW, one_scene)


def template_scores(fields_N2HW: np.ndarray, template_2HW: np.ndarray) -> np.ndarray:
    """How much each field agrees with the template where that is not 0; 1 for the template itself."""
    return np.tensordot(fields_N2HW.astype(np.float32), template_2HW, 3) / (template_2HW**2).sum()


def score_threshold(means_G2HW: np.ndarray, template_2HW: np.ndarray, other_scores: np.ndarray) -> float:
    """Midway between the scores of groups by a template that lacks them, and those of other clips.

    `template_2HW` is the mean of the groups' fields where it is not 0.
    """
    groups, square = len(means_G2HW), (template_2HW**2).sum()
    own = (means_G2HW**2 * (template_2HW != 0)).sum((1, 2, 3)) / square
    left_out = (groups * template_scores(means_G2HW, template_2HW) - own) / max(1, groups - 1)
    return float((left_out.mean() + other_scores.mean()) / 2)


def _least_agreement(mean_2HW: np.ndarray, other_means: Sequence[np.ndarray]) -> np.ndarray:
    """The mean agreement with that third of the other classes that has least of it, at least 0, point by point."""
    chosen = np.unique(
        np.linspace(0, len(other_means) - 1, min(_MAX_OTHER_CLASSES, len(other_means))).round().astype(int)
    )
    agreement_KHW = np.stack([(mean_2HW * other_means[index]).sum(0) for index in chosen])
    third = max(1, round(len(agreement_KHW) / 3))
    return np.sort(agreement_KHW, axis=0)[:third].mean(0).clip(0)


def _parts(excess_HW: np.ndarray, edge: float, peak: float) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Points above `edge`, in parts that reach `peak` (hysteresis, as Canny's detector of edges has it)."""
    above_HW = excess_HW > edge
    joined_HW = ndimage.binary_closing(np.pad(above_HW, _JOIN), np.ones((_JOIN, _JOIN)))[_JOIN:-_JOIN, _JOIN:-_JOIN]
    part_HW, number = ndimage.label(joined_HW, np.ones((3, 3)))
    peaks = np.bincount(part_HW[above_HW & (excess_HW > peak)], minlength=number + 1)
    kept = [part for part in range(1, number + 1) if peaks[part] >= _MIN_PEAK_POINTS]
    boxes = [_box(place) for part, place in enumerate(ndimage.find_objects(part_HW), 1) if part in kept]
    boxes.sort(key=lambda box: -box[2] * box[3])
    return above_HW & np.isin(part_HW, kept), tuple(boxes)


def _box(place: tuple[slice, slice]) -> Box:
    """Less the blur around it."""
    (top, height), (left, width) = (_within(side) for side in place)
    return left, top, width, height


def _within(side: slice) -> tuple[int, int]:
    blur = min(_HALO, (side.stop - side.start - 1) // 2)
    return side.start + blur, side.stop - side.start - 2 * blur
