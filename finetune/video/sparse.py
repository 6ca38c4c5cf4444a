"""Decode the frames asked for and as little else as they need: their groups of pictures, less what nobody refers to.

Packets are stamped with the number of the frame they should give, and every frame that comes out is held against
it: wherever a file turns out not to be laid out as it says, `LayoutError` sends the caller back to counting.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.video.layout import Layout
from finetune.video.scan import is_mp4, packets_of, seek_time

# Codecs whose decoders know before decoding that no other frame refers to one, and skip it when told to.
KNOWS_UNREFERENCED = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"}
# Packets up to this many ahead are read over; those further on are jumped to.
WORTH_A_SEEK = 64
NO_FRAME = -1

Numbered = Iterable[tuple[int, Packet]]


class LayoutError(Exception):
    """The file is not laid out as its index or its times say."""


def decode_groups(
    container: InputContainer, stream: VideoStream, layout: Layout, frames: Iterable[int]
) -> Iterator[tuple[int, VideoFrame, float]]:
    """(frame number, frame, its time in seconds or NaN) for the frames asked for, in rising order.

    Raises LayoutError, or what PyAV raises.
    """
    reader, may_skip = _Reader(container, stream, layout), layout.one_each and _knows_unreferenced(stream)
    _tell_encoder(stream, reader.first)
    for group, targets in layout.groups(list(frames)):
        frame_of, packets = reader.group(group)
        key = _frame_of_key(layout, group, frame_of)
        if targets[0] < key:  # shown before its group's keyframe: needs the group before
            if group == 0:
                raise LayoutError("frames are shown before the first keyframe")
            frame_before, packets_before = reader.group(group - 1)
            key, frame_of = _frame_of_key(layout, group - 1, frame_before), frame_before | frame_of
            packets = chain(list(packets_before), reader.group(group)[1])
        shown_after_key = {number: frame for number, frame in frame_of.items() if frame >= key}
        before_key = frame_of.keys() - shown_after_key.keys()
        yield from _decode_run(
            stream, shown_after_key, (p for p in packets if p[0] not in before_key), targets, may_skip=may_skip
        )


def _tell_encoder(stream: VideoStream, first: Packet) -> None:
    """Old x264 wrote 4:4:4 in a way of its own, and says so in the first packet alone."""
    decoder = stream.codec_context
    if decoder.name == "h264" and "4:4:4" in (decoder.profile or ""):
        decoder.decode(first)
        decoder.decode(None)
        decoder.flush_buffers()


def _frame_of_key(layout: Layout, group: int, frame_of: dict[int, int]) -> int:
    number = int(layout.starts[group])
    return frame_of.get(number, min(frame_of.values(), default=0))


def _decode_run(
    stream: VideoStream, frame_of: dict[int, int], packets: Numbered, targets: list[int], *, may_skip: bool
) -> Iterator[tuple[int, VideoFrame, float]]:
    """Decode packets from a keyframe on until the last target is out."""
    decoder, wanted = stream.codec_context, set(targets)
    times: dict[int, float] = {}
    last = _last_packet(frame_of, wanted)
    for number, packet in packets:
        if number > last:
            break
        frame = frame_of.get(number, NO_FRAME)
        if frame != NO_FRAME:  # else a second field, which goes with the frame before it
            times[frame] = float("nan") if packet.pts is None else float(packet.pts * packet.time_base)
            decoder.skip_frame = "NONREF" if may_skip and frame not in wanted else "DEFAULT"
        packet.pts = frame
        yield from _taken(decoder.decode(packet), wanted, times)
    yield from _taken(decoder.decode(None), wanted, times)
    decoder.flush_buffers()
    if wanted:
        raise LayoutError(f"frames {sorted(wanted)} did not come out")


def _last_packet(frame_of: dict[int, int], wanted: set[int]) -> int:
    """The last packet that a wanted frame needs: its own, or a second field that comes after it."""
    own = max((number for number, frame in frame_of.items() if frame in wanted), default=-1)
    return min((number for number in frame_of if number > own), default=own + 2) - 1


def _taken(
    pictures: Iterable[VideoFrame], wanted: set[int], times: dict[int, float]
) -> Iterator[tuple[int, VideoFrame, float]]:
    """Those that are wanted, each taken off the list; everything that comes out is checked."""
    for picture in pictures:
        number = picture.pts
        first, *_ = times
        if number is None or number not in times or picture.is_corrupt:
            raise LayoutError(f"a frame that was not expected, or is damaged: {number}")
        if number == first and not picture.key_frame:
            raise LayoutError(f"frame {number} is no keyframe")
        if number in wanted:
            wanted.remove(number)
            yield number, picture, times[number]


def _knows_unreferenced(stream: VideoStream) -> bool:
    """Whether frames that no other refers to can be told; with temporal layers the mark holds within a layer only."""
    decoder = stream.codec_context
    if decoder.name != "hevc":
        return decoder.name in KNOWS_UNREFERENCED
    header = decoder.extradata or b""
    return len(header) > 21 and header[0] == 1 and (header[21] >> 3 & 7) == 1  # ISO/IEC 14496-15: numTemporalLayers


class _Reader:
    """Packets of one stream by number, read in order or jumped to."""

    def __init__(self, container: InputContainer, stream: VideoStream, layout: Layout) -> None:
        self.container = container
        self.stream = stream
        self.layout = layout
        self.position = 0  # number of the packet that comes next
        self.packets = self._demux()
        first = next(self.packets, None)
        if first is None:
            raise LayoutError("no packet")
        self.first = first
        # MP4 is asked for the time at which a keyframe is shown, and its index has when that is decoded.
        known = is_mp4(container) and first.pts is not None and first.dts is not None
        self.lead = (first.pts or 0) - (first.dts or 0) if known else 0
        self.packets = chain([first], self.packets)

    def group(self, group: int) -> tuple[dict[int, int], Numbered]:
        """The frame of each packet of a group that gives one, and its packets with their numbers."""
        start, end = self.layout.starts[group : group + 2].tolist()
        if not self.position <= start <= self.position + WORTH_A_SEEK:
            self._jump(group)
        while self.position < start:
            self._next()
        if self.layout.packets is not None:
            return self.layout.frames_of_group(group), self._until(end)
        held = list(self._until(end))
        shown = sorted((packet.pts, number) for number, packet in held if not packet.is_discard)
        if len(shown) != self.layout.frames_before[group + 1] - self.layout.frames_before[group]:
            raise LayoutError("packets are missing")
        first_frame = int(self.layout.frames_before[group])
        return {number: first_frame + rank for rank, (_, number) in enumerate(shown)}, iter(held)

    def _until(self, end: int) -> Numbered:
        while self.position < end:
            yield self.position, self._next()

    def _next(self) -> Packet:
        packet = next(self.packets, None)
        if packet is None:
            raise LayoutError(f"packet {self.position} is not there")
        self.position += 1
        return packet

    def _jump(self, group: int) -> None:
        """To the group's first packet, or one shortly before it."""
        wanted = int(self.layout.seek_times[group])
        for time in (wanted + self.lead, wanted):
            self.container.seek(time, stream=self.stream)
            self.packets = self._demux()
            first = next(self.packets, None)
            there = (
                []
                if first is None
                else np.flatnonzero(self.layout.seek_times == seek_time(self.container, first)).tolist()
            )
            if first is not None and len(there) == 1 and there[0] <= group:
                self.packets = chain([first], self.packets)
                self.position = int(self.layout.starts[there[0]])
                return
        raise LayoutError(f"the group at {wanted} cannot be found by its time")

    def _demux(self) -> Iterator[Packet]:
        return packets_of(self.container, self.stream)
