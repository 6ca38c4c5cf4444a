"""Frames of a row that follows an object: each is cut out around the object's box, at one size for the whole row.

Where the crop extends beyond the picture, the picture's edge is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.manifest import Manifest
from finetune.data.tubes import parse_tube, tube_problems
from finetune.errors import VideoError
from finetune.video.file_facts import FileFacts

LARGE_BOX = 0.9  # quantile over a row's frames of the box's longer side: one wrong box must not set the scale
CONTEXT = 0.25  # of that side is added to the crop's side
STEADY_FRAMES = 4  # before and after a frame: the crop follows the mean of the box's centre over them
MAX_BYTES = 2**28  # of whole pictures in memory
ReadFrames = Callable[..., tuple[np.ndarray, np.ndarray]]


class TubeCrop(NamedTuple):
    """Where a row's crops lie in the pictures of its file. Sizes are (height, width) in pixels of the video.

    `centres_F2` are (x, y) in the F frames from `first` on, pixel edges being whole numbers.
    """

    size: tuple[int, int]
    video_size: tuple[int, int]
    first: int
    centres_F2: np.ndarray

    def centre(self, frame: int) -> tuple[float, float]:
        """The centre in a frame of the file; outside of the row that of its nearest frame."""
        x, y = self.centres_F2[min(max(frame - self.first, 0), len(self.centres_F2) - 1)].tolist()
        return x, y


@lru_cache(1024)
def tube_crop(cell: str, frames: tuple[int, int], video_size: tuple[int, int]) -> TubeCrop:
    """The crops of a row with this cell of the column `boxes`, in its `frames` (first, number).

    They are squares with room for a large box of the row and some context, but no side is longer than the picture's,
    and where it is as long, it is the picture's: the crop of a box of the whole picture is the whole picture. The
    centre follows that of the box, steadied: without the jitter of a detector, or fast movements of the object itself.
    """
    (first, number), (height, width) = frames, video_size
    boxes_F4 = parse_tube(cell).boxes_at(np.arange(first, first + number))
    side = max(1, ceil((1 + CONTEXT) * float(np.quantile(boxes_F4[:, 2:].max(1), LARGE_BOX))))
    size = min(side, height), min(side, width)
    centres_F2 = _steadied(boxes_F4[:, :2] + boxes_F4[:, 2:] / 2)
    for axis, whole in enumerate((width, height)):
        if side >= whole:
            centres_F2[:, axis] = whole / 2
    return TubeCrop(size, video_size, first, centres_F2)


def checked_crop(
    cell: str, frames: tuple[int, int], video_size: tuple[int, int], *, file_frames: int, name: str
) -> TubeCrop:
    """The same for a file of `file_frames` frames.

    Raises VideoError, with the `name` of the row, where its boxes do not fit its frames or the picture.
    """
    first, number = frames
    problems = tube_problems(
        parse_tube(cell), frames=(first, first + number - 1), file_frames=file_frames, size=video_size
    )
    if problems:
        raise VideoError("\n".join(f"{name}: {problem}" for problem in problems))
    return tube_crop(cell, frames, video_size)


def _steadied(path_F2: np.ndarray) -> np.ndarray:
    """The moving average of a path over 2 STEADY_FRAMES + 1 frames (F, 2); even movement stays as it is."""
    reach = min(STEADY_FRAMES, len(path_F2) - 1)
    if not reach:
        return path_F2.copy()
    before_R2 = 2 * path_F2[0] - path_F2[reach:0:-1]
    after_R2 = 2 * path_F2[-1] - path_F2[-2 : -2 - reach : -1]
    longer = np.concatenate([before_R2, path_F2, after_R2])
    weights = np.full(2 * reach + 1, 1 / (2 * reach + 1))
    return np.stack([np.convolve(axis, weights, mode="valid") for axis in longer.T], axis=1)


def with_tubes(facts: FileFacts, manifest: Manifest) -> FileFacts:
    """The facts of a manifest's rows, of which those with boxes have the size of their crop.

    A row whose boxes do not fit its frames or the picture counts as unreadable.
    """
    if manifest.boxes is None:
        return facts
    heights, widths, bad = facts.heights.copy(), facts.widths.copy(), dict(facts.bad)
    for row in range(len(manifest)):
        cell = manifest.boxes_cell(row)
        if not cell or row in bad:
            continue
        video_size, frames = (int(heights[row]), int(widths[row])), _frames_of_row(facts, row)
        file_frames = frames[1] if facts.file_frames is None else int(facts.file_frames[row])
        try:
            crop = checked_crop(cell, frames, video_size, file_frames=file_frames, name=manifest.clip_name(row))
            heights[row], widths[row] = crop.size
        except VideoError as error:
            bad[row] = str(error)
    sizes_N2 = np.stack([facts.heights, facts.widths], axis=1)
    return replace(facts, heights=heights, widths=widths, file_sizes=sizes_N2, bad=dict(sorted(bad.items())))


def _frames_of_row(facts: FileFacts, row: int) -> tuple[int, int]:
    """The first frame of a row in its file, and the number of its frames."""
    return 0 if facts.first_frames is None else int(facts.first_frames[row]), int(facts.num_frames[row])


def read_around_object(read: ReadFrames, facts: FileFacts, manifest: Manifest, row: int) -> ReadFrames:
    """A function that reads frames of the row's file like `read`, but gives the crops of the row, if it has boxes."""
    cell = manifest.boxes_cell(row)
    if not cell:
        return read
    assert facts.file_sizes is not None
    height, width = facts.file_sizes[row].tolist()
    return cropped(read, tube_crop(cell, _frames_of_row(facts, row), (height, width)))


