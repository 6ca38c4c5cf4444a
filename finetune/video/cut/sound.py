"""The sound of parts of a video, in step with their frames: packets are copied, or samples are encoded as AAC.

A packet of sound lasts 20 to 50 ms, and parts begin and end inside of packets. The packets that are copied follow one
another without a gap; each is heard at most half a packet earlier or later than in the source.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from finetune.video.cut.plan import Span, output_starts
from finetune.video.decode.container import open_video, start_of_file

AAC_RATES = frozenset([8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000])
OTHER_RATE = 48_000  # instead of a sample rate that AAC does not have
WARM_UP_SECONDS = 0.25  # of sound that is decoded before a part, as the first packet after a seek decodes to a click
GAP_SECONDS = 0.05  # a longer pause between two packets is kept


def copied_sound(source: Path, number: int, spans: Sequence[Span], target: OutputContainer) -> Iterator[Packet]:
    """Packets of the source's sound stream `number` for a new stream of `target`, which exists when this returns."""
    with open_video(source) as (container, _):
        stream = target.add_stream_from_template(container.streams.audio[number])

    def packets() -> Iterator[Packet]:
        last = None
        for packet, tick in _retimed_packets(source, number, spans):
            tick = tick if last is None else max(tick, last + 1)
            packet.pts = packet.dts = last = tick
            packet.stream = stream
            yield packet

    return packets()


def _retimed_packets(source: Path, number: int, spans: Sequence[Span]) -> Iterator[tuple[Packet, int]]:
    """(packet, its tick in the result) of the packets that are heard."""
    heard_until, place, shift = 0.0, 0, None
    starts = output_starts(spans)
    for packet, start, seconds in _timed_packets(source, number):
        while place < len(spans) and start + seconds / 2 >= spans[place].end:
            place, shift = place + 1, None
        if place == len(spans):
            return
        due = start - spans[place].start + starts[place]
        if shift is None:
            if due < heard_until - seconds / 2:
                continue
            shift = heard_until - due if due - heard_until <= seconds / 2 else 0.0
        heard_until = due + shift + seconds
        assert packet.time_base is not None
        yield packet, round((due + shift) / float(packet.time_base))


def _timed_packets(source: Path, number: int) -> Iterator[tuple[Packet, float, float]]:
    """(packet, its start, its length) in seconds from the beginning of the video, as players count."""
    with open_video(source) as (container, _):
        stream = container.streams.audio[number]
        origin, end = start_of_file(container), 0.0
        for packet in container.demux(stream):
            if not packet.size or packet.time_base is None:
                continue
            base, time = float(packet.time_base), packet.pts if packet.pts is not None else packet.dts
            start = end if time is None else time * base - origin
            seconds = packet.duration * base if packet.duration else packet_seconds(stream)
            end = start + seconds
            yield packet, start, seconds


def packet_seconds(stream: AudioStream) -> float:
    """The length of a packet in seconds, where a codec has packets of one length; else 0."""
    context = stream.codec_context
    return context.frame_size / context.sample_rate if context.frame_size and context.sample_rate else 0.0


def longest_packet(container: InputContainer, stream: AudioStream) -> float:
    """The length in seconds of the first packets of a sound stream, the longest of them."""
    lengths = []
    for packet in container.demux(stream):
        if packet.size and packet.duration and packet.time_base is not None:
            lengths.append(float(packet.duration * packet.time_base))
        if len(lengths) == 8:
            break
    return max(lengths, default=packet_seconds(stream))


def encoded_sound(source: Path, number: int, spans: Sequence[Span], target: OutputContainer) -> Iterator[Packet]:
    """The same, decoded and encoded as AAC, mono or stereo; cut to the sample."""
    with open_video(source) as (container, _):
        context = container.streams.audio[number].codec_context
        rate = context.sample_rate if context.sample_rate in AAC_RATES else OTHER_RATE
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
    stream = target.add_stream("aac", rate=rate, layout=layout)
    stream.time_base = stream.codec_context.time_base = Fraction(1, rate)

    def packets() -> Iterator[Packet]:
        heard = 0
        for samples_CN in _samples(source, number, spans, (rate, layout)):
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples_CN), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, heard, Fraction(1, rate)
            heard += samples_CN.shape[1]
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


def _samples(source: Path, number: int, spans: Sequence[Span], how: tuple[int, str]) -> Iterator[np.ndarray]:
    """Samples float32 (C, N) without a gap, from the beginning of the first span to the end of the last."""
    rate, channels = how[0], 1 if how[1] == "mono" else 2
    borders = [round(start * rate) for start in (*output_starts(spans), sum(span.seconds for span in spans))]
    heard, place, has_begun = 0, 0, False
    for start, samples_CN in _decoded(source, number, spans, how):
        while place < len(spans):
            first, end = borders[place : place + 2]
            due = first + round((start - spans[place].start) * rate)
            if due < end and due + samples_CN.shape[1] > first:
                if not has_begun or due - heard > GAP_SECONDS * rate:
                    yield from _silence(channels, due - heard, rate)
                    heard, has_begun = max(heard, due), True
                own_CN = samples_CN[:, max(0, first - due) :][:, : end - heard]
                yield own_CN
                heard += own_CN.shape[1]
            if due + samples_CN.shape[1] < end:
                break
            yield from _silence(channels, end - heard, rate)
            heard, place, has_begun = end, place + 1, False
    yield from _silence(channels, borders[-1] - heard, rate)


def _silence(channels: int, number: int, rate: int) -> Iterator[np.ndarray]:
    for start in range(0, number, rate):
        yield np.zeros((channels, min(rate, number - start)), np.float32)


def _decoded(
    source: Path, number: int, spans: Sequence[Span], how: tuple[int, str]
) -> Iterator[tuple[float, np.ndarray]]:
    """(start in seconds, samples float32 (C, N)) of the sound in and around the spans; what is damaged is left out."""
    with open_video(source) as (container, _):
        context, origin = container.streams.audio[number].codec_context, start_of_file(container)
        resampler = AudioResampler("fltp", how[1], how[0])
        is_skipping = False
        for packet, start, is_near in _packets_near(source, number, spans):
            if is_near and is_skipping:
                context.flush_buffers()
            is_skipping = not is_near
            for frame in _decode(context, packet) if is_near else ():
                time = start if frame.time is None else frame.time - origin
                for resampled in resampler.resample(frame):
                    yield time, resampled.to_ndarray()
                    time += resampled.samples / how[0]


def _packets_near(source: Path, number: int, spans: Sequence[Span]) -> Iterator[tuple[Packet, float, bool]]:
    """(packet, its start in seconds, whether it lies in a span or shortly before one), up to the end of the last."""
    place = 0
    for packet, start, seconds in _timed_packets(source, number):
        while place < len(spans) and start >= spans[place].end:
            place += 1
        if place == len(spans):
            return
        yield packet, start, start + seconds >= spans[place].start - WARM_UP_SECONDS


def _decode(context: AudioCodecContext, packet: Packet) -> list[AudioFrame]:
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []
