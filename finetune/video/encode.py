"""Encode frames to a video file, or one frame to JPEG. The same frames always give the same bytes.

For that, the encoder runs in one thread and without x264's macroblock tree, whose SIMD code reads uninitialized memory:
with it, about one small file in a hundred differed.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "g": "12", "threads": "1", "mbtree": "0"}


def write_video(path: Path | str, frames_THWC: np.ndarray, *, fps: int | Fraction = 25) -> None:
    """Encode RGB frames, uint8 (T, H, W, 3), as H.264 (yuv420p, a keyframe every 12 frames).

    The suffix of `path` chooses the container. H and W must be even, T at least 1. An existing file is replaced.
    """
    assert frames_THWC.dtype == np.uint8 and frames_THWC.ndim == 4 and frames_THWC.shape[3] == 3
    assert len(frames_THWC) > 0
    write_frames(path, frames_THWC, fps=fps)


def write_frames(path: Path | str, frames: Iterable[np.ndarray], *, fps: int | Fraction) -> int:
    """The same for an iterable of frames (H, W, 3); returns how many there were. No frames leave no file."""
    with av.open(str(path), "w") as container:
        stream, count = container.add_stream("libx264", rate=fps, options=ENCODER_OPTIONS), 0
        for count, frame_HWC in enumerate(frames, 1):
            height, width = frame_HWC.shape[:2]
            assert height % 2 == 0 and width % 2 == 0, frame_HWC.shape
            if count == 1:
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(stream.encode(frame))
        if count:
            container.mux(stream.encode(None))
    return count


def encode_jpeg(frame_3HW: np.ndarray) -> bytes:
    """The bytes of a JPEG file of medium quality; `frame_3HW` is RGB uint8."""
    picture_HWC = np.ascontiguousarray(frame_3HW.transpose(1, 2, 0))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture_HWC.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    encoder.options = {"qmin": "6", "qmax": "6"}
    frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