def cropped(read: ReadFrames, crop: TubeCrop | None) -> ReadFrames:
    """A function that reads frames like `read`, but gives their crops, if there is one."""
    return read if crop is None else partial(read_crops, read, crop)


def read_crops(
    read: ReadFrames, crop: TubeCrop, path: Path, indices: Sequence[int], *, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The crops of frames, uint8 (T, 3, H, W), at `size` (H, W) or in pixels of the video, and their times (T,).

    The whole pictures are decoded at the scale of the crops, at most at full size, so that crops keep their detail.
    """
    height, width = size or crop.size
    if crop.size == crop.video_size:
        return read(path, indices, size=(height, width))
    scales = min(1.0, height / crop.size[0]), min(1.0, width / crop.size[1])
    decoded = tuple(max(1, round(side * scale)) for side, scale in zip(crop.video_size, scales, strict=True))
    frames, places = np.unique(indices, return_inverse=True)
    crops_UHWC = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    seconds_U = np.empty(len(frames))
    at_once = max(1, MAX_BYTES // (3 * decoded[0] * decoded[1]))
    for start in range(0, len(frames), at_once):
        part = frames[start : start + at_once].tolist()
        pictures_TCHW, seconds_U[start : start + at_once] = read(path, part, size=decoded)
        for place, (frame, picture_CHW) in enumerate(zip(part, pictures_TCHW, strict=True), start):
            _cut_out(picture_CHW.transpose(1, 2, 0), crop, frame, crops_UHWC[place])
    return crops_UHWC[places].transpose(0, 3, 1, 2), seconds_U[places]


def _cut_out(picture_HWC: np.ndarray, crop: TubeCrop, frame: int, out_HWC: np.ndarray) -> None:
    """Write the crop of a frame, whose picture may have any scale, into `out_HWC`, with bilinear interpolation."""
    import cv2  # slow to import

    rows = []
    for axis, (centre, side, whole) in enumerate(
        zip(crop.centre(frame), crop.size[::-1], crop.video_size[::-1], strict=True)
    ):
        scale = picture_HWC.shape[1 - axis] / whole
        step = side * scale / out_HWC.shape[1 - axis]  # pixels of the picture for a pixel of the crop
        begin = (centre - side / 2) * scale + step / 2 - 0.5  # OpenCV counts from the middle of the first pixel
        rows.append([step, 0, begin] if axis == 0 else [0, step, begin])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    height, width = out_HWC.shape[:2]
    out_HWC[:] = cv2.warpAffine(
        np.ascontiguousarray(picture_HWC), np.array(rows), (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
