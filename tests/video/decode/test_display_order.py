"""The display order in packet headers agrees with reliable timestamps, and is refused where it is unclear."""

import random

import av
import pytest
from av.bitstream import BitStreamFilterContext
from moving import write

from finetune.video.decode.display_order import UnknownOrderError, display_order_reader

COUNT = 26
READ = ["h264", "h264_b", "h264_open", "h264_mkv", "h264_interlaced", "h264_444", "hevc", "hevc_layers", "vp9", "av1"]


def read_packets(path, *, split_by=None):
    """The codec, the extradata, and (bytes, timestamp) of each packet."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if split_by:
            splitter = BitStreamFilterContext(split_by, stream)
            packets = [part for packet in packets for part in splitter.filter(packet)]
        found = [(bytes(packet), packet.pts) for packet in packets]
        return stream.codec_context.name, stream.codec_context.extradata or b"", found


@pytest.mark.parametrize("kind", READ)
def test_headers_and_true_timestamps_say_the_same_order(tmp_path, kind):
    codec, header, packets = read_packets(write(tmp_path, kind, COUNT))
    rank_of = display_order_reader(codec, header)
    ranks = [rank_of(memoryview(data)) for data, _ in packets]
    assert len(set(ranks)) == COUNT
    by_time = sorted(range(COUNT), key=lambda place: packets[place][1])
    assert sorted(range(COUNT), key=ranks.__getitem__) == by_time


@pytest.mark.parametrize("kind", ["h264_b", "hevc", "vp9", "av1"])
def test_a_packet_that_holds_two_pictures_is_refused(tmp_path, kind):
    codec, header, packets = read_packets(write(tmp_path, kind, COUNT))
    (first, _), (second, _) = packets[:2]
    both = first + second
    if kind == "vp9":  # how many, and their sizes in two bytes each, between two marks
        mark = bytes([0b110_01_001])
        both += mark + len(first).to_bytes(2, "little") + len(second).to_bytes(2, "little") + mark
    with pytest.raises(UnknownOrderError, match="exactly one picture"):
        display_order_reader(codec, header)(memoryview(both))


def test_a_packet_whose_picture_is_not_shown_is_refused(tmp_path):
    codec, header, packets = read_packets(write(tmp_path, "vp9", COUNT))
    data = packets[3][0]
    display_order_reader(codec, header)(memoryview(data))
    with pytest.raises(UnknownOrderError, match="exactly one picture"):
        display_order_reader(codec, header)(memoryview(bytes([data[0] & ~2]) + data[1:]))  # the flag show_frame
    codec, header, packets = read_packets(write(tmp_path, "av1", COUNT), split_by="av1_frame_split")
    assert len(packets) > COUNT
    read = display_order_reader(codec, header)
    with pytest.raises(UnknownOrderError, match="exactly one picture"):
        _ = [read(memoryview(data)) for data, _ in packets]


@pytest.mark.parametrize("kind", ["h264_b", "hevc", "vp9", "av1"])
def test_damaged_headers_are_refused_and_nothing_else_happens(tmp_path, kind):
    codec, header, packets = read_packets(write(tmp_path, kind, COUNT))
    rng = random.Random(5)
    for _ in range(300):
        data, stored = bytearray(rng.choice(packets)[0]), bytearray(header)
        for damaged in (data, stored):
            for _ in range(rng.choice([0, 1, 8]) if damaged else 0):
                damaged[rng.randrange(min(len(damaged), 60))] = rng.randrange(256)
            del damaged[rng.choice([len(damaged), rng.randrange(len(damaged) + 1)]) :]
        try:
            first, second = display_order_reader(codec, bytes(stored))(memoryview(data))
        except UnknownOrderError:
            continue
        assert isinstance(first, int) and isinstance(second, int)
