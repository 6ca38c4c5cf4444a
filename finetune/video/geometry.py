"""Where the model's square picture lies in the source's frames: boxes and movement brought there, and back.

All that moves pixels is affine: scaling as frames are read, crop, rotation, mirroring. The map of a draw comes from the
draw itself: a clip without frames and the map go through the steps of the clip's frames, from the same seed. What
torchvision draws follows from the size of frames alone, not from how many there are or what they show.
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
from finetune.video.augment import Augmentation, frame_size, resolve_augment_params

MIN_VISIBLE_AREA = 1 / 4  # of a box's area
VISIBILITY_GRID = 32  # points a side that stand for a box


class Placement(NamedTuple):
    """Of one clip. `matrix` (2, 3) takes (x, y, 1) in source pixels to the model's picture, which spans 0 to 1.

    Pixels have edges: the left edge of the source is 0, the right one its width. `step` is the mean of source frames
    from one sampled frame to the next, where a video starts anew left out, and 0 for one frame. `first` and `last`
    are the outermost source frames.
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
    transform: Augmentation | None,
    draw: int | None,
) -> Placement:
    """Of the frames `indices` of a video of (height, width): a draw, by its seed, or the middle as in evaluation."""
    assert augment is None or unsupported_augment_reason(augment) is None
    steps = np.diff(indices)
    forward = steps[steps >= 0]  # the others are where a video starts anew, with clip.short_clips=loop
    matrix = _matrix(video_size, frame_size(video_size, clip, augment), clip, transform, draw)
    return Placement(matrix, float(forward.mean()) if len(forward) else 0.0, min(indices), max(indices))


def unsupported_augment_reason(augment: Augment) -> str | None:
    """Why boxes and movement cannot be placed in what is drawn so, and what to set."""
    auto = resolve_augment_params(augment).auto
    if auto == "none":
        return None
    which = f"augment.auto_augment is {auto!r}" + ("" if augment.auto_augment else f" in the preset {augment.preset!r}")
    return f"{which}, which moves pixels in ways that boxes and movement cannot follow; set augment.auto_augment=none"


def boxes_to_crop(boxes_N4: np.ndarray, placement: Placement) -> np.ndarray:
    """Centre x, centre y, width and height (N, 4) in shares of the picture, beyond 0 to 1 where a box leaves it.

    `boxes_N4` have left, top, width and height in source pixels. A rotated box becomes the box around it.
    """
    boxes_N4 = np.asarray(boxes_N4, dtype=np.float64)
    sides_N2 = boxes_N4[:, 2:]
    linear, shift = placement.matrix[:, :2], placement.matrix[:, 2]
    centres_N2 = (boxes_N4[:, :2] + sides_N2 / 2) @ linear.T + shift
    return np.concatenate([centres_N2, sides_N2 @ np.abs(linear).T], axis=1)


def boxes_to_source(units_N4: np.ndarray, placement: Placement) -> np.ndarray:
    """What `boxes_to_crop` gives, as left, top, width and height (N, 4) in source pixels."""
    units_N4 = np.asarray(units_N4, dtype=np.float64)
    inverse = np.linalg.inv(placement.matrix[:, :2])
    sides_N2 = units_N4[:, 2:] @ np.abs(inverse).T
    centres_N2 = (units_N4[:, :2] - placement.matrix[:, 2]) @ inverse.T
    return np.concatenate([centres_N2 - sides_N2 / 2, sides_N2], axis=1)


def motion_to_crop(motion_N2: np.ndarray, placement: Placement) -> np.ndarray:
    """Movement (N, 2) in shares of the picture's side a sampled frame, from source pixels a source frame."""
    return np.asarray(motion_N2, dtype=np.float64) @ placement.matrix[:, :2].T * placement.step


def motion_to_source(units_N2: np.ndarray, placement: Placement) -> np.ndarray:
    """What `motion_to_crop` gives, in source pixels a source frame; zeros where a clip stands still."""
    if placement.step == 0:
        return np.zeros(np.shape(units_N2))
    return np.asarray(units_N2, dtype=np.float64) @ np.linalg.inv(placement.matrix[:, :2]).T / placement.step


