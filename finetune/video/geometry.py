"""Where the model's square crop lies in the source frames; boxes and motion transformed to it and back.

Everything that moves pixels is affine: resizing, crop, rotation, mirroring. The matrix of an augmentation comes from
the augmentation itself: an empty clip and a matrix go through the same transforms with the same seed. The random
parameters of torchvision's transforms depend on the frame size alone, not on the number or content of frames.
"""

from collections.abc import Sequence
from math import cos, radians, sin
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import register_kernel
from torchvision.tv_tensors import TVTensor, Video

from finetune.recipe.schema import Augment, Clip
from finetune.video.augment import Augmentation, OwnAugmentation, frame_size, resolve_augment_params

MIN_VISIBLE_AREA = 1 / 4  # of a box's area
VISIBILITY_GRID = 32  # a box's area is measured on this many points along each side


class Placement(NamedTuple):
    """Where one clip lies in its video.

    `matrix`, float64 (2, 3), maps (x, y, 1) in source pixels to the model's crop, which spans 0 to 1. Coordinates are
    those of pixel edges: the left edge of the source is 0, the right edge its width. `step` is the mean number of
    source frames from one sampled frame to the next, without restarts of a looped video, and 0 for a single frame.
    `first` and `last` are the lowest and highest source frame.
    """

    matrix: np.ndarray
    step: float
    first: int
    last: int


def placement(
    video_size: tuple[int, int],
    indices: Sequence[int],
    *,
    clip: Clip,
    augment: Augment | None,
    transform: Augmentation | OwnAugmentation | None,
    seed: int | None,
) -> Placement:
    """The placement of the frames `indices` of a video of `video_size` (height, width) in pixels.

    It is that of an augmentation with this `seed`, or, without one, of the centre crop of evaluation.
    """
    assert augment is None or unsupported_augment_reason(augment) is None
    assert not isinstance(transform, OwnAugmentation)
    steps = np.diff(indices)
    forward = steps[steps >= 0]  # negative steps are restarts of a looped video, with clip.short_clips=loop
    matrix = _matrix(video_size, frame_size(video_size, clip, augment), clip, transform, seed)
    return Placement(matrix, float(forward.mean()) if len(forward) else 0.0, min(indices), max(indices))


def unsupported_augment_reason(augment: Augment) -> str | None:
    """Why boxes, motion and masks cannot be transformed with an augmentation, and what to set; None where they can."""
    if augment.transform is not None:
        return "augment.transform is your own, which cannot be applied to boxes, motion and masks; set it to null"
    auto = resolve_augment_params(augment).auto
    if auto == "none":
        return None
    which = f"augment.auto_augment is {auto!r}" + ("" if augment.auto_augment else f" in the preset {augment.preset!r}")
    return f"{which}, whose transforms cannot be applied to boxes, motion and masks; set augment.auto_augment=none"


