"""Decode only the groups of pictures that hold wanted frames, and in them only what the wanted frames need.

The timestamp of each packet is replaced by the number of the frame it should give. Every frame that the decoder outputs
must carry such a number, in rising order. Where it does not, the file is not laid out as its index says: `LayoutError`
tells the caller to count frames from the start of the file instead.

Which packets are left out, and why that is safe:
- Decoding starts at a group's keyframe, which must be output as an undamaged keyframe. Where a layout was found by
  decoding, verify_index.py has compared the first frames of groups with those of decoding in order.
- Frames shown before that keyframe are left out, unless a packet may hold two pictures: then they are decoded and
  dropped, as the decoder delays the second picture until the next packet.
- Non-reference frames are skipped by decoders that recognize them, unless a packet may hold two pictures.
- Which packet gives which frame of a group follows from the timestamps of its packets, where their headers state the
  same order, or was found by decoding in order.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.video.decode.container import read_packets
from finetune.video.decode.display_order import UnknownOrderError, sort_by_display_order
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.orientation import may_state_orientation
from finetune.video.decode.packet_index import is_mp4, ranks_of_packets, seek_time

# Codecs whose decoders recognize a non-reference frame before decoding it, and can skip it.
NONREF_SKIPPING_CODECS = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"}
# Up to this many packets are read and dropped to reach a group; one further on is seeked to.
SEEK_THRESHOLD_PACKETS = 64
NO_FRAME = -1
NO_GROUP = -2

NumberedPackets = Iterator[tuple[int, Packet]]
TimedFrames = Iterator[tuple[int, VideoFrame, float]]  # frame number, frame, its time in seconds or NaN


class LayoutError(Exception):
    """The file is not laid out as its index or its timestamps say."""


def decode_groups(
    container: InputContainer, stream: VideoStream, layout: GopLayout, frames: Iterable[int]
) -> TimedFrames:
    """The frames asked for, in rising order, and others that are decoded on the way.

    The first frame is among them where it may state the orientation of all. Raises LayoutError, or what PyAV raises.
    """
    reader = PacketReader(container, stream, layout)
    decoder = _GroupDecoder(stream, one_frame_per_packet=layout.one_frame_per_packet)
    _read_encoder_info(stream, reader.first)
    if may_state_orientation(stream, reader.first):
        frames = chain([0], frames)
    previous = NO_GROUP  # the group in the decoder
    rest: NumberedPackets = iter(())  # its packets that were not needed
    for group, targets in layout.groups(frames):
        if previous != group - 1:  # seeking ends the stream of packets
            yield from decoder.drain()
        frame_of, start = reader.frames_of(group), int(layout.starts[group])
        if targets[0] < frame_of.get(start, NO_FRAME):  # a leading frame also needs the group before
            if previous != group - 1:
                decoder.begin(reader.frames_of(group - 1), int(layout.starts[group - 1]))
                rest = reader.read_packets(group - 1)
            yield from decoder.feed(rest)
            decoder.add_group(frame_of, targets)
        else:
            yield from decoder.drain()
            decoder.begin(frame_of, start, targets)
        packets = reader.read_packets(group)
        yield from decoder.feed(packets, last=decoder.last_needed(targets))
        previous, rest = group, packets
    yield from decoder.drain()


def _read_encoder_info(stream: VideoStream, first: Packet) -> None:
    """Decode the first packet, the only one in which old x264 versions mark their non-standard 4:4:4."""
    decoder = stream.codec_context
    if decoder.name == "h264" and "4:4:4" in (decoder.profile or ""):
        decoder.decode(first)
        decoder.decode(None)
        decoder.flush_buffers()


class _GroupDecoder:
    """The stream's decoder, and what it should output until it is drained."""

    def __init__(self, stream: VideoStream, *, one_frame_per_packet: bool) -> None:
        self.context = stream.codec_context
        self.one_frame_per_packet = one_frame_per_packet
        self.may_skip = one_frame_per_packet and _can_skip_nonref(stream)
        self.left_out: set[int] = set()  # packets that are not decoded
        self.dropped: set[int] = set()  # frames shown before the first keyframe, which are decoded and dropped
        self.frame_of: dict[int, int] = {}  # by packet number; without those shown before the first keyframe
        self.key = NO_FRAME  # the first keyframe's frame, if it is shown
        self.wanted: set[int] = set()  # frames that are still to be output
        self.fed: set[int] = set()  # frames whose packets were decoded
        self.last = NO_FRAME  # the last frame that was output
        self.has_begun = False
        self.times: dict[int, float] = {}  # of wanted frames, in seconds

    def begin(self, frame_of: dict[int, int], start: int, targets: Iterable[int] = ()) -> None:
        """Start at `start`, the packet of a group's keyframe. Frames shown before it would need the group before."""
        self.key = frame_of.get(start, NO_FRAME)  # an edit list may hide the keyframe alone
        early = {number: frame for number, frame in frame_of.items() if frame < self.key}
        self.left_out = set(early) if self.one_frame_per_packet else set()
        self.dropped = set() if self.one_frame_per_packet else set(early.values())
        self.frame_of, self.last, self.has_begun = {}, NO_FRAME, True
        self.context.skip_frame = "NONREF" if self.may_skip else "DEFAULT"
        self.add_group(frame_of, targets)

    def add_group(self, frame_of: dict[int, int], targets: Iterable[int]) -> None:
        """Continue with the next group, without draining the decoder."""
        self.fed = {frame for frame in self.fed if frame > self.last}  # those that were output are not needed again
        self.frame_of |= {number: frame for number, frame in frame_of.items() if number not in self.left_out}
        self.wanted |= set(targets)

    def last_needed(self, targets: Iterable[int]) -> int:
        """The number of the last packet that these frames need: of a frame, or of a second field after it."""
        targets = set(targets)
        last = max((number for number, frame in self.frame_of.items() if frame in targets), default=-1)
        return min((number for number in self.frame_of if number > last), default=last + 2) - 1

    def feed(self, packets: NumberedPackets, *, last: int | None = None) -> TimedFrames:
        """Decode packets up to number `last`, or all of them, and give the frames that are output."""
        for number, packet in packets:
            if number not in self.left_out:
                frame = self.frame_of.get(number, NO_FRAME)
                if frame != NO_FRAME:  # else it is a second field, part of the frame before it
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
        """The frames still in the decoder, which can begin at another keyframe afterwards."""
        if self.has_begun:
            yield from self._checked_output(self.context.decode(None))
            self.context.flush_buffers()
        if self.wanted:
            raise LayoutError(f"frames {sorted(self.wanted)} were not output")
        self.frame_of, self.fed, self.times, self.has_begun = {}, set(), {}, False

    def _checked_output(self, pictures: Iterable[VideoFrame]) -> TimedFrames:
        """The pictures that the decoder output, as frames; raises LayoutError where they are not those expected."""
        for picture in pictures:
            number = picture.pts
            if number in self.dropped:
                continue
            if number not in self.fed or picture.is_corrupt:
                raise LayoutError(f"frame {number} is unexpected or damaged")
            if number == self.key and not picture.key_frame:
                raise LayoutError(f"frame {number} is not a keyframe")
            if number <= self.last:
                raise LayoutError(f"frame {number} was output after frame {self.last}")
            self.last = number
            self.wanted.discard(number)
            yield number, picture, self.times.pop(number, float("nan"))


