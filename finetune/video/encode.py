"""Encode frames to a video file, one frame to JPEG or PNG, a mask to PNG. The same frames always give the same bytes.

For that, the encoder runs in one thread and without x264's macroblock tree, whose SIMD code reads uninitialized memory:
with it, about one small file in a hundred differed.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "g": "12", "threads": "1", "mbtree": "0"}
FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
}  # without edit lists, so without B-frames
TICKS_PER_SECOND = 1000  # of the times in a recording


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


class RecordingWriter:
    """Writes frames with their own times as H.264 to a new MP4 file.

    With `in_fragments` it can be played even if it is never closed: its fragments are complete in themselves, and each
    is written at once. Without, it has an index, by which players find a time.
    """

    def __init__(self, path: Path, *, in_fragments: bool = True) -> None:
        self.container = av.open(str(path), "w", format="mp4", options=FRAGMENTED if in_fragments else {})
        self.stream = self.container.add_stream("libx264", options=ENCODER_OPTIONS | {"bf": "0"})
        self.stream.time_base = self.stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
        self.stream.pix_fmt, self.last = "yuv420p", -1  # the time of the last frame, in ticks

    def write(self, frame_HWC: np.ndarray, seconds: float) -> None:
        """Add a frame, uint8 RGB (H, W, 3), that is shown from `seconds` on; scaled to the first one's size, made even.

        A time that is not after the last frame's is moved just after it.
        """
        if self.last < 0:
            self.stream.height, self.stream.width = (side + side % 2 for side in frame_HWC.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame = frame.reformat(self.stream.width, self.stream.height, format="yuv420p")
        self.last = max(self.last + 1, round(seconds * TICKS_PER_SECOND))
        frame.pts, frame.time_base = self.last, Fraction(1, TICKS_PER_SECOND)
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.last >= 0:
            self.container.mux(self.stream.encode(None))
        self.container.close()


def encode_jpeg(frame_3HW: np.ndarray) -> bytes:
    """The bytes of a JPEG file of medium quality; `frame_3HW` is RGB uint8."""
    picture_HWC = np.ascontiguousarray(frame_3HW.transpose(1, 2, 0))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture_HWC.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    encoder.options = {"qmin": "6", "qmax": "6"}
    frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def encode_png(picture_HWC: np.ndarray) -> bytes:
    """The bytes of a PNG file; `picture_HWC` is RGB uint8."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24")
    return _encode_png(frame, "rgb24")


def encode_mask(classes_HW: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """The bytes of an indexed PNG whose values are the classes of pixels, uint8 (H, W), shown in the RGB colours."""
    palette = np.zeros((256, 4), np.uint8)  # opacity, red, green, blue
    palette[:, 0] = 255
    palette[: len(colours), 1:] = colours
    indexed: Any = (np.ascontiguousarray(classes_HW), palette)
    picture = av.VideoFrame.from_ndarray(indexed, format="pal8")
    return _encode_png(picture, "pal8")


def _encode_png(picture: av.VideoFrame, pixels: str) -> bytes:
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = picture.height, picture.width
    encoder.pix_fmt, encoder.time_base = pixels, Fraction(1, 25)
    encoder.options = {"threads": "1"}
    return b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])
