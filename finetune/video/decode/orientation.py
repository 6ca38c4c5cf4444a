"""How stored pictures are turned and mirrored to be shown: by the display matrix of a frame.

A frame has it from its container, from a message in its stream (H.264, HEVC) or from EXIF (JPEG, PNG, WebP, TIFF).
"""

import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.filter import Graph
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from finetune.errors import VideoError

# Codecs in which a frame may state an orientation by itself: in a message (SEI), by the type of its unit, or as EXIF.
SEI_UNIT_TYPES = {"h264": 6, "hevc": 39, "vvc": 23}
EXIF_CODECS = {"mjpeg", "png", "apng", "webp"}
ORIENTATION_SEI = re.compile(rb"\x2f[\x01-\x10]")  # its type, and a length; letters follow a slash in other messages
UNNAMED_TYPES = 16  # kinds of side data that FFmpeg may have and PyAV has no name for


class Orientation(NamedTuple):
    """One of the eight: rows become columns first, then the picture is turned upside down, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def shown(self, picture_HWC: np.ndarray) -> np.ndarray:
        """A stored picture as it is shown, without a copy."""
        if self.transposed:
            picture_HWC = picture_HWC.swapaxes(0, 1)
        return picture_HWC[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]

    def swap_if_transposed(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Two sides as shown from those stored, and the other way round."""
        return sides[::-1] if self.transposed else sides


class OrientationError(VideoError):
    """A file whose frames are to be shown turned or mirrored in different ways."""


class ClipOrientation:
    """The orientation of all frames of a file: that of its first, which has to be given first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.orientation: Orientation | None = None

    def of(self, frame: VideoFrame) -> Orientation:
        """Raises OrientationError where a later frame states another than the first; it may state none."""
        stated = orientation_of(frame)
        if self.orientation is None:
            self.orientation = stated or Orientation()
        elif stated not in {None, self.orientation}:
            raise OrientationError(
                f"{self.path}: changes its orientation: a later frame is turned or mirrored in another way than the "
                "first; write it anew, for example with `ffmpeg -i IN OUT`"
            )
        return self.orientation


def orientation_of(frame: VideoFrame) -> Orientation | None:
    """The orientation that a frame states, or None; one between right angles is brought to the nearest."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return None
    # (x, y) is shown at (a x + c y, b x + d y). Source: libavutil/display.h
    a, b, _, c, d, *_ = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def may_state_orientation(stream: VideoStream, first: Packet) -> bool:
    """Whether the first packet of a stream may state an orientation that later ones leave out."""
    codec = stream.codec_context.name
    if codec not in SEI_UNIT_TYPES:
        return codec in EXIF_CODECS and b"exif" in bytes(first).lower()
    try:
        messages = BitStreamFilterContext(f"filter_units=pass_types={SEI_UNIT_TYPES[codec]}", stream)
        return any(ORIENTATION_SEI.search(bytes(unit)) for unit in messages.filter(Packet(bytes(first))))
    except av.FFmpegError:  # damaged
        return True


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    side_data: Any  # PyAV's stubs know other keys
    try:
        side_data = frame.side_data
    except ValueError:  # PyAV lists none of it where there is a kind that it has no name for, as EXIF
        side_data = _without_unnamed_types(frame).side_data
    if Type.DISPLAYMATRIX not in side_data:
        return None
    return struct.unpack("=9i", bytes(side_data[Type.DISPLAYMATRIX])[:36])


def _without_unnamed_types(frame: VideoFrame) -> VideoFrame:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    newer = range(len(Type), len(Type) + UNNAMED_TYPES)
    deletions = [graph.add("sidedata", f"mode=delete:type={number}") for number in newer]
    graph.link_nodes(source, *deletions, graph.add("buffersink")).configure()
    graph.push(frame)
    pulled = graph.pull()
    assert isinstance(pulled, VideoFrame)
    return pulled
