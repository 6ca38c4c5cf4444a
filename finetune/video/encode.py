"""Write frames to a video file. Single-threaded, so that the same frames give the same bytes."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "g": "12", "threads": "1"}


def write_video(path: Path | str, frames_THWC: np.ndarray, *, fps: int | Fraction = 25) -> None:
    """Encode RGB uint8 frames as H.264 (yuv420p, a keyframe every 12 frames) in the container of the suffix.

    Height and width have to be even, and T at least 1. An existing file is replaced.
    """
    assert frames_THWC.dtype == np.uint8 and frames_THWC.ndim == 4 and frames_THWC.shape[3] == 3
    num_frames, height, width, _ = frames_THWC.shape
    assert num_frames > 0 and height % 2 == 0 and width % 2 == 0, frames_THWC.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=ENCODER_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame_HWC in frames_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def jpeg_of(frame_3HW: np.ndarray) -> bytes:
    """A picture as a small JPEG file, of middling quality."""
    picture_HWC = np.ascontiguousarray(frame_3HW.transpose(1, 2, 0))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture_HWC.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    encoder.options = {"qmin": "6", "qmax": "6"}
    frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
