"""The order in which the pictures of H.264, HEVC, VP9 and AV1 packets are shown, read from their headers alone.

Containers say the same with timestamps, and some say it wrong. H.264 and HEVC have picture order counts; a packet of
VP9 or AV1 has to show exactly one picture. Sources: ITU-T H.264 (7.3, 8.2.1) and H.265 (7.3, 8.3.1), ISO/IEC 14496-15
(how MP4 and Matroska store both), the VP9 bitstream specification (annex B, 6.2), the AV1 specification (5.3, 5.9).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

HEADER_BYTES = 48  # of a slice: more than its fields that are read here can take
Rank = tuple[int, int]  # pictures are shown in rising order of rank; the first number rises wherever decoding restarts


class UnknownOrderError(Exception):
    """The headers use a feature that is not supported here, or a packet is not exactly one displayed picture."""


def display_order_reader(codec: str, header: bytes) -> Callable[[memoryview], Rank]:
    """A function that gives the rank of each packet's picture, for packets in decode order from a keyframe on.

    `header` is the stream's extradata: avcC for H.264, hvcC for HEVC. Decoders of codecs that are not in READERS output
    pictures in the order in which they are stored. Both functions raise UnknownOrderError.
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


def display_ranks(codec: str, header: bytes, packets: Iterable[memoryview]) -> list[Rank]:
    """The rank of each packet's picture, for packets in decode order from a keyframe on; see `display_order_reader`."""
    return list(map(display_order_reader(codec, header), packets))


def sort_by_display_order(times: Sequence[int | None], ranks: Sequence[Rank]) -> list[int]:
    """The positions of packets in display order.

    Raises UnknownOrderError where timestamps are missing, repeat, or contradict the ranks from the headers.
    """
    if None in times:
        raise UnknownOrderError("timestamps are missing")
    ranks_N2 = np.asarray(ranks, dtype=np.int64).reshape(-1, 2)
    return display_order(np.asarray(times, dtype=np.int64), ranks_N2).tolist()


def display_order(times_N: np.ndarray, ranks_N2: np.ndarray) -> np.ndarray:
    """The same for all N packets of a file as arrays: integer times (N,) and ranks (N, 2), to positions (N,)."""
    order = np.argsort(times_N)
    if (np.diff(times_N[order]) == 0).any():
        raise UnknownOrderError("timestamps repeat")
    series, number = np.diff(ranks_N2[order], axis=0).T
    if not ((series > 0) | ((series == 0) & (number > 0))).all():
        raise UnknownOrderError("timestamps contradict the picture order of the headers")
    return order


class _StoredOrderReader:
    def __init__(self, _: bytes) -> None:
        self.count = 0

    def __call__(self, packet: memoryview) -> Rank:
        if self.shown(packet) != 1:
            raise UnknownOrderError("a packet that does not show exactly one picture")
        self.count += 1
        return 0, self.count

    def shown(self, packet: memoryview) -> int:
        """How many pictures of the packet are displayed."""
        return 1


class _Vp9OrderReader(_StoredOrderReader):
    def shown(self, packet: memoryview) -> int:
        return sum(_is_shown_by_vp9(frame[0]) for frame in _vp9_frames(packet) if len(frame))


