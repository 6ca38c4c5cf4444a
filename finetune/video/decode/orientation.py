"""How stored pictures are rotated and mirrored for display: by the display matrix of a frame.

It comes from the container, from an SEI message in the stream (H.264, HEVC) or from EXIF (JPEG, PNG, WebP, TIFF).
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

# Codecs in which a frame itself may state an orientation: in an SEI message (in NAL units of this type), or as EXIF.
SEI_UNIT_TYPES = {"h264": 6, "hevc": 39, "vvc": 23}
EXIF_CODECS = {"mjpeg", "png", "apng", "webp"}
ORIENTATION_SEI = re.compile(rb"\x2f[\x01-\x10]")  # payload type and length; in other messages a letter follows
UNNAMED_TYPES = 16  # types of side data that FFmpeg may know and PyAV does not


class Orientation(NamedTuple):
    """One of the eight orientations: first rows and columns are swapped, then rows are reversed, then columns."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def shown(self, picture_HWC: np.ndarray) -> np.ndarray:
        """A stored picture (H, W, C) as it is displayed, (W, H, C) where transposed; a view, not a copy."""
        if self.transposed:
            picture_HWC = picture_HWC.swapaxes(0, 1)
        return picture_HWC[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]

    def swap_if_transposed(self, sides: tuple[int, int]) -> tuple[int, int]:
        """(height, width) as displayed from (height, width) as stored, and the reverse."""
        return sides[::-1] if self.transposed else sides


class OrientationError(VideoError):
    """The frames of a file state different orientations."""


class ClipOrientation:
    """The orientation of all frames of a file: that of its first frame, which must be passed to `of` first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.orientation: Orientation | None = None

    def of(self, frame: VideoFrame) -> Orientation:
        """The orientation. Raises OrientationError where a later frame states another; it may state none."""
        stated = orientation_of(frame)
        if self.orientation is None:
            self.orientation = stated or Orientation()
        elif stated not in {None, self.orientation}:
            raise OrientationError(
                f"{self.path}: its orientation changes: a later frame is rotated or mirrored unlike the first; "
                "re-encode it, for example with `ffmpeg -i IN OUT`"
            )
        return self.orientation


def orientation_of(frame: VideoFrame) -> Orientation | None:
    """The orientation that a frame states, or None; other angles are rounded to the nearest right angle."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return None
    # (x, y) is shown at (a x + c y, b x + d y). Source: libavutil/display.h
    a, b, _, c, d, *_ = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


def may_state_orientation(stream: VideoStream, first: Packet) -> bool:
    """Whether the first packet of a stream may state an orientation that later packets do not repeat."""
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
    except ValueError:  # PyAV lists no side data at all where one type is unknown to it, such as EXIF
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
