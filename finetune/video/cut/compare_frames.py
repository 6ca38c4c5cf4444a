"""Whether a video that was cut by copying packets shows the same frames as its source, each at its time."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from finetune.errors import VideoError
from finetune.video.cut.plan import Span, output_ticks
from finetune.video.decode.container import PYAV_ERRORS, decode_frames, open_video
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.orientation import ClipOrientation
from finetune.video.decode.sparse import LayoutError, decode_groups

TICKS_PER_SECOND = 1000
MAX_DIFFERENCE = 2  # ticks: Matroska rounds times to one


def shows_same_frames(
    copy: Path,
    source: Path,
    spans: Sequence[Span],
    layout: GopLayout,
    times_N: np.ndarray,
    progress: Callable[[int, int], None],
) -> bool:
    """Whether all frames of the spans, and no others, are decoded from `copy` bit for bit and in their order."""
    numbers = np.concatenate([np.arange(span.first, span.end_frame) for span in spans])
    wanted = set(numbers.tolist())
    ticks, first = output_ticks(times_N, spans, TICKS_PER_SECOND), None
    try:
        with open_video(copy) as (cut, cut_stream), open_video(source) as (container, stream):
            frames = (
                frame
                for number, frame, _ in decode_groups(container, stream, layout, numbers.tolist())
                if number in wanted
            )
            turned, turned_source = ClipOrientation(copy), ClipOrientation(source)
            pairs = zip_longest(decode_frames(copy, cut, cut_stream), frames)
            for place, (frame, expected) in enumerate(pairs):
                if frame is None or expected is None or not _are_equal(frame, expected):
                    return False
                if turned.of(frame) != turned_source.of(expected) or frame.time is None:
                    return False
                first = frame.time if first is None else first
                if abs((frame.time - first) * TICKS_PER_SECOND - int(ticks[place])) > MAX_DIFFERENCE:
                    return False
                progress(place + 1, len(numbers))
            return place + 1 == len(numbers)
    except (VideoError, LayoutError, *PYAV_ERRORS):
        return False


def _are_equal(frame: VideoFrame, other: VideoFrame) -> bool:
    """Whether two decoded frames have the same pixels, before any conversion."""
    if (frame.width, frame.height, frame.format.name) != (other.width, other.height, other.format.name):
        return False
    try:
        return np.array_equal(frame.to_ndarray(), other.to_ndarray())
    except ValueError:  # a format that PyAV cannot give as an array
        return np.array_equal(frame.to_ndarray(format="rgb24"), other.to_ndarray(format="rgb24"))