def _vp9_frames(packet: memoryview) -> list[memoryview]:
    """The frames of a packet: one, or several with their sizes at the end (a superframe)."""
    marker = packet[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index_bytes = 2 + count * width
    if marker >> 5 != 0b110 or len(packet) < index_bytes or packet[-index_bytes] != marker:
        return [packet]
    frames, start = [], 0
    for at in range(len(packet) - index_bytes + 1, len(packet) - 1, width):
        size = int.from_bytes(packet[at : at + width], "little")
        frames.append(packet[start : start + size])
        start += size
    return frames


def _is_shown_by_vp9(first: int) -> bool:
    """By a frame's first byte: marker 2 bits, profile 2 (one more for profile 3), show_existing_frame, show_frame."""
    reserved = (first >> 4 & 3) == 3
    shows_existing = first >> (2 if reserved else 3) & 1
    return bool(shows_existing or first >> (0 if reserved else 1) & 1)


class _Av1OrderReader(_StoredOrderReader):
    """Counts the frame OBUs and frame header OBUs; a redundant frame header has another type and is not counted."""

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


class _BitReader:
    """Reads bits from the left."""

    def __init__(self, unit: bytes) -> None:
        unit = unit.replace(b"\0\0\3", b"\0\0")  # emulation prevention bytes
        self.value = int.from_bytes(unit, "big")
        self.left = 8 * len(unit)

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ValueError("the header ends too early")
        return self.value >> self.left & (1 << count) - 1

    def exp_golomb(self) -> int:
        """An unsigned Exp-Golomb code: n zero bits, then a number of n + 1 bits, less 1."""
        rest = self.value & (1 << self.left) - 1
        zeros = self.left - rest.bit_length()
        self.take(zeros)
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        """A signed Exp-Golomb code."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)


class _PocCounter:
    """Full picture order counts from their low bits, which slices store (H.264 8.2.1.1, H.265 8.3.1)."""

    def __init__(self) -> None:
        self.period, self.count, self.is_first = 0, 0, True

    def begin(self) -> None:
        self.period, self.count, self.is_first = self.period + 1, 0, False

    def rank(self, low: int, bits: int, *, is_reference: bool) -> Rank:
        if self.is_first:
            self.count, self.is_first = low, False
        size = 1 << bits
        count = self.count - self.count % size + low
        if count <= self.count - size // 2:
            count += size
        elif count > self.count + size // 2:
            count -= size
        if is_reference:
            self.count = count
        return self.period, count


def _nal_units(packet: memoryview, width: int) -> Iterator[memoryview]:
    """NAL units, each stored after its length of `width` bytes."""
    at = 0
    while at + width < len(packet):
        size = int.from_bytes(packet[at : at + width], "big")
        if size == 0 or at + width + size > len(packet):
            raise ValueError("a NAL unit that is longer than its packet")
        yield packet[at + width : at + width + size]
        at += width + size


class H264OrderReader:
    def __init__(self, header: bytes) -> None:
        if len(header) < 7 or header[0] != 1:
            raise UnknownOrderError("no avcC header")
        self.width = (header[4] & 3) + 1
        self.sequences: dict[int, _SequenceParameterSet] = {}
        self.sequence_of: dict[int, int] = {}  # by picture parameter set
        self.counter, self.stored = _PocCounter(), 0
        at = 6
        for count in (header[5] & 31, None):
            count, at = (header[at], at + 1) if count is None else (count, at)
            for _ in range(count):
                size = int.from_bytes(header[at : at + 2], "big")
                self._learn(memoryview(header)[at + 2 : at + 2 + size])
                at += 2 + size

    def __call__(self, packet: memoryview) -> Rank:
        self.stored += 1
        ranks, fields = [], []
        for unit in _nal_units(packet, self.width):
            kind = unit[0] & 31
            if kind in {7, 8}:
                self._learn(unit)
            elif kind in {1, 5} and unit[1] & 128:  # the first slice of a picture
                rank, field = self._slice(unit, kind == 5)
                ranks.append(rank)
                fields.append(field)
        if fields not in ([None], [0, 1], [1, 0]):  # a frame, or both fields of one
            raise UnknownOrderError("a packet that is not exactly one picture")
        return min(ranks)

    def _learn(self, unit: memoryview) -> None:
        if unit[0] & 31 == 7:
            sequence = _SequenceParameterSet(bytes(unit[1:]))
            self.sequences[sequence.number] = sequence
        elif unit[0] & 31 == 8:
            bits = _BitReader(bytes(unit[1:HEADER_BYTES]))
            self.sequence_of[bits.exp_golomb()] = bits.exp_golomb()

    def _slice(self, unit: memoryview, is_idr: bool) -> tuple[Rank, int | None]:
        """The rank, and which field it is, 0 or 1, or None for a frame."""
        bits = _BitReader(bytes(unit[1:HEADER_BYTES]))
        bits.exp_golomb(), bits.exp_golomb()
        sequence = self.sequences[self.sequence_of[bits.exp_golomb()]]
        bits.take(sequence.frame_num_bits)
        field = bits.take(1) if sequence.has_fields and bits.take(1) else None
        if is_idr:
            bits.exp_golomb()
            self.counter.begin()
        if sequence.order_type == 2:
            return (self.counter.period, self.stored), field
        is_reference = bool(unit[0] & 96)
        return self.counter.rank(bits.take(sequence.order_bits), sequence.order_bits, is_reference=is_reference), field


class _SequenceParameterSet:
    """The fields of a sequence parameter set that say where slices store their picture order count."""

    def __init__(self, unit: bytes) -> None:
        profile, bits = unit[0], _BitReader(unit[3:])
        self.number = bits.exp_golomb()
        if profile in {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}:
            chroma = bits.exp_golomb()
            if chroma == 3 and bits.take(1):
                raise UnknownOrderError("separately coded colour planes")
            bits.exp_golomb(), bits.exp_golomb(), bits.take(1)
            if bits.take(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.take(1):
                        _skip_scaling_list(bits, 16 if number < 6 else 64)
        self.frame_num_bits = bits.exp_golomb() + 4
        self.order_type = bits.exp_golomb()
        if self.order_type == 1:
            raise UnknownOrderError("picture order counts of type 1")
        self.order_bits = bits.exp_golomb() + 4 if self.order_type == 0 else 0
        bits.exp_golomb(), bits.take(1), bits.exp_golomb(), bits.exp_golomb()
        self.has_fields = bits.take(1) == 0


def _skip_scaling_list(bits: _BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class HevcOrderReader:
    def __init__(self, header: bytes) -> None:
        if len(header) < 23 or header[0] != 1:
            raise UnknownOrderError("no hvcC header")
        self.width = (header[21] & 3) + 1
        self.sequences: dict[int, tuple[int, bool]] = {}  # bits of the count, separate_colour_plane_flag
        self.pictures: dict[int, tuple[int, bool, int]] = {}  # sequence, has pic_output_flag, extra bits
        self.counter, self.has_ended = _PocCounter(), True
        at = 23
        for _ in range(header[22]):
            count, at = int.from_bytes(header[at + 1 : at + 3], "big"), at + 3
            for _ in range(count):
                size = int.from_bytes(header[at : at + 2], "big")
                self._learn(memoryview(header)[at + 2 : at + 2 + size])
                at += 2 + size

    def __call__(self, packet: memoryview) -> Rank:
        ranks = []
        for unit in _nal_units(packet, self.width):
            kind, layer = unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3
            if layer:
                continue
            if kind in {33, 34}:
                self._learn(unit)
            elif kind in {36, 37}:
                self.has_ended = True
            elif kind < 32 and unit[2] & 128:  # the first slice of a picture
                ranks.append(self._slice(unit, kind))
        if len(ranks) != 1:
            raise UnknownOrderError("a packet that is not exactly one picture")
        return ranks[0]

    def _learn(self, unit: memoryview) -> None:
        kind = unit[0] >> 1 & 63
        if kind == 33:
            self._learn_sequence(bytes(unit[2:]))
        elif kind == 34:
            bits = _BitReader(bytes(unit[2:HEADER_BYTES]))
            number, sequence = bits.exp_golomb(), bits.exp_golomb()
            bits.take(1)
            self.pictures[number] = sequence, bool(bits.take(1)), bits.take(3)

    def _learn_sequence(self, unit: bytes) -> None:
        bits = _BitReader(unit)
        bits.take(4)
        layers = bits.take(3)
        bits.take(1 + 96)  # general profile and level
        present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
        bits.take(2 * (8 - layers) if layers else 0)
        for profile, level in present:
            bits.take(88 * profile + 8 * level)
        number = bits.exp_golomb()
        separate_planes = bits.exp_golomb() == 3 and bool(bits.take(1))
        bits.exp_golomb(), bits.exp_golomb()
        if bits.take(1):
            bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()
        bits.exp_golomb(), bits.exp_golomb()
        self.sequences[number] = bits.exp_golomb() + 4, separate_planes

    def _slice(self, unit: memoryview, kind: int) -> Rank:
        is_random_access, is_idr, is_broken_link = 16 <= kind <= 23, kind in {19, 20}, 16 <= kind <= 18
        bits = _BitReader(bytes(unit[2:HEADER_BYTES]))
        bits.take(1 + is_random_access)
        sequence, has_output_flag, extra = self.pictures[bits.exp_golomb()]
        order_bits, separate_planes = self.sequences[sequence]
        bits.take(extra)
        bits.exp_golomb()
        if has_output_flag and not bits.take(1):
            raise UnknownOrderError("a picture that is not displayed")
        bits.take(2 * separate_planes)
        low = 0 if is_idr else bits.take(order_bits)
        if is_idr or is_broken_link or (is_random_access and self.has_ended):
            self.counter.begin()
            self.counter.count = low
        self.has_ended = False
        # In the lowest temporal layer, and neither a leading picture (types 6 to 9) nor a sub-layer non-reference
        # picture (even types up to 14).
        is_reference = unit[1] & 7 == 1 and not 6 <= kind <= 9 and not (kind <= 14 and kind % 2 == 0)
        return self.counter.rank(low, order_bits, is_reference=is_reference)


READERS: dict[str, Callable[[bytes], Callable[[memoryview], Rank]]] = {
    "h264": H264OrderReader,
    "hevc": HevcOrderReader,
    "vp9": _Vp9OrderReader,
    "av1": _Av1OrderReader,
    "libdav1d": _Av1OrderReader,
}
