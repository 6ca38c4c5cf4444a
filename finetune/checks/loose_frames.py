"""Images that are clips by themselves, but look like the numbered frames of videos, which a split then divides."""

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

MIN_IMAGES = 12  # images in a folder that are judged
# Of how far apart other images are. Measured on frames of 37 real clips, neighbours are at 0.02 to 0.3 of that up to 5
# frames apart, and in 500 draws of 10 unrelated frames at 0.48 and more.
MAX_NEIGHBOUR_RATIO = 0.4


def loose_frame_findings(rows: Rows, readable: Sequence[int], pictures_N3SS: np.ndarray) -> list[Finding]:
    """A warning of folders whose images resemble the next by number more than others, and may be parted from it."""
    sides = leak_partition(rows)
    picture_of = dict(zip(readable, standardize(pictures_N3SS[:, :1]), strict=True))
    concerned: dict[str, list[int]] = {}
    for folder, series in _numbered_images(rows, readable):
        numbered = [row for each in series for row in each]
        neighbours = [pair for each in series for pair in pairwise(each)]
        is_parted = any(sides[one] != sides[other] for one, other in neighbours)
        if is_parted and len(numbered) >= MIN_IMAGES and _look_like_frames(numbered, neighbours, picture_of):
            concerned[folder] = numbered
    if not concerned:
        return []
    images = tuple(row for numbered in concerned.values() for row in numbered)
    what = (
        f"{len(images)} images look like the numbered frames of videos, but each is a clip by itself, so that frames "
        f"of one video can be in training and in the test: {shorten_list(list(concerned))}."
    )
    todo = "Put the frames of each video into a folder of its own, which is one clip, or give them a group."
    return [Finding("warning", "loose_frames", what, todo, images)]


def _numbered_images(rows: Rows, readable: Sequence[int]) -> Iterator[tuple[str, list[list[int]]]]:
    """Folders, and the rows of their images that are named alike, in the order of their numbers."""
    by_folder: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for row in readable:
        path = rows.paths[row]
        if path.suffix.lower() in IMAGE_SUFFIXES:
            by_folder[str(path.parent)][number_pattern(path.name)][path.name] = row
    for folder, patterns in by_folder.items():
        yield folder, [[row_of[name] for name in frame_names(row_of)] for row_of in patterns.values()]


def _look_like_frames(numbered: Sequence[int], neighbours: Sequence[tuple[int, int]], picture_of: dict) -> bool:
    half = len(numbered) // 2
    others = list(zip(numbered, [*numbered[half:], *numbered[:half]], strict=True))
    near, far = (
        np.median([np.abs(picture_of[one] - picture_of[other]).mean() for one, other in pairs])
        for pairs in (neighbours, others)
    )
    return bool(near < MAX_NEIGHBOUR_RATIO * far)
