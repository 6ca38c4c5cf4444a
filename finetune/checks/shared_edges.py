"""Which static edges the groups of some classes share and other classes lack. Arithmetic on arrays only.

A burnt-in mark has the same edges in every clip, at the same place, whatever is behind it; filmed objects do not. The
mean over groups of the edges' directions shows such marks (Dekel et al., "On the effectiveness of visible watermarks",
CVPR 2017). Edges are fields (2, H, W) of vectors of length 0 to 1, see video/still_edges.py. N clips, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

# Agreement is the mean cosine between groups times the strength of both edges. Measured on real clips without marks, it
# is at most 0.22 for different places, and 0.60 for one fixed camera where a person stays in one place.
_LOW_THRESHOLD, _HIGH_THRESHOLD, _HIGH_THRESHOLD_SAME_SCENE = 0.3, 0.4, 0.6
_MAX_THRESHOLD, _MAX_THRESHOLD_SAME_SCENE = 0.7, 0.8  # however few groups there are: an opaque mark reaches 0.85
_MIN_PEAK_POINTS = 8  # grid points of an area that reach the peak threshold
# Agreement outside the shared areas, as a share of all edges there: at most 0.07 where classes differ by a mark, at
# least 0.24 where a fixed camera films one class.
_MAX_SCENE_SHARE = 0.15
_MAX_MARK_AREA = 0.5  # of the picture; a larger area is not a mark
_MARGIN, _JOIN, _HALO = 9, 5, 2  # grid points
_MAX_OTHER_CLASSES = 24  # that one class is compared with, spread evenly over all


Box = tuple[int, int, int, int]  # left, top, width, height in grid points


@dataclass(frozen=True, eq=False)
class GroupEdges:
    """The edges that G groups share."""

    groups: int
    mean_2HW: np.ndarray
    agreement_HW: np.ndarray  # mean scalar product of the edges of two groups: 0 by chance
    strength_HW: np.ndarray  # mean square of the groups' own edges


@dataclass(frozen=True, eq=False)
class SharedParts:
    """Areas whose edges the groups of a class share and other classes lack."""

    mask_HW: np.ndarray  # bool
    boxes: tuple[Box, ...]  # largest first
    kind: Literal["mark", "background"]
    excess_HW: np.ndarray  # agreement within the class less that with the least similar third of the others
    one_scene: bool = False  # all classes show the same scene


def group_means(fields_N2HW: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    """The mean edges of each group, float32 (G, 2, H, W), in the order of their names."""
    return np.stack([fields_N2HW[groups_N == group].mean(0, dtype=np.float32) for group in np.unique(groups_N)])


def group_edges(means_G2HW: np.ndarray) -> GroupEdges:
    """The edges that groups with these means share. The agreement of a single group is 0."""
    groups = len(means_G2HW)
    total_2HW, squares_HW = means_G2HW.sum(0), (means_G2HW**2).sum((0, 1))
    pairs = groups * (groups - 1)
    agreement_HW = ((total_2HW**2).sum(0) - squares_HW) / pairs if pairs else np.zeros_like(squares_HW)
    return GroupEdges(groups, total_2HW / groups, agreement_HW, squares_HW / groups)


def shared_parts(one: GroupEdges, other_means: Sequence[np.ndarray]) -> SharedParts:
    """Areas that the groups of `one` class share, compared with the mean edges (2, H, W) of each other class.

    Where all classes share one scene, a person who stays in one place looks much like a mark, so more agreement is
    required.
    """
    excess_HW = one.agreement_HW - _least_agreement(one.mean_2HW, other_means)
    standard_error = 1 / np.sqrt(one.groups * (one.groups - 1))  # of the agreement of edges in random directions
    low = min(_MAX_THRESHOLD, max(_LOW_THRESHOLD, 2 * standard_error))
    mask_HW, boxes = _parts(excess_HW, low, min(_MAX_THRESHOLD, max(_HIGH_THRESHOLD, 3 * standard_error)))
    outside_HW = ~ndimage.binary_dilation(mask_HW, np.ones((_MARGIN, _MARGIN)))
    scene_limit = _MAX_SCENE_SHARE * (one.strength_HW[outside_HW].sum() + 0.01 * mask_HW.size)
    if excess_HW[outside_HW].sum() > scene_limit or outside_HW.mean() < 1 - _MAX_MARK_AREA:
        return SharedParts(mask_HW, boxes, "background", excess_HW)
    one_scene = bool(one.agreement_HW[outside_HW].sum() > scene_limit)
    if one_scene:
        mask_HW, boxes = _parts(
            excess_HW, low, min(_MAX_THRESHOLD_SAME_SCENE, _HIGH_THRESHOLD_SAME_SCENE + standard_error)
        )
    return SharedParts(mask_HW, boxes, "mark", excess_HW, one_scene)


def template_scores(fields_N2HW: np.ndarray, template_2HW: np.ndarray) -> np.ndarray:
    """float (N,): how well each field matches the template where that is not 0; 1 for the template itself."""
    return np.tensordot(fields_N2HW.astype(np.float32), template_2HW, 3) / (template_2HW**2).sum()


def score_threshold(means_G2HW: np.ndarray, template_2HW: np.ndarray, other_scores: np.ndarray) -> float:
    """Midway between the mean leave-one-out score of the groups, and the mean of `other_scores`, those of other clips.

    `template_2HW` is the mean of the groups' fields where it is not 0.
    """
    groups, square = len(means_G2HW), (template_2HW**2).sum()
    own = (means_G2HW**2 * (template_2HW != 0)).sum((1, 2, 3)) / square
    left_out = (groups * template_scores(means_G2HW, template_2HW) - own) / max(1, groups - 1)
    return float((left_out.mean() + other_scores.mean()) / 2)


def _least_agreement(mean_2HW: np.ndarray, other_means: Sequence[np.ndarray]) -> np.ndarray:
    """float (H, W): at each point the mean agreement with the least similar third of the other classes, at least 0."""
    chosen = np.unique(
        np.linspace(0, len(other_means) - 1, min(_MAX_OTHER_CLASSES, len(other_means))).round().astype(int)
    )
    agreement_KHW = np.stack([(mean_2HW * other_means[index]).sum(0) for index in chosen])
    third = max(1, round(len(agreement_KHW) / 3))
    return np.sort(agreement_KHW, axis=0)[:third].mean(0).clip(0)


def _parts(excess_HW: np.ndarray, low: float, peak: float) -> tuple[np.ndarray, tuple[Box, ...]]:
    """The mask and boxes of points above `low`, in areas that reach `peak` (hysteresis thresholds, as Canny's)."""
    above_HW = excess_HW > low
    joined_HW = ndimage.binary_closing(np.pad(above_HW, _JOIN), np.ones((_JOIN, _JOIN)))[_JOIN:-_JOIN, _JOIN:-_JOIN]
    part_HW, number = ndimage.label(joined_HW, np.ones((3, 3)))
    peaks = np.bincount(part_HW[above_HW & (excess_HW > peak)], minlength=number + 1)
    kept = [part for part in range(1, number + 1) if peaks[part] >= _MIN_PEAK_POINTS]
    boxes = [_box(place) for part, place in enumerate(ndimage.find_objects(part_HW), 1) if part in kept]
    boxes.sort(key=lambda box: -box[2] * box[3])
    return above_HW & np.isin(part_HW, kept), tuple(boxes)


def _box(place: tuple[slice, slice]) -> Box:
    """The box of an area, without the blur around it."""
    (top, height), (left, width) = (_within(side) for side in place)
    return left, top, width, height


def _within(side: slice) -> tuple[int, int]:
    blur = min(_HALO, (side.stop - side.start - 1) // 2)
    return side.start + blur, side.stop - side.start - 2 * blur
