"""The packets of parts of a video with new timestamps, so that the parts follow one another."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from finetune.video.cut.plan import Span, decode_ticks, output_ticks, packet_frames
from finetune.video.decode.container import open_video
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.sparse import PacketReader


def copied_packets(
    source: Path, layout: GopLayout, times_N: np.ndarray, spans: Sequence[Span], target: VideoStream
) -> Iterator[Packet]:
    """The packets of all spans for the stream `target`, in the order in which they are stored.

    `times_N` are the times of all frames in seconds from the beginning of the video. Raises LayoutError, or what PyAV
    raises.
    """
    with open_video(source) as (container, stream):
        base = stream.time_base or Fraction(1, 90_000)
        order = [frame for _, frame_of in packet_frames(layout, spans) for frame in frame_of.values()]
        rising = np.sort(order)
        shown = output_ticks(times_N, spans, float(1 / base))[np.searchsorted(rising, order)]
        decoded = decode_ticks(shown)
        last_seconds = spans[-1].end - float(times_N[spans[-1].end_frame - 1])
        durations = np.diff(np.append(decoded, decoded[-1] + max(1, round(last_seconds / base))))
        reader, place = PacketReader(container, stream, layout), 0
        for number, frame_of in packet_frames(layout, spans):
            for packet in _packets_of(reader, layout, spans[number], frame_of):
                packet.stream, packet.time_base = target, base
                packet.pts, packet.dts, packet.duration = (int(ticks[place]) for ticks in (shown, decoded, durations))
                place += 1
                yield packet


def _packets_of(reader: PacketReader, layout: GopLayout, span: Span, frame_of: dict[int, int]) -> Iterator[Packet]:
    """The packets of a span, without those of frames that are shown before its first one."""
    first, last = np.searchsorted(layout.starts, [span.packets[0], span.packets[1] - 1], side="right").tolist()
    for group in range(first - 1, last):
        for number, packet in reader.read_packets(group):
            if number in frame_of:
                yield packet
