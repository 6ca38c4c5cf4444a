"""Decode the frames asked for and as little else as they need: their groups of pictures, less what nobody refers to.

Packets are stamped with the number of the frame they should give. Every frame that comes out must have been asked of
the decoder and come after the one before it: wherever a file turns out not to be laid out as it says, `LayoutError`
sends the caller back to counting.

What lets packets be left out, and on what it rests:
- Decoding starts at a group's keyframe. It must come out as a keyframe, undamaged; where a layout was found by
  decoding, `proof` has compared the first frames of groups with those of decoding in order.
- Frames shown before that keyframe are left out, unless a packet may hold two pictures: then they are decoded and
  thrown away, as the decoder holds the second picture back until the next packet.
- Frames that no other refers to are skipped by decoders that know them, unless a packet may hold two pictures.
- Which packet gives which frame of a group: by the times of its packets where their headers say the same order, or as
  decoding in order has shown.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.video.decode.container import read_packets
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.orientation import may_state_orientation
from finetune.video.decode.packet_index import is_mp4, seek_time, sort_by_display_order, stream_order_reader
from finetune.video.decode.picture_order_count import UnknownOrderError

# Codecs whose decoders know before decoding that no other frame refers to one, and skip it when told to.
NONREF_SKIPPING_CODECS = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"}
# Packets up to this many ahead are read over; those further on are jumped to.
SEEK_THRESHOLD_PACKETS = 64
NO_FRAME = -1
NO_GROUP = -2

NumberedPackets = Iterator[tuple[int, Packet]]
TimedFrames = Iterator[tuple[int, VideoFrame, float]]


class LayoutError(Exception):
    """The file is not laid out as its index or its times say."""


def decode_groups(
    container: InputContainer, stream: VideoStream, layout: GopLayout, frames: Iterable[int]
) -> Iterator[tuple[int, VideoFrame, float]]:
    """(frame number, frame, its time in seconds or NaN) for the frames asked for, in rising order.

    Others that come out on the way are among them, and the first where it states the orientation of all.

    Raises LayoutError, or what PyAV raises.
    """
    reader = _PacketReader(container, stream, layout)
    decoder = _GroupDecoder(stream, one_frame_per_packet=layout.one_frame_per_packet)
    _read_encoder_info(stream, reader.first)
    if may_state_orientation(stream, reader.first):
        frames = {0, *frames}
    before = NO_GROUP
    rest: NumberedPackets = iter(())  # the group in the decoder, and its packets that were not needed
    for group, targets in layout.groups(list(frames)):
        if before != group - 1:  # jumping empties the decoder
            yield from decoder.drain()
        frame_of, start = reader.frames_of(group), int(layout.starts[group])
        if targets[0] < frame_of.get(start, NO_FRAME):  # shown before its group's keyframe: needs the group before
            if before != group - 1:
                decoder.begin(reader.frames_of(group - 1), int(layout.starts[group - 1]))
                rest = reader.read_packets(group - 1)
            yield from decoder.feed(rest)
            decoder.add_group(frame_of, targets)
        else:
            yield from decoder.drain()
            decoder.begin(frame_of, start, targets)
        packets = reader.read_packets(group)
        yield from decoder.feed(packets, last=decoder.last_needed(targets))
        before, rest = group, packets
    yield from decoder.drain()


def _read_encoder_info(stream: VideoStream, first: Packet) -> None:
    """Old x264 wrote 4:4:4 in a way of its own, and says so in the first packet alone."""
    decoder = stream.codec_context
    if decoder.name == "h264" and "4:4:4" in (decoder.profile or ""):
        decoder.decode(first)
        decoder.decode(None)
        decoder.flush_buffers()


class _GroupDecoder:
    """The stream's decoder, from one keyframe until it is drained."""

    def __init__(self, stream: VideoStream, *, one_frame_per_packet: bool) -> None:
        self.context = stream.codec_context
        self.one_frame_per_packet = one_frame_per_packet
        self.may_skip = one_frame_per_packet and _can_skip_nonref(stream)
        self.left_out: set[int] = set()  # packets
        self.undecodable_leading: set[int] = (
            set()
        )  # frames that come out before the first keyframe, and are thrown away
        self.frame_of: dict[int, int] = {}  # by packet number; those shown before the first keyframe are left out
        self.key = NO_FRAME  # the first keyframe's frame, where it is shown
        self.wanted: set[int] = set()
        self.fed: set[int] = set()
        self.last = NO_FRAME  # the frame that came out last
        self.has_begun = False
        self.times: dict[int, float] = {}

    def begin(self, frame_of: dict[int, int], start: int, targets: Iterable[int] = ()) -> None:
        """Start at the packet of a group's keyframe; frames shown before that need a group that is not there."""
        self.key = frame_of.get(start, NO_FRAME)  # an edit list may take it away, and keep what refers to it
        early = {number: frame for number, frame in frame_of.items() if frame < self.key}
        self.left_out = set(early) if self.one_frame_per_packet else set()
        self.undecodable_leading = set() if self.one_frame_per_packet else set(early.values())
        self.frame_of, self.last, self.has_begun = {}, NO_FRAME, True
        self.context.skip_frame = "NONREF" if self.may_skip else "DEFAULT"
        self.add_group(frame_of, targets)

    def add_group(self, frame_of: dict[int, int], targets: Iterable[int]) -> None:
        """Take up the next group, without a break."""
        self.frame_of |= {number: frame for number, frame in frame_of.items() if number not in self.left_out}
        self.wanted |= set(targets)

    def last_needed(self, targets: Iterable[int]) -> int:
        """The last packet that these frames need: one's own, or a second field that comes after it."""
        targets = set(targets)
        own = max((number for number, frame in self.frame_of.items() if frame in targets), default=-1)
        return min((number for number in self.frame_of if number > own), default=own + 2) - 1

    def feed(self, packets: NumberedPackets, *, last: int | None = None) -> TimedFrames:
        for number, packet in packets:
            if number not in self.left_out:
                frame = self.frame_of.get(number, NO_FRAME)
                if frame != NO_FRAME:  # else a second field, which goes with the frame before it
                    self.fed.add(frame)
                    is_wanted = frame in self.wanted
                    if is_wanted and packet.pts is not None:
                        self.times[frame] = float(packet.pts * packet.time_base)
                    self.context.skip_frame = "DEFAULT" if is_wanted or not self.may_skip else "NONREF"
                packet.pts = frame
                pictures = self.context.decode(packet)
                if pictures:
                    yield from self._checked_output(pictures)
            if number == last:
                return

    def drain(self) -> TimedFrames:
        """What is still in the decoder; it can begin anew after that."""
        if self.has_begun:
            yield from self._checked_output(self.context.decode(None))
            self.context.flush_buffers()
        if self.wanted:
            raise LayoutError(f"frames {sorted(self.wanted)} did not come out")
        self.frame_of, self.fed, self.times, self.has_begun = {}, set(), {}, False

    def _checked_output(self, pictures: Iterable[VideoFrame]) -> TimedFrames:
        """What comes out, checked."""
        for picture in pictures:
            number = picture.pts
            if number in self.undecodable_leading:
                continue
            if number not in self.fed or picture.is_corrupt:
                raise LayoutError(f"a frame that was not expected, or is damaged: {number}")
            if number == self.key and not picture.key_frame:
                raise LayoutError(f"frame {number} is no keyframe")
            if number <= self.last:
                raise LayoutError(f"frame {number} came out after frame {self.last}")
            self.last = number
            self.wanted.discard(number)
            yield number, picture, self.times.get(number, float("nan"))