def _can_skip_nonref(stream: VideoStream) -> bool:
    """Whether non-reference frames can be skipped; HEVC with temporal layers marks them within a layer only."""
    decoder = stream.codec_context
    if decoder.name != "hevc":
        return decoder.name in NONREF_SKIPPING_CODECS
    header = decoder.extradata or b""
    return len(header) > 21 and header[0] == 1 and (header[21] >> 3 & 7) == 1  # ISO/IEC 14496-15: numTemporalLayers


class PacketReader:
    """The packets of one stream by number, read in order or seeked to."""

    def __init__(self, container: InputContainer, stream: VideoStream, layout: GopLayout) -> None:
        self.container = container
        self.stream = stream
        self.layout = layout
        self.position = 0  # number of the next packet
        self.held: dict[int, list[tuple[int, Packet]]] = {}  # packets of the group that was sorted last
        self.packets = self._demux()
        first = next(self.packets, None)
        if first is None:
            raise LayoutError("the stream has no packet")
        self.first = first
        # MP4 seeks by presentation time, but its index has decode times.
        has_lead = is_mp4(container) and first.pts is not None and first.dts is not None
        self.lead = (first.pts or 0) - (first.dts or 0) if has_lead else 0
        self.packets = chain([first], self.packets)

    def frames_of(self, group: int) -> dict[int, int]:
        """The frame of each packet of a group, by packet number; packets without a displayed frame are left out."""
        if self.layout.packets is not None:
            return self.layout.frames_of_group(group)
        held = self._buffer_group(group)
        try:
            packets = [packet for _, packet in held]
            order = sort_by_display_order([packet.pts for packet in packets], ranks_of_packets(self.stream, packets))
        except UnknownOrderError as error:
            raise LayoutError(str(error)) from None
        shown = [held[place][0] for place in order if not held[place][1].is_discard]
        first_frame, end_frame = self.layout.frames_before[group : group + 2].tolist()
        if len(shown) != end_frame - first_frame:
            raise LayoutError("packets of a group are missing")
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
            self._seek_group(group)
        while self.position < start:
            self._next()
        return self._until(end)

    def _until(self, end: int) -> NumberedPackets:
        while self.position < end:
            yield self.position, self._next()

    def _next(self) -> Packet:
        packet = next(self.packets, None)
        if packet is None:
            raise LayoutError(f"packet {self.position} is missing")
        self.position += 1
        return packet

    def _seek_group(self, group: int) -> None:
        """Seek to the group's first packet or one before it, or to the file's first packet where that fails."""
        wanted = int(self.layout.seek_times[group])
        for time in (wanted + self.lead, wanted):
            first = self._seek(time)
            time_of_first = None if first is None else seek_time(self.container, first)
            reached = np.flatnonzero(self.layout.seek_times == time_of_first).tolist()
            if len(reached) == 1 and reached[0] <= group:
                self.position = int(self.layout.starts[reached[0]])
                return
        first = self._seek(int(self.layout.seek_times[0]))
        if first is None or (first.pos, first.size) != (self.first.pos, self.first.size):
            raise LayoutError(f"cannot seek to the group at time {wanted}")
        self.position = 0

    def _seek(self, time: int) -> Packet | None:
        """Seek to a time in ticks; the first packet there, which is the next to be read."""
        self.container.seek(time, stream=self.stream)
        self.packets = self._demux()
        first = next(self.packets, None)
        self.packets = chain([] if first is None else [first], self.packets)
        return first

    def _demux(self) -> Iterator[Packet]:
        return read_packets(self.container, self.stream)
