"""Which frames and packets the parts of a video are, and when each is shown in the result. Arithmetic only.

Decoding can start only at a keyframe, so a part that is copied starts at the keyframe at or before its start. It ends
where every frame shown so far is among the packets stored so far: a few frames later where frames are stored out of
order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from finetune.data.intervals import frames_in_interval
from finetune.video.decode.gop import GopLayout


@dataclass(frozen=True)
class Span:
    """Successive frames of a video, from `first` up to but without `end_frame`, shown from `start` to `end` seconds.

    Seconds count from the beginning of the video. `packets` are the first packet and the one after the last, where
    packets are copied; of these, packets of frames before `first` are left out.
    """

    first: int
    end_frame: int
    start: float
    end: float
    packets: tuple[int, int] = (0, 0)

    @property
    def seconds(self) -> float:
        return self.end - self.start


def exact_spans(times_N: np.ndarray, parts: Iterable[tuple[float, float]]) -> list[Span]:
    """The frames whose times lie in [start, end) of each part, in order of time; parts that touch become one.

    `times_N` are the times of all frames in seconds from the beginning of the video, rising. A part without a frame is
    left out.
    """
    frames: list[tuple[int, int, float]] = []
    for start, end in sorted(parts):
        first, number = frames_in_interval(times_N, start, end)
        if not number:
            continue
        if frames and first <= frames[-1][1]:
            before = frames.pop()
            frames.append((before[0], max(before[1], first + number), max(before[2], end)))
        else:
            frames.append((first, first + number, end))
    return [Span(first, after, float(times_N[first]), _end(times_N, after, end)) for first, after, end in frames]


def keyframe_spans(layout: GopLayout, times_N: np.ndarray, spans: Sequence[Span]) -> list[Span] | None:
    """The same spans, longer where their packets can only be copied so; those that overlap then become one.

    None where packets cannot be copied: it is unknown which packet gives which frame, or an edit list hides some.
    """
    if layout.packets is None or not layout.has_groups or not layout.one_frame_per_packet:
        return None
    frame_of = np.full(int(layout.starts[-1]), -1)
    frame_of[layout.packets] = np.arange(len(layout.packets))
    key_frames = frame_of[layout.starts[:-1]]
    copied: list[Span] = []
    for span in spans:
        if copied and span.end_frame <= copied[-1].end_frame:
            continue
        group = _group_to_start_at(key_frames, span.first)
        if group is None:
            return None
        first = int(key_frames[group])
        if copied and first <= copied[-1].end_frame:
            before = copied.pop()
            group, first = int(np.searchsorted(layout.starts, before.packets[0])), before.first
        start_packet = int(layout.starts[group])
        end_frame, end_packet = _closed_end(layout.packets, frame_of, (first, span.end_frame), start_packet)
        if (frame_of[start_packet:end_packet] < 0).any():
            return None
        end = max(span.end, _end(times_N, end_frame, 0.0)) if end_frame > span.end_frame else span.end
        copied.append(Span(first, end_frame, float(times_N[first]), end, (start_packet, end_packet)))
    return copied


def output_starts(spans: Sequence[Span]) -> list[float]:
    """When each span begins in the result, in seconds: one after the other."""
    return list(accumulate((span.seconds for span in spans[:-1]), initial=0.0))


def packet_frames(layout: GopLayout, spans: Sequence[Span]) -> Iterator[tuple[int, dict[int, int]]]:
    """(place, frame by packet number) for each span, packets in the order in which they are stored."""
    assert layout.packets is not None
    for place, span in enumerate(spans):
        packets = layout.packets[span.first : span.end_frame]
        order = np.argsort(packets)
        yield place, dict(zip(packets[order].tolist(), (order + span.first).tolist(), strict=True))


def output_ticks(times_N: np.ndarray, spans: Sequence[Span], ticks_per_second: float) -> np.ndarray:
    """When each frame of the spans is shown in the result, in rising whole ticks."""
    moved = [
        times_N[span.first : span.end_frame] - span.start + begins
        for span, begins in zip(spans, output_starts(spans), strict=True)
    ]
    ticks = np.rint(np.concatenate(moved) * ticks_per_second).astype(np.int64)
    numbers = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - numbers) + numbers


def decode_ticks(shown_ticks: np.ndarray) -> np.ndarray:
    """The decode times (N,) of packets from the times (N,) at which their frames are shown, in the order of packets.

    They rise, and none is after its packet's frame is shown. The first ones may be negative.
    """
    in_order = np.sort(shown_ticks)
    return in_order - (in_order - shown_ticks).max()


def _end(times_N: np.ndarray, after: int, end: float) -> float:
    """When the frame before `after` stops being shown: when the next one is, but not long after `end`."""
    gaps = np.diff(times_N)
    typical = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.04
    last = float(times_N[after - 1]) + typical
    return min(float(times_N[after]), max(end, last)) if after < len(times_N) else last


def _group_to_start_at(key_frames: np.ndarray, first: int) -> int | None:
    """The last group whose keyframe is shown, and not after frame `first`."""
    usable = np.flatnonzero((key_frames >= 0) & (key_frames <= first))
    return int(usable[-1]) if len(usable) else None


def _closed_end(packets: np.ndarray, frame_of: np.ndarray, frames: tuple[int, int], start: int) -> tuple[int, int]:
    """The frame and the packet after the last ones, so that all frames shown before them are among these packets."""
    first, end_frame = frames
    while True:
        end_packet = int(packets[first:end_frame].max()) + 1
        shown = int(frame_of[start:end_packet].max()) + 1
        if shown <= end_frame:
            return end_frame, end_packet
        end_frame = shown
