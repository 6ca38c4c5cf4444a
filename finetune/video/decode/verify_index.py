"""Test a layout that was found by decoding everything, before frames are sought by it."""

from pathlib import Path

import numpy as np

from finetune.video.decode.container import PYAV_ERRORS, open_video
from finetune.video.decode.gop import GopLayout, layout_without_groups, merge_into_previous
from finetune.video.decode.packet_index import FrameDigest, FrameDigests
from finetune.video.decode.sparse import LayoutError, decode_groups

COMPARED_GROUPS = 32  # groups, spread evenly over the file
COMPARED_FRAMES = 3  # frames of each of these groups, from its keyframe on
COMPARED_WITH_LEADING = 2  # in the first groups the leading frames, shown before the keyframe, are compared too
MAX_ATTEMPTS = 4


def verified_layout(path: Path, layout: GopLayout, digests: FrameDigests) -> GopLayout:
    """The layout without the groups at which decoding turns out not to be able to start.

    Frames of groups spread over the file are decoded again, starting there, and compared with `digests`, those of
    decoding in order.
    """
    for _ in range(MAX_ATTEMPTS):
        wrong = _wrong_groups(path, layout, digests)
        if not wrong:
            return layout
        layout = merge_into_previous(layout, wrong)
    assert layout.times is not None
    return layout_without_groups(layout.times)


def _wrong_groups(path: Path, layout: GopLayout, digests: FrameDigests) -> set[int]:
    """Those of the compared groups whose frames differ or are missing."""
    group_of = _frames_to_compare(layout)
    wrong, left, digest = set(), sorted(group_of), FrameDigest()
    try:
        with open_video(path, quick=True) as (container, stream):
            for number, frame, _ in decode_groups(container, stream, layout, left):
                if number not in group_of:
                    continue
                left = left[left.index(number) + 1 :]
                if digest(frame) != digests[number]:
                    wrong.add(group_of[number])
    except (LayoutError, *PYAV_ERRORS):
        wrong.add(group_of[left[0]] if left else 0)
    return wrong


def _frames_to_compare(layout: GopLayout) -> dict[int, int]:
    """The group of each frame to compare, by frame number. The first group is decoded from the start anyway."""
    last = len(layout.seek_times) - 1
    group_of: dict[int, int] = {}
    for group in np.unique(np.linspace(min(1, last), last, COMPARED_GROUPS).astype(int)).tolist():
        keyframe = min(layout.frames_of_group(group).items())[1]
        first, end = layout.frames_before[group : group + 2].tolist()
        if group > COMPARED_WITH_LEADING:  # leading frames need all of the group before
            first = keyframe
        group_of |= dict.fromkeys(range(first, min(end, keyframe + COMPARED_FRAMES)), group)
    return group_of
