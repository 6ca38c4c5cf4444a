"""The picture order counts of H.264 and HEVC packets, from their parameter sets and slice headers.

Sources: ITU-T H.264 (7.3, 8.2.1) and H.265 (7.3, 8.3.1), ISO/IEC 14496-15 (how MP4 and Matroska store both).
"""

from collections.abc import Iterator

HEADER_BYTES = 48  # of a slice: more than what is read of it ever takes
Rank = tuple[int, int]  # pictures are shown in rising order of these; the first counts up wherever decoding begins anew


class UnknownOrderError(Exception):
    """The headers are written in a way that is not read here, or a packet is not one picture that is shown."""


class _BitReader:
    """Reads bits from the left."""

    def __init__(self, unit: bytes) -> None:
        unit = unit.replace(b"\0\0\3", b"\0\0")  # bytes that only keep start codes from turning up
        self.value = int.from_bytes(unit, "big")
        self.left = 8 * len(unit)

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ValueError("ends too early")
        return self.value >> self.left & (1 << count) - 1

    def exp_golomb(self) -> int:
        """Exp-Golomb: as many bits as there are zeros before the first one, and that one, less 1."""
        rest = self.value & (1 << self.left) - 1
        zeros = self.left - rest.bit_length()
        self.take(zeros)
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        code = self.exp_golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)


class _PocCounter:
    """Picture order counts of which packets hold the last bits only (H.264 8.2.1.1, H.265 8.3.1)."""

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
    """NAL units, each behind its length."""
    at = 0
    while at + width < len(packet):
        size = int.from_bytes(packet[at : at + width], "big")
        if size == 0 or at + width + size > len(packet):
            raise ValueError("a unit that is not in its packet")
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
            elif kind in {1, 5} and unit[1] & 128:  # a picture's first slice
                rank, field = self._slice(unit, kind == 5)
                ranks.append(rank)
                fields.append(field)
        if fields not in ([None], [0, 1], [1, 0]):  # a frame, or both fields of one
            raise UnknownOrderError("a packet that is not one picture")
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
    """What of a sequence parameter set tells where slices have their picture order count."""

    def __init__(self, unit: bytes) -> None:
        profile, bits = unit[0], _BitReader(unit[3:])
        self.number = bits.exp_golomb()
        if profile in {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}:
            chroma = bits.exp_golomb()
            if chroma == 3 and bits.take(1):
                raise UnknownOrderError("colour planes that are coded apart")
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
        self.sequences: dict[int, tuple[int, bool]] = {}  # bits of the count, and whether colour planes are apart
        self.pictures: dict[int, tuple[int, bool, int]] = {}  # sequence, whether output is flagged, extra bits
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
            elif kind < 32 and unit[2] & 128:  # a picture's first slice
                ranks.append(self._slice(unit, kind))
        if len(ranks) != 1:
            raise UnknownOrderError("a packet that is not one picture")
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
        planes_apart = bits.exp_golomb() == 3 and bool(bits.take(1))
        bits.exp_golomb(), bits.exp_golomb()
        if bits.take(1):
            bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()
        bits.exp_golomb(), bits.exp_golomb()
        self.sequences[number] = bits.exp_golomb() + 4, planes_apart

    def _slice(self, unit: memoryview, kind: int) -> Rank:
        is_random_access, is_idr, is_broken_link = 16 <= kind <= 23, kind in {19, 20}, 16 <= kind <= 18
        bits = _BitReader(bytes(unit[2:HEADER_BYTES]))
        bits.take(1 + is_random_access)
        sequence, has_output_flag, extra = self.pictures[bits.exp_golomb()]
        order_bits, planes_apart = self.sequences[sequence]
        bits.take(extra)
        bits.exp_golomb()
        if has_output_flag and not bits.take(1):
            raise UnknownOrderError("a picture that is not shown")
        bits.take(2 * planes_apart)
        low = 0 if is_idr else bits.take(order_bits)
        if is_idr or is_broken_link or (is_random_access and self.has_ended):
            self.counter.begin()
            self.counter.count = low
        self.has_ended = False
        # Of the lowest temporal layer, and neither leading nor one that no other refers to: sub-layer non-reference
        # pictures have even types up to 14, leading ones 6 to 9.
        is_reference = unit[1] & 7 == 1 and not 6 <= kind <= 9 and not (kind <= 14 and kind % 2 == 0)
        return self.counter.rank(low, order_bits, is_reference=is_reference)
