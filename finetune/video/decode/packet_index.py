"""Find the groups of pictures of a file: by its container's index, by its packets, or by decoding all of it."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetune.video.decode.container import (
    MAX_TIME_SECONDS,
    PYAV_ERRORS,
    decode_packets,
    frame_rate,
    lacks_timestamps,
    read_packets,
)
from finetune.video.decode.display_order import (
    Rank,
    UnknownOrderError,
    display_order,
    display_order_reader,
    display_ranks,
)
from finetune.video.decode.gop import (
    GopLayout,
    layout_from_frame_packets,
    layout_from_index_entries,
    layout_without_groups,
    monotonic_times,
)
from finetune.video.decode.orientation import ClipOrientation

# In these, each packet is one frame, and frames are shown in the order of their packets' timestamps, as long as the
# headers of the packets agree with the timestamps.
ONE_FRAME_PER_PACKET_CODECS = {"h264", "hevc", "vp9", "av1", "libdav1d"}
# In these, in addition, no frame refers to another: they are output in the order in which they are stored.
INTRA_ONLY_CODECS = {"mjpeg", "png", "prores", "dnxhd", "rawvideo"}
# Its decoder splits packets first, and also drops the frame after those to discard.
DISCARDS_EXTRA_CODECS = {"vp9"}
UNKNOWN = -1
NO_TICK = -(2**63)  # stands for a missing timestamp
MAX_LEADING_PACKETS = 8  # packets after a keyframe in which leading frames, shown before it, are looked for
KEYFRAME, DISCARD = 1, 2  # flags of an index entry
NO_TIMESTAMPS = 0x80  # flag of a container: AVFMT_NOTIMESTAMPS
DIGEST_SIZE = 64  # side in pixels of the pictures by which frames are compared
FrameDigests = list[int]  # one for each frame


def layout_by_container_index(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    """The layout by the container's index, where that lists every frame: MP4 and MOV that are not fragmented."""
    with suppress(UnknownOrderError, *PYAV_ERRORS):
        return _by_index(container, stream)
    return None


