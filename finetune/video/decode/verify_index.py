"""Try a layout that was found by decoding, before frames are found by it."""

from pathlib import Path

import numpy as np

from finetune.video.decode.container import PYAV_ERRORS, open_video
from finetune.video.decode.gop import GopLayout, layout_without_groups, merge_into_previous
from finetune.video.decode.packet_index import FrameDigest, FrameDigests
from finetune.video.decode.sparse import LayoutError, decode_groups

COMPARED_GROUPS = 32  # of a layout that was found by decoding
COMPARED_FRAMES = 3  # of each of these groups, from its keyframe on
COMPARED_WITH_LEADING = 2  # so many of them with the frames that are shown before the keyframe
MAX_ATTEMPTS = 4


def verified_layout(path: Path, layout: GopLayout, digests: FrameDigests) -> GopLayout:
    """A layout that was found by decoding, less the groups at which decoding cannot start after all.

    Frames of groups spread over the file are decoded again, and compared with what decoding in order gave.
    """
    for _ in range(MAX_ATTEMPTS):
        wrong = _wrong_groups(path, layout, digests)
        if not wrong:
            return layout
        layout = merge_into_previous(layout, wrong)
    assert layout.times is not None
    return layout_without_groups(layout.times)


def _wrong_groups(path: Path, layout: GopLayout, digests: FrameDigests) -> set[int]:
    """Of the groups compared, those whose frames come out otherwise, or not at all."""
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
    """The frames to compare, by number, each with its group: those of the first group come from the start anyway."""
    last = len(layout.seek_times) - 1
    group_of: dict[int, int] = {}
    for group in np.unique(np.linspace(min(1, last), last, COMPARED_GROUPS).astype(int)).tolist():
        keyframe = min(layout.frames_of_group(group).items())[1]
        first, after = layout.frames_before[group : group + 2].tolist()
        if group > COMPARED_WITH_LEADING:  # what is shown before a keyframe needs all of the group before
            first = keyframe
        group_of |= dict.fromkeys(range(first, min(after, keyframe + COMPARED_FRAMES)), group)
    return group_of
