"""Where decoding can start in a file, and which packet each frame comes from. Arithmetic only: no decoder.

Packets are numbered in the order in which they are stored (decode order). A group of pictures (GOP) is the packet of a
keyframe and all packets up to the next keyframe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

# The packets of a larger group are not held in memory to sort them; one pass over the whole file is made instead.
MAX_GROUP_BYTES = 64 * 2**20
MAX_STEP_BACK_SECONDS = 1.0  # a larger step back means a reset clock, not frames out of order


@dataclass(frozen=True, eq=False)
class GopLayout:
    """The groups of pictures of a video with K groups and N frames, and when each frame is shown.

    Where `packets` is None, the frames of a group are those of its own packets in the order of their timestamps.
    Without any group, frames can only be counted from the start of the file.
    """

    starts: np.ndarray  # (K + 1,) number of each group's first packet, then the number of packets
    frames_before: np.ndarray  # (K + 1,) how many frames come from the packets before each start
    seek_times: np.ndarray  # (K,) time of each group's first packet, in ticks, as seeking expects it
    packets: np.ndarray | None = None  # (N,) the packet that frame i comes from
    one_frame_per_packet: bool = True  # False where a packet may hold two pictures (a packed bitstream)
    times: np.ndarray | None = None  # (N,) presentation time of each frame in seconds, never falling

    def __post_init__(self) -> None:
        assert len(self.starts) == len(self.frames_before) == len(self.seek_times) + 1
        assert self.starts[0] == 0 and (np.diff(self.starts) > 0).all()
        assert self.times is None or not self.has_groups or len(self.times) == self.num_frames

    @property
    def num_frames(self) -> int:
        return int(self.frames_before[-1]) if self.has_groups or self.times is None else len(self.times)

    @property
    def has_groups(self) -> bool:
        return len(self.seek_times) > 0

    def groups(self, frames: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
        """(group, frames) for each group that holds packets of these frames, in rising order."""
        rising = np.unique(np.fromiter(frames, dtype=np.int64))
        if self.packets is None:
            group_of = np.searchsorted(self.frames_before, rising, side="right") - 1
        else:
            group_of = np.searchsorted(self.starts, self.packets[rising], side="right") - 1
        borders = np.flatnonzero(np.diff(group_of)) + 1
        for start, end in pairwise([0, *borders.tolist(), len(rising)]):
            yield int(group_of[start]), rising[start:end].tolist()

    def frames_of_group(self, group: int) -> dict[int, int]:
        """The frame that comes from each packet of a group, by packet number; needs `packets`."""
        assert self.packets is not None
        inside = (self.packets >= self.starts[group]) & (self.packets < self.starts[group + 1])
        frames = np.flatnonzero(inside)
        return dict(zip(self.packets[frames].tolist(), frames.tolist(), strict=True))


def layout_from_index_entries(
    keys: np.ndarray, discards: np.ndarray, *, key_positions: Sequence[int], key_times: Sequence[int]
) -> GopLayout | None:
    """The layout by a container index that lists all N packets: one frame each, less those that an edit list discards.

    `keys` and `discards` are bool (N,); `key_positions` (bytes in the file) and `key_times` (ticks) have an item for
    each keyframe. None where the first packet is not a keyframe, or a group is too large to be sorted in memory.
    """
    starts = np.flatnonzero(keys)
    if not len(starts) or starts[0] != 0 or np.diff(key_positions).max(initial=0) > MAX_GROUP_BYTES:
        return None
    shown = np.concatenate([[0], np.cumsum(~discards)])
    ends = np.append(starts, len(keys))
    return GopLayout(ends, shown[ends], np.asarray(key_times, dtype=np.int64))


def layout_from_frame_packets(
    frame_packets: Sequence[int] | np.ndarray,
    keys: Sequence[int],
    seek_times: Sequence[int | None],
    *,
    num_packets: int,
    one_frame_per_packet: bool = True,
    times: np.ndarray | None = None,
) -> GopLayout | None:
    """The layout where the packets (N,) of all frames are known; they are in display order, negative where unknown.

    `keys` are the packets of keyframes, `seek_times` their times in ticks, `times` (N,) the seconds of frames. None
    where that is not enough to decode by: no keyframe at the start, a packet that gives two frames, a frame whose
    packet is unknown, or one that is shown between the frames of an earlier group.
    """
    packets = np.asarray(frame_packets, dtype=np.int32)
    if (packets < 0).any() or None in seek_times:
        return None
    if not len(packets) or not len(keys) or keys[0] != 0 or len(np.unique(packets)) != len(packets):
        return None
    starts = np.append(np.asarray(keys, dtype=np.int64), num_packets)
    if (np.diff(np.searchsorted(starts, packets, side="right")) < 0).any():
        return None
    before = np.searchsorted(np.sort(packets), starts)
    return GopLayout(starts, before, np.asarray(seek_times, dtype=np.int64), packets, one_frame_per_packet, times)


def layout_without_groups(times: np.ndarray) -> GopLayout:
    """The layout of a file whose frames, shown at `times` (N,) in seconds, can only be counted from its start."""
    nothing = np.zeros(1, dtype=np.int64)
    return GopLayout(nothing, nothing, nothing[1:], times=times)


def merge_into_previous(layout: GopLayout, groups: Collection[int]) -> GopLayout:
    """The layout where decoding cannot start at these groups: each is joined to the group before it."""
    kept = [group for group in range(len(layout.seek_times)) if group == 0 or group not in groups]
    ends = [*kept, len(layout.seek_times)]
    starts, before, seek_times = layout.starts[ends], layout.frames_before[ends], layout.seek_times[kept]
    return replace(layout, starts=starts, frames_before=before, seek_times=seek_times)


def monotonic_times(seconds: np.ndarray, rate: float) -> np.ndarray:
    """Presentation times (N,) of frames in display order, in seconds, changed only where they fall or are missing.

    Times that are out of order are sorted. Missing times (NaN) continue at `rate` frames a second. A clock that is set
    back by more than a second continues where it was.
    """
    step = 1 / rate if rate > 0 else 1.0
    known_frames = np.flatnonzero(np.isfinite(seconds))
    if not len(known_frames):
        return np.arange(len(seconds)) * step
    known = seconds[known_frames]
    gaps = np.diff(known)
    step = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else step
    for place in np.flatnonzero(gaps < -MAX_STEP_BACK_SECONDS).tolist():
        before = known[max(0, place - 2) : place + 1]  # several, as a single one may be too late by mistake
        if known[place + 1] < before.min() - MAX_STEP_BACK_SECONDS:
            known[place + 1 :] += known[place] + step - known[place + 1]
    numbers = np.arange(len(seconds))
    outside = np.minimum(numbers - known_frames[0], 0) + np.maximum(numbers - known_frames[-1], 0)
    return np.interp(numbers, known_frames, np.sort(known)) + step * outside