def box_is_visible(box_4: np.ndarray, placement: Placement, *, frame: int) -> bool:
    """Whether the clip spans a source frame, and a quarter of the box's area or more is in its picture.

    The black corners of a rotated picture show nothing of a box. A box with an unknown number is not seen.
    """
    if not placement.first <= frame <= placement.last:
        return False
    linear, shift = placement.matrix[:, :2], placement.matrix[:, 2]
    middles = (np.arange(VISIBILITY_GRID) + 0.5) / VISIBILITY_GRID
    points_P2 = np.asarray(box_4[:2]) + np.asarray(box_4[2:]) * np.stack(np.meshgrid(middles, middles), -1).reshape(
        -1, 2
    )
    from_middle_P2 = points_P2 @ linear.T + shift - 0.5
    turn = linear / np.linalg.norm(linear, axis=0)  # rotation and mirroring, which are about the picture's middle
    inside_P = (np.abs(np.hstack([from_middle_P2, from_middle_P2 @ turn])) <= 0.5).all(axis=1)
    return bool(inside_P.mean() >= MIN_VISIBLE_AREA)


def _matrix(
    video_size: tuple[int, int],
    read: tuple[int, int],
    clip: Clip,
    transform: Augmentation | None,
    draw: int | None,
) -> np.ndarray:
    """(2, 3), of frames that are read at (height, width) `read`."""
    assert clip.size is not None
    scaling = torch.diag(torch.tensor([read[1] / video_size[1], read[0] / video_size[0], 1.0], dtype=torch.float64))
    where: Tensor = PixelMap(scaling, read)
    if transform is None or draw is None:
        where = v2.functional.center_crop(where, [clip.size, clip.size])
    else:
        no_frames_TCHW = Video(torch.zeros((0, 3, *read), dtype=torch.uint8))
        _, where = transform.on((no_frames_TCHW, where), draw)
    assert isinstance(where, PixelMap) and where.shown == (clip.size, clip.size), where
    return where.as_subclass(Tensor).numpy()[:2] / clip.size


class PixelMap(TVTensor):
    """A matrix (3, 3), float64, from source pixels to those of a picture that shows (height, width) pixels.

    For torchvision's transforms it is one more thing to transform along with a picture. Not its KeyPoints: these
    mirror about the middle of the last pixel, and want a newer torchvision.
    """

    shown: tuple[int, int]

    def __new__(cls, matrix_33: Tensor, shown: Sequence[int]) -> "PixelMap":
        made = matrix_33.as_subclass(cls)
        made.shown = (int(shown[0]), int(shown[1]))
        return made

    def followed_by(self, rows: list[list[float]], shown: Sequence[int]) -> "PixelMap":
        """Followed by the map of these two rows."""
        return PixelMap(torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64) @ self.as_subclass(Tensor), shown)


@register_kernel(v2.functional.resized_crop, PixelMap)
def _resized_crop(
    where: PixelMap, top: int, left: int, height: int, width: int, size: list[int], **how: Any
) -> PixelMap:
    across, down = size[1] / width, size[0] / height
    return where.followed_by([[across, 0.0, -left * across], [0.0, down, -top * down]], size)


@register_kernel(v2.functional.center_crop, PixelMap)
def _center_crop(where: PixelMap, output_size: Sequence[int]) -> PixelMap:
    # As torchvision rounds. Frames are never read smaller than the crop.
    top, left = (round((shown - side) / 2) for shown, side in zip(where.shown, output_size, strict=True))
    return where.followed_by([[1.0, 0.0, -left], [0.0, 1.0, -top]], output_size)


@register_kernel(v2.functional.rotate, PixelMap)
def _rotate(where: PixelMap, angle: float, **how: Any) -> PixelMap:
    """By degrees against the clock, about the middle."""
    c, s = cos(radians(angle)), sin(radians(angle))
    y, x = where.shown[0] / 2, where.shown[1] / 2
    return where.followed_by([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y]], where.shown)


@register_kernel(v2.functional.horizontal_flip, PixelMap)
def _horizontal_flip(where: PixelMap) -> PixelMap:
    return where.followed_by([[-1.0, 0.0, where.shown[1]], [0.0, 1.0, 0.0]], where.shown)
