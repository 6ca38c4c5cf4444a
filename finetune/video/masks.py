"""Masks of labelled frames: indexed or grey PNG files whose values are classes, placed as the clip's frames are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.manifest import Manifest
from finetune.errors import VideoError, shorten_list
from finetune.recipe.object_fields import UNLABELLED
from finetune.video.file_facts import FileFacts
from finetune.video.geometry import Placement, is_shown

_INVALID_FILE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def read_mask(path: Path) -> np.ndarray:
    """The class of each pixel, uint8 (H, W). Raises VideoError for a file that is not an indexed or grey picture."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "1"):
                return np.asarray(image).astype(np.uint8)
            mode = image.mode
    except FileNotFoundError:
        raise VideoError(f"{path}: the mask does not exist") from None
    except _INVALID_FILE_ERRORS as error:
        raise VideoError(f"{path}: the mask cannot be read: {error}") from None
    raise VideoError(
        f"{path}: the mask is a picture of mode {mode}; save the class of each pixel as an indexed or grey PNG with "
        "8 bits per pixel"
    )


def mask_in_crop(path: Path, placement: Placement, size: int) -> np.ndarray:
    """The mask in the model's picture, uint8 (S, S) with S = `size`: the nearest pixel of the mask for each of it.

    Pixels that show nothing of the video are UNLABELLED. Raises VideoError as `read_mask` does.
    """
    mask_HW = read_mask(path)
    middles = (np.arange(size) + 0.5) / size
    units_SS2 = np.stack(np.meshgrid(middles, middles), -1)
    source_SS2 = (units_SS2 - placement.matrix[:, 2]) @ np.linalg.inv(placement.matrix[:, :2]).T
    x, y = np.floor(source_SS2).astype(np.int64).transpose(2, 0, 1)
    height, width = mask_HW.shape
    inside = is_shown(units_SS2, placement) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.where(inside, mask_HW[y.clip(0, height - 1), x.clip(0, width - 1)], UNLABELLED).astype(np.uint8)


def mask_problems(manifest: Manifest, facts: FileFacts) -> list[str]:
    """Messages about masks of readable rows: missing, unreadable, of another size than the video, of unknown classes.

    Every mask is read.
    """
    problems = []
    for name, labels in manifest.tasks.items():
        rows = np.flatnonzero(labels.known) if labels.kind == "segment" else np.zeros(0, dtype=int)
        for row in rows.tolist():
            if row not in facts.bad:
                size = int(facts.heights[row]), int(facts.widths[row])
                problem = mask_problem(Path(os.fsdecode(labels.values[row])), labels.names, size)
                problems += [f"{problem} (tasks.{name})"] if problem else []
    return problems


def mask_problem(path: Path, classes: tuple[str, ...], video_size: tuple[int, int]) -> str:
    """What is wrong with a mask of a video of `video_size` (height, width); an empty text if it is right."""
    try:
        mask_HW = read_mask(path)
    except VideoError as error:
        return str(error)
    if mask_HW.shape != video_size:
        (height, width), (video_height, video_width) = mask_HW.shape, video_size
        return f"{path}: the mask has {width} x {height} pixels, its video {video_width} x {video_height}"
    values = np.flatnonzero(np.bincount(mask_HW.reshape(-1), minlength=UNLABELLED + 1)[:UNLABELLED])
    unnamed = values[values >= len(classes)].tolist()
    if unnamed:
        return (
            f"{path}: the mask has the values {shorten_list(unnamed)}, but classes names only 0 to {len(classes) - 1}; "
            f"add their classes, or use {UNLABELLED} for pixels without a label"
        )
    return ""
