"""Images that count as single clips but look like numbered video frames, which a split may then divide."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from finetune.checks.duplicates import leak_partition
from finetune.checks.finding import Finding
from finetune.checks.rows import Rows
from finetune.errors import shorten_list
from finetune.storage.numbered_images import IMAGE_SUFFIXES, frame_names, number_pattern
from finetune.video.fingerprints import standardize

MIN_IMAGES = 12  # in a folder, to be compared
# Difference of neighbouring images relative to that of other images. Measured on frames of 37 real clips, it is 0.02 to
# 0.3 for frames up to 5 apart, and at least 0.48 in 500 draws of 10 unrelated frames.
MAX_NEIGHBOUR_RATIO = 0.4


def loose_frame_findings(rows: Rows, readable: Sequence[int], pictures_N3SS: np.ndarray) -> list[Finding]:
    """A warning about folders whose images resemble the next one by number, and may be in another split than it.

    `pictures_N3SS` are the thumbnails of the readable rows.
    """
    sides = leak_partition(rows)
    picture_of = dict(zip(readable, standardize(pictures_N3SS[:, :1]), strict=True))
    concerned: dict[str, list[int]] = {}
    for folder, series in _numbered_images(rows, readable):
        numbered = [row for images in series for row in images]
        neighbours = [pair for images in series for pair in pairwise(images)]
        is_divided = any(sides[one] != sides[other] for one, other in neighbours)
        if is_divided and len(numbered) >= MIN_IMAGES and _look_like_frames(numbered, neighbours, picture_of):
            concerned[folder] = numbered
    if not concerned:
        return []
    images = tuple(row for numbered in concerned.values() for row in numbered)
    what = (
        f"{len(images)} images look like numbered video frames, but each counts as one clip, so frames of one video "
        f"can be in both training and test: {shorten_list(list(concerned))}."
    )
    todo = "Put the frames of each video into its own folder, which then is one clip, or give them one group."
    return [Finding("warning", "loose_frames", what, todo, images)]


def _numbered_images(rows: Rows, readable: Sequence[int]) -> Iterator[tuple[str, list[list[int]]]]:
    """Folders, each with series of rows: images with names that differ by number alone, in the order of numbers."""
    by_folder: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for row in readable:
        path = rows.paths[row]
        if path.suffix.lower() in IMAGE_SUFFIXES:
            by_folder[str(path.parent)][number_pattern(path.name)][path.name] = row
    for folder, patterns in by_folder.items():
        yield folder, [[row_of[name] for name in frame_names(row_of)] for row_of in patterns.values()]


def _look_like_frames(numbered: Sequence[int], neighbours: Sequence[tuple[int, int]], picture_of: dict) -> bool:
    """Whether neighbouring images differ much less than images half the folder apart."""
    half = len(numbered) // 2
    others = list(zip(numbered, [*numbered[half:], *numbered[:half]], strict=True))
    near, far = (
        np.median([np.abs(picture_of[one] - picture_of[other]).mean() for one, other in pairs])
        for pairs in (neighbours, others)
    )
    return bool(near < MAX_NEIGHBOUR_RATIO * far)