def _can_skip_nonref(stream: VideoStream) -> bool:
    """Whether frames that no other refers to can be told; with temporal layers the mark holds within a layer only."""
    decoder = stream.codec_context
    if decoder.name != "hevc":
        return decoder.name in NONREF_SKIPPING_CODECS
    header = decoder.extradata or b""
    return len(header) > 21 and header[0] == 1 and (header[21] >> 3 & 7) == 1  # ISO/IEC 14496-15: numTemporalLayers


class _PacketReader:
    """Packets of one stream by number, read in order or jumped to."""

    def __init__(self, container: InputContainer, stream: VideoStream, layout: GopLayout) -> None:
        self.container = container
        self.stream = stream
        self.layout = layout
        self.position = 0  # number of the packet that comes next
        self.held: dict[int, list[tuple[int, Packet]]] = {}  # packets of the group that was put into order last
        self.packets = self._demux()
        first = next(self.packets, None)
        if first is None:
            raise LayoutError("no packet")
        self.first = first
        # MP4 is asked for the time at which a keyframe is shown, and its index has when that is decoded.
        known = is_mp4(container) and first.pts is not None and first.dts is not None
        self.lead = (first.pts or 0) - (first.dts or 0) if known else 0
        self.packets = chain([first], self.packets)

    def frames_of(self, group: int) -> dict[int, int]:
        """The frame of each packet of a group that gives one, by packet number."""
        if self.layout.packets is not None:
            return self.layout.frames_of_group(group)
        held = self._buffer_group(group)
        try:
            rank_of = stream_order_reader(self.stream)
            order = sort_by_display_order(
                [packet.pts for _, packet in held], [rank_of(memoryview(packet)) for _, packet in held]
            )
        except UnknownOrderError as error:
            raise LayoutError(str(error)) from None
        shown = [held[place][0] for place in order if not held[place][1].is_discard]
        first_frame, after = self.layout.frames_before[group : group + 2].tolist()
        if len(shown) != after - first_frame:
            raise LayoutError("packets are missing")
        return {number: first_frame + place for place, number in enumerate(shown)}

    def read_packets(self, group: int) -> NumberedPackets:
        """A group's packets with their numbers."""
        return self._read(group) if self.layout.packets is not None else iter(self._buffer_group(group))

    def _buffer_group(self, group: int) -> list[tuple[int, Packet]]:
        if group not in self.held:
            self.held = {group: list(self._read(group))}
        return self.held[group]

    def _read(self, group: int) -> NumberedPackets:
        start, end = self.layout.starts[group : group + 2].tolist()
        if not self.position <= start <= self.position + SEEK_THRESHOLD_PACKETS:
            self._jump(group)
        while self.position < start:
            self._next()
        return self._until(end)

    def _until(self, end: int) -> NumberedPackets:
        while self.position < end:
            yield self.position, self._next()

    def _next(self) -> Packet:
        packet = next(self.packets, None)
        if packet is None:
            raise LayoutError(f"packet {self.position} is not there")
        self.position += 1
        return packet

    def _jump(self, group: int) -> None:
        """To the group's first packet or one shortly before it, or to the first of all where seeking fails."""
        wanted = int(self.layout.seek_times[group])
        for time in (wanted + self.lead, wanted):
            first = self._seek(time)
            there = (
                []
                if first is None
                else np.flatnonzero(self.layout.seek_times == seek_time(self.container, first)).tolist()
            )
            if len(there) == 1 and there[0] <= group:
                self.position = int(self.layout.starts[there[0]])
                return
        first = self._seek(int(self.layout.seek_times[0]))
        if first is None or (first.pos, first.size) != (self.first.pos, self.first.size):
            raise LayoutError(f"the group at {wanted} cannot be found by its time")
        self.position = 0

    def _seek(self, time: int) -> Packet | None:
        """The first packet there, which comes next."""
        self.container.seek(time, stream=self.stream)
        self.packets = self._demux()
        first = next(self.packets, None)
        self.packets = chain([] if first is None else [first], self.packets)
        return first

    def _demux(self) -> Iterator[Packet]:
        return read_packets(self.container, self.stream)