def layout_by_demuxing(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    """The layout by demuxing all packets without decoding them; the container is back at its start afterwards."""
    with suppress(UnknownOrderError, *PYAV_ERRORS):
        return _by_packets(container, stream)
    return None


def has_same_index(stream: VideoStream, layout: GopLayout) -> bool:
    """Whether the container's index has the packets of a layout, each of them shown, and its keyframes at their times.

    The layout is one of frames with known packets. An index without the edits of an edit list may have others.
    """
    entries = stream.index_entries
    if layout.packets is None or not len(layout.packets) == layout.starts[-1] == len(entries):
        return False
    keys = zip(layout.starts[:-1].tolist(), layout.seek_times.tolist(), strict=True)
    return all(entries[start].timestamp == time and entries[start].is_keyframe for start, time in keys)


def _by_index(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    entries = stream.index_entries
    if len(entries) > container.size:  # a damaged header that claims millions of frames
        return None
    is_reliable = is_mp4(container) and (
        has_reliable_times(container, stream) or stream.codec_context.name in INTRA_ONLY_CODECS
    )
    if (
        not is_reliable
        or not stream.frames
        or len(entries) != stream.frames
        or not all(entry.size for entry in entries)
    ):
        return None
    flags = np.fromiter((entry.flags for entry in entries), np.int8, len(entries))
    if stream.codec_context.name in DISCARDS_EXTRA_CODECS and (flags & DISCARD).any():
        return None
    keys = [entries[int(number)] for number in np.flatnonzero(flags & KEYFRAME)]
    layout = layout_from_index_entries(
        flags & KEYFRAME > 0,
        flags & DISCARD > 0,
        key_positions=[key.pos for key in keys],
        key_times=[key.timestamp for key in keys],
    )
    return None if layout is None or _starts_mid_gop(container, stream) else layout


def _by_packets(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    is_raw = container.format.flags & NO_TIMESTAMPS  # its timestamps are guesses of the demuxer
    intra_only = stream.codec_context.name in INTRA_ONLY_CODECS and not is_raw
    if not intra_only and not has_reliable_times(container, stream):
        return None
    rank_of = display_order_reader(stream.codec_context.name, stream.codec_context.extradata or b"")
    ticks, ranks, discards = array("q"), array("q"), bytearray()  # of each packet, compact: there may be millions
    keys, seek_times = [], []
    for number, packet in enumerate(read_packets(container, stream)):
        key_time = seek_time(container, packet)
        if key_time is None:
            return None
        ticks.append(NO_TICK if packet.pts is None else packet.pts)
        ranks.extend(rank_of(memoryview(packet)))
        discards.append(packet.is_discard)
        if packet.is_keyframe or intra_only:
            keys.append(number)
            seek_times.append(key_time)
    if not keys or (stream.codec_context.name in DISCARDS_EXTRA_CODECS and any(discards)):
        return None
    container.seek(seek_times[0], stream=stream)
    ticks_N = np.frombuffer(ticks, np.int64)
    if not intra_only and (ticks_N == NO_TICK).any():
        return None
    order = (
        np.arange(len(ticks_N)) if intra_only else display_order(ticks_N, np.frombuffer(ranks, np.int64).reshape(-1, 2))
    )
    shown = order[~np.frombuffer(discards, bool)[order]]
    if len(shown) and shown[0] > 0 and not discards[0]:  # the file starts in the middle of a group of pictures
        return None
    seconds = times_in_seconds(container, stream, np.where(ticks_N == NO_TICK, np.nan, ticks_N)[shown])
    return layout_from_frame_packets(shown, keys, seek_times, num_packets=len(ticks_N), times=seconds)


def ranks_of_packets(stream: VideoStream, packets: Sequence[Packet]) -> list[Rank]:
    """The display rank of each packet of a stream, for packets from a keyframe on, see `display_ranks`."""
    context = stream.codec_context
    return display_ranks(context.name, context.extradata or b"", map(memoryview, packets))


def layout_by_decoding(path: Path, container: InputContainer, stream: VideoStream) -> tuple[GopLayout, FrameDigests]:
    """The layout by decoding everything, not verified yet, and a digest of each frame.

    Raises VideoError where decoding fails.
    """
    frame_packets: list[int] = []
    keys: list[int] = []
    digests: FrameDigests = []
    packets = _NumberedPackets(container, stream)
    digest, orientation = FrameDigest(), ClipOrientation(path)
    for frame in decode_packets(path, stream, packets):
        orientation.of(frame)
        frame_packets.append(UNKNOWN if frame.pts is None else frame.pts)
        if frame.key_frame:
            keys.append(frame_packets[-1])
        digests.append(digest(frame))
    known = min(frame_packets, default=UNKNOWN) > UNKNOWN
    ticks = [packets.times[number] if known else None for number in frame_packets]
    seconds = times_in_seconds(container, stream, ticks)
    keys = sorted(set(keys))
    layout = layout_from_frame_packets(
        frame_packets,
        keys,
        [packets.seek_times[key] for key in keys],
        num_packets=len(packets.times),
        one_frame_per_packet=packets.one_frame_per_packet,
        times=seconds,
    )
    return layout or layout_without_groups(seconds), digests


class _NumberedPackets:
    """The packets of a stream, each with its number as its timestamp, which the decoder passes on to its frame."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container, self.stream = container, stream
        self.times: list[int | None] = []
        self.seek_times: list[int | None] = []
        self.one_frame_per_packet = True

    def __iter__(self) -> Iterator[Packet]:
        for number, packet in enumerate(read_packets(self.container, self.stream)):
            self.one_frame_per_packet = self.one_frame_per_packet and not _is_packed_bitstream(self.stream, packet)
            self.times.append(packet.pts)
            self.seek_times.append(seek_time(self.container, packet))
            packet.pts = number
            yield packet


class FrameDigest:
    """A checksum of a small grey copy of a frame, to compare frames by."""

    def __init__(self) -> None:
        self.scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> int:
        flags = Interpolation.FAST_BILINEAR
        small = self.scaler.reformat(frame, DIGEST_SIZE, DIGEST_SIZE, format="gray", interpolation=flags, threads=1)
        return crc32(small.planes[0])


def times_in_seconds(
    container: InputContainer, stream: VideoStream, ticks: Sequence[int | None] | np.ndarray
) -> np.ndarray:
    """Presentation times of frames, float64 (N,) in seconds, from the timestamps of their packets in display order.

    A timestamp that is missing is None or NaN.
    """
    rate = frame_rate(stream)
    ticks_N = np.array(ticks, dtype=np.float64)
    if lacks_timestamps(container):
        ticks_N[:] = np.nan
    base = float(stream.time_base or 0)
    known = ticks_N[np.isfinite(ticks_N)]
    start = known[0] if len(known) and abs(known[0] * base) > MAX_TIME_SECONDS else 0
    seconds = (ticks_N - start) * base
    seconds[np.abs(seconds) > MAX_TIME_SECONDS] = np.nan
    return monotonic_times(seconds, rate)


def has_reliable_times(container: InputContainer, stream: VideoStream) -> bool:
    """Whether each packet is one frame with its own presentation timestamp, unless its header says otherwise."""
    return stream.codec_context.name in ONE_FRAME_PER_PACKET_CODECS and (is_mp4(container) or is_matroska(container))


def _starts_mid_gop(container: InputContainer, stream: VideoStream) -> bool:
    """Whether leading frames, which refer to a part that was cut off, follow the first keyframe: decoders drop them."""
    packets = list(islice(read_packets(container, stream), MAX_LEADING_PACKETS))
    container.seek(stream.start_time or 0, stream=stream)
    ranks = ranks_of_packets(stream, packets)
    return any(rank < ranks[0] and not packet.is_discard for rank, packet in zip(ranks, packets, strict=True))


def _is_packed_bitstream(stream: VideoStream, packet: Packet) -> bool:
    """Whether a packet holds two pictures, as DivX writes them, or none, as its picture is in the packet before."""
    return stream.codec_context.name == "mpeg4" and bytes(packet).count(b"\0\0\1\xb6") != 1


def seek_time(container: InputContainer, packet: Packet) -> int | None:
    """The time that identifies a keyframe's packet after a seek: its pts in Matroska, else its dts."""
    return packet.pts if is_matroska(container) else packet.dts


def is_mp4(container: InputContainer) -> bool:
    return "mp4" in container.format.name


def is_matroska(container: InputContainer) -> bool:
    return "matroska" in container.format.name
