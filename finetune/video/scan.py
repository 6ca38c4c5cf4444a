"""How a file is laid out: by its container's index, by its packets, or by decoding all of it."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.errors import VideoError
from finetune.video.container import PYAV_ERRORS, reason_of
from finetune.video.layout import Layout, layout_by_index, layout_by_packets
from finetune.video.orientation import ClipOrientation

# In these every packet is one frame that comes out, and frames are shown in the order of their packets' times.
PACKETS_ARE_FRAMES = {"h264", "hevc", "vp9", "av1", "libdav1d"}
# In these, besides, no frame refers to another: they come out as they are stored.
EACH_ALONE = {"mjpeg", "png", "prores", "dnxhd", "ffv1", "rawvideo"}
UNKNOWN = -1
MOST_LEADING = 8  # packets that may follow a keyframe and be shown before it; they come at once
KEYFRAME, DISCARD = 1, 2  # flags of an index entry


def by_index(container: InputContainer, stream: VideoStream) -> Layout | None:
    """By the container's own index, where it lists every frame: MP4 and MOV that are not in fragments."""
    with suppress(*PYAV_ERRORS):
        return _by_index(container, stream)
    return None


def by_packets(container: InputContainer, stream: VideoStream) -> Layout | None:
    """By going through all packets without decoding them; the container is left at its start again."""
    with suppress(*PYAV_ERRORS):
        return _by_packets(container, stream)
    return None


def _by_index(container: InputContainer, stream: VideoStream) -> Layout | None:
    entries = stream.index_entries
    if len(entries) > container.size:  # a header that was damaged, and claims millions
        return None
    known = is_mp4(container) and (has_true_times(container, stream) or stream.codec_context.name in EACH_ALONE)
    if not known or not stream.frames or len(entries) != stream.frames:
        return None
    if _begins_in_the_middle(container, stream):
        return None
    flags = np.fromiter((entry.flags for entry in entries), np.int8, len(entries))
    keys = [entries[int(number)] for number in np.flatnonzero(flags & KEYFRAME)]
    return layout_by_index(
        flags & KEYFRAME > 0,
        flags & DISCARD > 0,
        key_positions=[key.pos for key in keys],
        key_times=[key.timestamp for key in keys],
    )


def _by_packets(container: InputContainer, stream: VideoStream) -> Layout | None:
    alone = stream.codec_context.name in EACH_ALONE
    if not alone and not has_true_times(container, stream):
        return None
    times, keys, seek_times, discards = [], [], [], []
    for number, packet in enumerate(packets_of(container, stream)):
        time, key_time = number if alone else packet.pts, seek_time(container, packet)
        if time is None or key_time is None:
            return None
        times.append(time)
        discards.append(packet.is_discard)
        if packet.is_keyframe or alone:
            keys.append(number)
            seek_times.append(key_time)
    if not keys or len(set(times)) < len(times):
        return None
    container.seek(seek_times[0], stream=stream)
    shown = [number for number in np.argsort(times) if not discards[number]]
    if shown and shown[0] > 0 and not discards[0]:  # begins in the middle
        return None
    return layout_by_packets(shown, keys, seek_times, num_packets=len(times))


def by_decoding(path: Path, container: InputContainer, stream: VideoStream) -> tuple[int, Layout | None]:
    """The number of frames, and the layout, by decoding everything. Raises VideoError where that stops."""
    came_from: list[int] = []
    keys: list[int] = []
    times: list[int | None] = []
    number, one_each = -1, True
    orientation = ClipOrientation(path)
    try:
        for number, packet in enumerate(packets_of(container, stream)):
            one_each = one_each and not _is_packed(stream, packet)
            times.append(seek_time(container, packet))
            packet.pts = number
            frames = stream.codec_context.decode(packet)
            for frame in frames:
                orientation.of(frame)
            came_from += [_packet_of(frame) for frame in frames]
            keys += [_packet_of(frame) for frame in frames if frame.key_frame]
        frames = stream.codec_context.decode(None) if number >= 0 else []
    except PYAV_ERRORS as error:
        raise VideoError(f"{path}: cannot be decoded after frame {len(came_from)}: {reason_of(error)}") from None
    came_from += [_packet_of(frame) for frame in frames]
    keys = sorted(keys + [_packet_of(frame) for frame in frames if frame.key_frame])
    seek_times = [times[key] for key in keys]
    layout = layout_by_packets(came_from, keys, seek_times, num_packets=number + 1, one_each=one_each)
    return len(came_from), layout


def _packet_of(frame: VideoFrame) -> int:
    return UNKNOWN if frame.pts is None else frame.pts


def has_true_times(container: InputContainer, stream: VideoStream) -> bool:
    """Whether each packet is one frame and has the time at which that is shown."""
    return stream.codec_context.name in PACKETS_ARE_FRAMES and (is_mp4(container) or is_matroska(container))


def _begins_in_the_middle(container: InputContainer, stream: VideoStream) -> bool:
    """Whether frames that refer to a part that was cut off follow the first keyframe: no decoder hands them out."""
    packets = list(islice(packets_of(container, stream), MOST_LEADING))
    container.seek(stream.start_time or 0, stream=stream)
    first = packets[0].pts if packets else None
    return first is not None and any(p.pts is not None and p.pts < first and not p.is_discard for p in packets)


def _is_packed(stream: VideoStream, packet: Packet) -> bool:
    """DivX puts a picture into the packet before its own, which is left with a placeholder."""
    return stream.codec_context.name == "mpeg4" and bytes(packet).count(b"\0\0\1\xb6") != 1


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets that hold something, from where the container is, in the order in which they are stored."""
    return (packet for packet in container.demux(stream) if packet.size)


def seek_time(container: InputContainer, packet: Packet) -> int | None:
    """The time by which a keyframe's packet is known again after a jump: when it is shown, or by MP4 decoded."""
    return packet.pts if is_matroska(container) else packet.dts


def is_mp4(container: InputContainer) -> bool:
    return "mp4" in container.format.name


def is_matroska(container: InputContainer) -> bool:
    return "matroska" in container.format.name