def boxes_to_crop(boxes_N4: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes (N, 4) from (left, top, width, height) in source pixels to (centre x, centre y, width, height) in the crop.

    The crop spans 0 to 1; parts of a box outside it are below 0 or above 1. A rotated box becomes its bounding box.
    """
    boxes_N4 = np.asarray(boxes_N4, dtype=np.float64)
    sides_N2 = boxes_N4[:, 2:]
    linear, shift = placement.matrix[:, :2], placement.matrix[:, 2]
    centres_N2 = (boxes_N4[:, :2] + sides_N2 / 2) @ linear.T + shift
    return np.concatenate([centres_N2, sides_N2 @ np.abs(linear).T], axis=1)


def boxes_to_source(units_N4: np.ndarray, placement: Placement) -> np.ndarray:
    """The inverse of `boxes_to_crop`: (left, top, width, height) in source pixels, (N, 4)."""
    units_N4 = np.asarray(units_N4, dtype=np.float64)
    inverse = np.linalg.inv(placement.matrix[:, :2])
    sides_N2 = units_N4[:, 2:] @ np.abs(inverse).T
    centres_N2 = (units_N4[:, :2] - placement.matrix[:, 2]) @ inverse.T
    return np.concatenate([centres_N2 - sides_N2 / 2, sides_N2], axis=1)


def motion_to_crop(motion_N2: np.ndarray, placement: Placement) -> np.ndarray:
    """Motion (N, 2) from source pixels per source frame to shares of the crop's side per sampled frame."""
    return np.asarray(motion_N2, dtype=np.float64) @ placement.matrix[:, :2].T * placement.step


def motion_to_source(units_N2: np.ndarray, placement: Placement) -> np.ndarray:
    """The inverse of `motion_to_crop`: source pixels per source frame (N, 2); zeros where the clip has `step` 0."""
    if placement.step == 0:
        return np.zeros(np.shape(units_N2))
    return np.asarray(units_N2, dtype=np.float64) @ np.linalg.inv(placement.matrix[:, :2]).T / placement.step


def box_is_visible(box_4: np.ndarray, placement: Placement, *, frame: int) -> bool:
    """Whether the clip spans the source frame `frame`, and at least MIN_VISIBLE_AREA of the box is in its crop.

    `box_4` is (left, top, width, height) in source pixels. The black corners of a rotated picture count as outside, and
    a box with a NaN is not visible.
    """
    is_spanned = placement.first <= frame <= placement.last
    return is_spanned and bool(visible_shares(np.asarray(box_4)[None], placement)[0] >= MIN_VISIBLE_AREA)


def visible_shares(boxes_N4: np.ndarray, placement: Placement) -> np.ndarray:
    """The fraction (N,) of the area of each box, (left, top, width, height) in source pixels, that the crop shows."""
    middles = (np.arange(VISIBILITY_GRID) + 0.5) / VISIBILITY_GRID
    grid_P2 = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
    points_NP2 = boxes_N4[:, None, :2] + boxes_N4[:, None, 2:] * grid_P2
    units_NP2 = points_NP2 @ placement.matrix[:, :2].T + placement.matrix[:, 2]
    return is_shown(units_NP2, placement).mean(axis=1)


def is_shown(units: np.ndarray, placement: Placement) -> np.ndarray:
    """Whether points of the crop, (..., 2) from 0 to 1, show the video: bool (...); outside and black corners do not.

    Black are the corners of a rotated picture.
    """
    linear, from_middle = placement.matrix[:, :2], units - 0.5
    rotation = linear / np.linalg.norm(linear, axis=0)  # and mirroring; both are about the centre of the crop
    return (np.abs(np.concatenate([from_middle, from_middle @ rotation], axis=-1)) <= 0.5).all(axis=-1)


def _matrix(
    video_size: tuple[int, int],
    read: tuple[int, int],
    clip: Clip,
    transform: Augmentation | None,
    seed: int | None,
) -> np.ndarray:
    """The matrix of a placement, (2, 3), for frames that are read at (height, width) `read`."""
    assert clip.size is not None
    scaling = torch.diag(torch.tensor([read[1] / video_size[1], read[0] / video_size[0], 1.0], dtype=torch.float64))
    where: Tensor = PixelMap(scaling, read)
    if transform is None or seed is None:
        where = v2.functional.center_crop(where, [clip.size, clip.size])
    else:
        no_frames_TCHW = Video(torch.zeros((0, 3, *read), dtype=torch.uint8))
        _, where = transform.on((no_frames_TCHW, where), seed)
    assert isinstance(where, PixelMap) and where.shown == (clip.size, clip.size), where
    return where.as_subclass(Tensor).numpy()[:2] / clip.size


class PixelMap(TVTensor):
    """A matrix (3, 3), float64, from source pixels to those of a picture of `shown` (height, width) pixels.

    torchvision transforms it along with a picture. Its own KeyPoints would not do: they mirror about pixel centres, and
    need a newer torchvision.
    """

    shown: tuple[int, int]

    def __new__(cls, matrix_33: Tensor, shown: Sequence[int]) -> "PixelMap":
        made = matrix_33.as_subclass(cls)
        made.shown = (int(shown[0]), int(shown[1]))
        return made

    def followed_by(self, rows: list[list[float]], shown: Sequence[int]) -> "PixelMap":
        """This map, then the affine map with these two rows."""
        return PixelMap(torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64) @ self.as_subclass(Tensor), shown)


@register_kernel(v2.functional.resized_crop, PixelMap)
def _resized_crop(
    where: PixelMap, top: int, left: int, height: int, width: int, size: list[int], **how: Any
) -> PixelMap:
    across, down = size[1] / width, size[0] / height
    return where.followed_by([[across, 0.0, -left * across], [0.0, down, -top * down]], size)


@register_kernel(v2.functional.center_crop, PixelMap)
def _center_crop(where: PixelMap, output_size: Sequence[int]) -> PixelMap:
    # Rounded as torchvision does. Frames are never read smaller than the crop.
    top, left = (round((shown - side) / 2) for shown, side in zip(where.shown, output_size, strict=True))
    return where.followed_by([[1.0, 0.0, -left], [0.0, 1.0, -top]], output_size)


@register_kernel(v2.functional.rotate, PixelMap)
def _rotate(where: PixelMap, angle: float, **how: Any) -> PixelMap:
    """Counterclockwise by degrees, about the centre."""
    c, s = cos(radians(angle)), sin(radians(angle))
    y, x = where.shown[0] / 2, where.shown[1] / 2
    return where.followed_by([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y]], where.shown)


@register_kernel(v2.functional.horizontal_flip, PixelMap)
def _horizontal_flip(where: PixelMap) -> PixelMap:
    return where.followed_by([[-1.0, 0.0, where.shown[1]], [0.0, 1.0, 0.0]], where.shown)
