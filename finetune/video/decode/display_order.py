"""The order in which the pictures of H.264, HEVC, VP9 and AV1 packets are shown, read from their headers alone.

Containers say the same with timestamps, and some say it wrong. H.264 and HEVC count their pictures; of VP9 and AV1
each packet has to show one. Sources: the VP9 bitstream specification (annex B, 6.2), the AV1 specification (5.3, 5.9).
"""

from collections.abc import Callable, Iterator

from finetune.video.decode.picture_order_count import H264OrderReader, HevcOrderReader, Rank, UnknownOrderError


def display_order_reader(codec: str, header: bytes) -> Callable[[memoryview], Rank]:
    """What gives the rank of each packet's picture, for packets one after the other from a keyframe on.

    `header` is what the container stores once for all packets: avcC and hvcC for H.264 and HEVC. Decoders of other
    codecs hand pictures out as they are stored. Raises OrderUnknown.
    """
    try:
        rank_of = READERS.get(codec, _StoredOrderReader)(header)
    except (IndexError, KeyError, ValueError) as error:
        raise UnknownOrderError(f"header: {error}") from None

    def checked(packet: memoryview) -> Rank:
        try:
            return rank_of(packet)
        except (IndexError, KeyError, ValueError) as error:
            raise UnknownOrderError(f"packet: {error}") from None

    return checked


class _StoredOrderReader:
    def __init__(self, _: bytes) -> None:
        self.count = 0

    def __call__(self, packet: memoryview) -> Rank:
        if self.shown(packet) != 1:
            raise UnknownOrderError("a packet that is not one picture")
        self.count += 1
        return 0, self.count

    def shown(self, packet: memoryview) -> int:
        """How many pictures of the packet are shown."""
        return 1


class _Vp9OrderReader(_StoredOrderReader):
    def shown(self, packet: memoryview) -> int:
        return sum(_is_shown_by_vp9(frame[0]) for frame in _vp9_frames(packet) if len(frame))


def _vp9_frames(packet: memoryview) -> list[memoryview]:
    """The frames of a packet, which may be several behind one another, with their sizes at the end."""
    mark = packet[-1]
    count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = 2 + count * width
    if mark >> 5 != 0b110 or len(packet) < index or packet[-index] != mark:
        return [packet]
    frames, start = [], 0
    for at in range(len(packet) - index + 1, len(packet) - 1, width):
        size = int.from_bytes(packet[at : at + width], "little")
        frames.append(packet[start : start + size])
        start += size
    return frames


def _is_shown_by_vp9(first: int) -> bool:
    """By a frame's first byte: marker 2 bits, profile 2 (and one more for profile 3), then two flags on showing."""
    reserved = (first >> 4 & 3) == 3
    shows_existing = first >> (2 if reserved else 3) & 1
    return bool(shows_existing or first >> (0 if reserved else 1) & 1)


class _Av1OrderReader(_StoredOrderReader):
    """Frames and frame headers in OBUs; a header that is repeated is not counted, as it is of another type."""

    def __init__(self, header: bytes) -> None:
        super().__init__(header)
        self.reduced = False

    def shown(self, packet: memoryview) -> int:
        shown = 0
        for kind, body in _obus(packet):
            if kind == 1:  # sequence header: profile 3 bits, still_picture 1, reduced_still_picture_header 1
                self.reduced = bool(body[0] >> 3 & 1)
            elif kind in {3, 6}:  # show_existing_frame 1 bit, frame_type 2, show_frame 1
                shown += self.reduced or body[0] >> 7 == 1 or body[0] >> 4 & 1 == 1
        return shown


def _obus(packet: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(packet):
        head = packet[at]
        at += 2 if head & 4 else 1
        size, shift = len(packet) - at, 0
        if head & 2:
            size = 0
            while True:
                byte = packet[at]
                size |= (byte & 127) << shift
                at, shift = at + 1, shift + 7
                if byte < 128:
                    break
        if size:
            yield head >> 3 & 15, packet[at : at + size]
        at += size


READERS: dict[str, Callable[[bytes], Callable[[memoryview], Rank]]] = {
    "h264": H264OrderReader,
    "hevc": HevcOrderReader,
    "vp9": _Vp9OrderReader,
    "av1": _Av1OrderReader,
    "libdav1d": _Av1OrderReader,
}
