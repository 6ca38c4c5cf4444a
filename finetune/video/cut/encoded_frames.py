"""Frames of parts of a video, encoded anew as H.264, each shown as long as in the source."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet

from finetune.video.cut.plan import Span, output_ticks
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.read import stream_frames
from finetune.video.encode import ENCODER_OPTIONS

TICKS_PER_SECOND = 90_000
BT709, LIMITED_RANGE = 1, 1  # numbers of ITU-T H.273


def encoded_packets(
    source: Path, layout: GopLayout | None, times_N: np.ndarray, spans: Sequence[Span], target: OutputContainer
) -> Iterator[Packet]:
    """Packets of a new stream of `target`, which exists when this returns. Frames are rotated as the source says.

    All get the size of the first frame, made even. Raises VideoError where the source cannot be decoded.
    """
    numbers = np.concatenate([np.arange(span.first, span.end_frame) for span in spans])
    pictures = (picture_HWC for _, picture_HWC in stream_frames(source, numbers, size=None, layout=layout))
    first_HWC = next(pictures)
    gap = float(np.median(np.diff(times_N))) if len(times_N) > 1 else 0.0
    rate = Fraction(1 / gap).limit_denominator(1001) if gap > 0 else Fraction(25)
    stream = target.add_stream("libx264", rate=rate, options=ENCODER_OPTIONS)
    stream.height, stream.width = (side + side % 2 for side in first_HWC.shape[:2])
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    stream.time_base = context.time_base = Fraction(1, TICKS_PER_SECOND)
    ticks = output_ticks(times_N, spans, TICKS_PER_SECOND).tolist()

    def packets() -> Iterator[Packet]:
        for picture_HWC, tick in zip(chain([first_HWC], pictures), ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24")
            frame = frame.reformat(stream.width, stream.height, format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_SECOND)
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()
