"""Where decoding can start in a file, and which packet each frame comes out of. Arithmetic only: no decoder.

Packets are numbered as they are stored; a group of pictures is a keyframe's packet and those up to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

# A group that is larger is not held in memory to sort it; the whole file is gone through once instead.
LARGEST_GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Layout:
    """Groups of pictures of a video.

    Where `packets` is None, each group's frames are those of its own packets in the order of their times.
    """

    starts: np.ndarray  # (K + 1,) number of each group's first packet, and of all packets
    frames_before: np.ndarray  # (K + 1,) frames that come out of the packets before each start
    seek_times: np.ndarray  # (K,) time of each group's first packet, as seeking wants it
    packets: np.ndarray | None = None  # (N,) the packet that frame i comes out of
    one_each: bool = True  # no packet holds the picture of another's frame

    def __post_init__(self) -> None:
        assert len(self.starts) == len(self.frames_before) == len(self.seek_times) + 1 > 1
        assert self.starts[0] == 0 and (np.diff(self.starts) > 0).all()

    @property
    def num_frames(self) -> int:
        return int(self.frames_before[-1])

    def groups(self, frames: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """The frames, sorted, by the group that holds their packets."""
        frames = sorted(set(frames))
        if self.packets is None:
            found = np.searchsorted(self.frames_before, frames, side="right") - 1
        else:
            found = np.searchsorted(self.starts, self.packets[frames], side="right") - 1
        for group, members in groupby(sorted(zip(found.tolist(), frames, strict=True)), key=lambda pair: pair[0]):
            yield group, [frame for _, frame in members]

    def frames_of_group(self, group: int) -> dict[int, int]:
        """The frame that comes out of each packet of a group, by packet number; needs `packets`."""
        assert self.packets is not None
        inside = (self.packets >= self.starts[group]) & (self.packets < self.starts[group + 1])
        frames = np.flatnonzero(inside)
        return dict(zip(self.packets[frames].tolist(), frames.tolist(), strict=True))


def layout_by_index(
    keys: np.ndarray, discards: np.ndarray, *, key_positions: Sequence[int], key_times: Sequence[int]
) -> Layout | None:
    """The layout by a container's index that lists every packet: one frame each, less those to discard.

    None where the first is no keyframe, or a group is too large to be sorted in memory.
    """
    starts = np.flatnonzero(keys)
    if not len(starts) or starts[0] != 0 or np.diff(key_positions).max(initial=0) > LARGEST_GROUP_BYTES:
        return None
    shown = np.concatenate([[0], np.cumsum(~discards)])
    ends = np.append(starts, len(keys))
    return Layout(ends, shown[ends], np.asarray(key_times, dtype=np.int64))


def layout_by_packets(
    frame_packets: Sequence[int],
    keys: Sequence[int],
    seek_times: Sequence[int | None],
    *,
    num_packets: int,
    one_each: bool = True,
) -> Layout | None:
    """The layout where the packet of every frame is known, in the order in which frames are handed out.

    A packet that is not known is negative. None where that says too little to decode by: no keyframe at the start,
    a packet that gives two frames, or none known for a frame.
    """
    if min(frame_packets, default=0) < 0 or None in seek_times:
        return None
    packets = np.asarray(frame_packets, dtype=np.int32)
    if not len(packets) or not len(keys) or keys[0] != 0 or len(np.unique(packets)) != len(packets):
        return None
    starts = np.append(np.asarray(keys, dtype=np.int64), num_packets)
    before = np.searchsorted(np.sort(packets), starts)
    return Layout(starts, before, np.asarray(seek_times, dtype=np.int64), packets, one_each)
