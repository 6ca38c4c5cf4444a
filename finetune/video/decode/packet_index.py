"""How a file is laid out: by its container's index, by its packets, or by decoding all of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from finetune.video.decode.container import PYAV_ERRORS, decode_packets, frame_rate, lacks_timestamps, read_packets
from finetune.video.decode.display_order import display_order_reader
from finetune.video.decode.gop import (
    GopLayout,
    layout_from_frame_packets,
    layout_from_index_entries,
    layout_without_groups,
    monotonic_times,
)
from finetune.video.decode.orientation import ClipOrientation
from finetune.video.decode.picture_order_count import Rank, UnknownOrderError

# In these every packet is one frame that comes out, and frames are shown in the order of their packets' times:
# wherever headers and times say so of each packet that is looked at.
ONE_FRAME_PER_PACKET_CODECS = {"h264", "hevc", "vp9", "av1", "libdav1d"}
# In these, besides, no frame refers to another: they come out as they are stored.
INTRA_ONLY_CODECS = {"mjpeg", "png", "prores", "dnxhd", "rawvideo"}
# Its decoder splits packets first, and leaves out the frame behind those to discard as well.
DISCARDS_EXTRA_CODECS = {"vp9"}
UNKNOWN = -1
MAX_LEADING_PACKETS = 8  # packets that may follow a keyframe and be shown before it; they come at once
KEYFRAME, DISCARD = 1, 2  # flags of an index entry
NO_TIMESTAMPS = 0x80  # flag of a container: AVFMT_NOTIMESTAMPS
MAX_TIME_SECONDS = 1e9  # seconds; a time that is later was not set by anybody
DIGEST_SIZE = 64  # pixels a side of the pictures by which frames are compared
FrameDigests = list[int]  # one a frame


def layout_by_container_index(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    """By the container's own index, where it lists every frame: MP4 and MOV that are not in fragments."""
    with suppress(UnknownOrderError, *PYAV_ERRORS):
        return _by_index(container, stream)
    return None


