"""Pictures of one video as the arrays that `read_frames` gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.errors import VideoError


def stack_pictures(
    path: Path, pictures: Mapping[int, tuple[np.ndarray, float]], indices: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (H, W, 3) with their seconds, by frame, as (T, 3, H, W) and (T,) in the order of `indices`.

    Raises VideoError where they differ in size.
    """
    shapes = {pictures[index][0].shape[:2]: index for index in sorted(pictures, reverse=True)}
    if len(shapes) > 1:
        sizes = [f"frame {index} has {width} x {height} pixels" for (height, width), index in shapes.items()]
        raise VideoError(
            f"{path}: changes its size: {', '.join(reversed(sizes))}; "
            "give the size to scale to, or write it anew in one size, for example with `ffmpeg -i IN OUT`"
        )
    frames_THWC = np.stack([pictures[index][0] for index in indices])
    return frames_THWC.transpose(0, 3, 1, 2), np.array([pictures[index][1] for index in indices])