def layout_by_demuxing(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    """By going through all packets without decoding them; the container is left at its start again."""
    with suppress(UnknownOrderError, *PYAV_ERRORS):
        return _by_packets(container, stream)
    return None


def _by_index(container: InputContainer, stream: VideoStream) -> GopLayout | None:
    entries = stream.index_entries
    if len(entries) > container.size:  # a header that was damaged, and claims millions
        return None
    known = is_mp4(container) and (
        has_reliable_times(container, stream) or stream.codec_context.name in INTRA_ONLY_CODECS
    )
    if not known or not stream.frames or len(entries) != stream.frames or not all(entry.size for entry in entries):
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
    is_raw = container.format.flags & NO_TIMESTAMPS  # times come from looking into the stream
    alone = stream.codec_context.name in INTRA_ONLY_CODECS and not is_raw
    if not alone and not has_reliable_times(container, stream):
        return None
    rank_of = stream_order_reader(stream)
    times, ranks, keys, seek_times, discards = [], [], [], [], []
    for number, packet in enumerate(read_packets(container, stream)):
        key_time = seek_time(container, packet)
        if key_time is None:
            return None
        times.append(packet.pts)
        ranks.append(rank_of(memoryview(packet)))
        discards.append(packet.is_discard)
        if packet.is_keyframe or alone:
            keys.append(number)
            seek_times.append(key_time)
    if not keys or (stream.codec_context.name in DISCARDS_EXTRA_CODECS and any(discards)):
        return None
    container.seek(seek_times[0], stream=stream)
    order = range(len(times)) if alone else sort_by_display_order(times, ranks)
    shown = [number for number in order if not discards[number]]
    if shown and shown[0] > 0 and not discards[0]:  # begins in the middle
        return None
    seconds = times_in_seconds(container, stream, [times[number] for number in shown])
    return layout_from_frame_packets(shown, keys, seek_times, num_packets=len(times), times=seconds)


def stream_order_reader(stream: VideoStream) -> Callable[[memoryview], Rank]:
    """What gives the rank of each of a stream's packets in the order in which they are shown; see
    `display_order_reader`.
    """
    return display_order_reader(stream.codec_context.name, stream.codec_context.extradata or b"")


def sort_by_display_order(times: Sequence[int | None], ranks: Sequence[Rank]) -> list[int]:
    """The places of packets in the order in which they are shown.

    Raises OrderUnknown where their times are missing, repeat, or say something else than their headers.
    """
    if None in times or len(set(times)) < len(times):
        raise UnknownOrderError("times are missing or repeat")
    order = np.argsort(np.asarray(times, dtype=np.int64)).tolist()
    if any(ranks[after] <= ranks[before] for before, after in pairwise(order)):
        raise UnknownOrderError("times are in another order than the pictures")
    return order


def layout_by_decoding(path: Path, container: InputContainer, stream: VideoStream) -> tuple[GopLayout, FrameDigests]:
    """The layout by decoding everything, not tried yet, and a digest of each frame.

    Raises VideoError where decoding stops.
    """
    came_from: list[int] = []
    keys: list[int] = []
    digests: FrameDigests = []
    packets = _NumberedPackets(container, stream)
    digest, orientation = FrameDigest(), ClipOrientation(path)
    for frame in decode_packets(path, stream, packets):
        orientation.of(frame)
        came_from.append(UNKNOWN if frame.pts is None else frame.pts)
        if frame.key_frame:
            keys.append(came_from[-1])
        digests.append(digest(frame))
    known = min(came_from, default=UNKNOWN) > UNKNOWN
    ticks = [packets.times[number] if known else None for number in came_from]
    seconds = times_in_seconds(container, stream, ticks)
    keys = sorted(set(keys))
    layout = layout_from_frame_packets(
        came_from,
        keys,
        [packets.seek_times[key] for key in keys],
        num_packets=len(packets.times),
        one_frame_per_packet=packets.one_frame_per_packet,
        times=seconds,
    )
    return layout or layout_without_groups(seconds), digests


class _NumberedPackets:
    """The packets of a stream, each with its number as its time, which goes on to the frame that comes out of it."""

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
    """What tells frames apart: a small grey picture."""

    def __init__(self) -> None:
        self.scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> int:
        flags = Interpolation.FAST_BILINEAR
        small = self.scaler.reformat(frame, DIGEST_SIZE, DIGEST_SIZE, format="gray", interpolation=flags, threads=1)
        return crc32(small.planes[0])


def times_in_seconds(container: InputContainer, stream: VideoStream, ticks: Sequence[int | None]) -> np.ndarray:
    """When each frame is shown, in seconds, from the times of their packets in the order of the frames."""
    rate = frame_rate(stream)
    if lacks_timestamps(container):
        ticks = [None] * len(ticks)
    base = float(stream.time_base or 0)
    known = [tick for tick in ticks if tick is not None]
    start = known[0] if known and abs(known[0] * base) > MAX_TIME_SECONDS else 0
    seconds = np.array([np.nan if tick is None else (tick - start) * base for tick in ticks], dtype=np.float64)
    seconds[np.abs(seconds) > MAX_TIME_SECONDS] = np.nan
    return monotonic_times(seconds, rate)


def has_reliable_times(container: InputContainer, stream: VideoStream) -> bool:
    """Whether each packet is one frame and has the time at which that is shown, unless its header says otherwise."""
    return stream.codec_context.name in ONE_FRAME_PER_PACKET_CODECS and (is_mp4(container) or is_matroska(container))


def _starts_mid_gop(container: InputContainer, stream: VideoStream) -> bool:
    """Whether frames that refer to a part that was cut off follow the first keyframe: no decoder hands them out."""
    packets = list(islice(read_packets(container, stream), MAX_LEADING_PACKETS))
    container.seek(stream.start_time or 0, stream=stream)
    rank_of = stream_order_reader(stream)
    ranks = [rank_of(memoryview(packet)) for packet in packets]
    return any(rank < ranks[0] and not packet.is_discard for rank, packet in zip(ranks, packets, strict=True))


def _is_packed_bitstream(stream: VideoStream, packet: Packet) -> bool:
    """DivX puts a picture into the packet before its own, which is left with a placeholder."""
    return stream.codec_context.name == "mpeg4" and bytes(packet).count(b"\0\0\1\xb6") != 1


def seek_time(container: InputContainer, packet: Packet) -> int | None:
    """The time by which a keyframe's packet is known again after a jump: when it is shown, or by MP4 decoded."""
    return packet.pts if is_matroska(container) else packet.dts


def is_mp4(container: InputContainer) -> bool:
    return "mp4" in container.format.name


def is_matroska(container: InputContainer) -> bool:
    return "matroska" in container.format.name
