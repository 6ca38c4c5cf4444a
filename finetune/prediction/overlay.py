"""Draw predictions on the frames of a video, as boxes, arrows of motion and lines of text, and write a new video."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from finetune.errors import RunError
from finetune.storage.atomic import atomic_file
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.probe import probe
from finetune.video.decode.read import RgbConverter, read_frames
from finetune.video.encode import write_frames
from finetune.video.render_text import render_text

Colour = tuple[int, int, int]  # red, green, blue
VIDEO_OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
IMAGE_OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg")
# As on the report's dark page (report/templates/compare.css); people with colour blindness can tell them apart.
COLOURS = ((106, 183, 240), (242, 154, 82), (69, 201, 160), (221, 154, 216), (230, 193, 77), (255, 143, 157))
TEXT_COLOUR, OUTLINE_COLOUR = (255, 255, 255), (0, 0, 0)
BACKGROUND_BRIGHTNESS = 0.25  # share of the picture's brightness that is left behind text
MIN_TEXT_SIZE = 9  # pixels
MAX_RATE_DENOMINATOR = 1001  # rates such as 30000 / 1001 frames a second stay exact
MIN_OUTPUT_RATE, MAX_OUTPUT_RATE = 0.01, 1000.0  # frames a second; a rate outside this range is an error in the file
MIN_ARROW_SPEED = 0.05  # pixels a frame; slower motion gets no arrow
MAX_COORDINATE = 10**6  # pixels; OpenCV fails on much larger ones


@dataclass(frozen=True)
class OverlayObject:
    """A box (left, top, width, height) in pixels at the reference frame, and its motion (dx, dy) in pixels a frame."""

    name: str
    box: tuple[float, float, float, float] | None = None
    motion: tuple[float, float] | None = None

    def box_at(self, frames: int) -> tuple[float, float, float, float] | None:
        """The box `frames` frames after the reference frame, moved along by the motion."""
        if self.box is None:
            return None
        across, down = self.motion or (0.0, 0.0)
        left, top, width, height = self.box
        return left + frames * across, top + frames * down, width, height


@dataclass(frozen=True)
class Overlay:
    """What is drawn on a video: lines of text on each frame, and objects as they are at the frame `reference_frame`."""

    lines: tuple[str, ...] = ()
    objects: tuple[OverlayObject, ...] = ()
    reference_frame: int = 0


def draw_video(source: Path, target: Path, overlay: Overlay, *, image_rate: float = DEFAULT_IMAGE_FPS) -> None:
    """Write each frame of a video with its overlay, at a constant rate, the mean of the video's, and without sound.

    The suffix of `target` is one of VIDEO_OUTPUT_SUFFIXES. An odd width or height grows by one pixel. An existing file
    is replaced once the new one is complete. Raises VideoError where the source cannot be decoded to its end, and
    RunError where the target cannot be written.
    """
    rate = probe(source).fps or image_rate
    encode_video(target, overlay_frames(_decode_frames(source), overlay, rate=rate), rate=rate)


def draw_image(source: Path, target: Path, overlay: Overlay) -> None:
    """Write an image with its overlay. The suffix of `target` is one of IMAGE_OUTPUT_SUFFIXES."""
    encode_image(target, next(overlay_frames(_decode_frames(source), overlay, rate=25.0)))


def overlay_frames(frames: Iterable[np.ndarray], overlay: Overlay, *, rate: float) -> Iterator[np.ndarray]:
    """Frames, uint8 RGB (H, W, 3), all of one size, with the overlay drawn on each; `rate` in frames a second."""
    painter = OverlayPainter(overlay, rate=rate)
    for number, frame_HWC in enumerate(frames):
        yield painter.draw(frame_HWC, number - overlay.reference_frame)


class OverlayPainter:
    """Draws one overlay on frames, all of one size; `rate` in frames a second."""

    def __init__(self, overlay: Overlay, *, rate: float) -> None:
        self.overlay, self.rate = overlay, rate
        self.panel: _Panel | None = None
        self.size: tuple[int, int] | None = None  # of the frames that the panel fits

    def draw(self, frame_HWC: np.ndarray, frames: int) -> np.ndarray:
        """A copy of a frame, uint8 RGB (H, W, 3), with objects as they are `frames` frames after the reference."""
        frame_HWC = np.ascontiguousarray(frame_HWC).copy()
        for drawn, colours in zip(self.overlay.objects, _colours(self.overlay), strict=True):
            _draw_object(frame_HWC, drawn, frames, colours=colours, rate=self.rate)
        if frame_HWC.shape[:2] != self.size:
            self.size = frame_HWC.shape[0], frame_HWC.shape[1]
            self.panel = _panel(self.overlay, self.size)
        if self.panel is not None:
            self.panel.draw_on(frame_HWC)
        return frame_HWC


@dataclass(frozen=True, eq=False)
class _Panel:
    """Lines of text on a dark background: pixels at `place` (h, w, 3) are multiplied by `dimming`, then `added`."""

    place: tuple[slice, slice]
    dimming_HW1: np.ndarray
    added_HW3: np.ndarray

    def draw_on(self, frame_HWC: np.ndarray) -> None:
        frame_HWC[self.place] = np.rint(frame_HWC[self.place] * self.dimming_HW1 + self.added_HW3)


def _panel(overlay: Overlay, size: tuple[int, int]) -> _Panel | None:
    """The text panel in a left corner of frames of `size` (height, width), away from the first box.

    Lines that do not fit are omitted; None where no line fits.
    """
    height, width = size
    letters = max(MIN_TEXT_SIZE, min(height, width) // 26)
    edge = letters // 3
    inks = [
        (ink, colour)
        for line, colour in _coloured_lines(overlay)
        if (ink := render_text(line, size=letters, width=width - 2 * edge)).size
    ]
    line_height = inks[0][0].shape[0] if inks else 1
    inks = inks[: max(0, height - 2 * edge) // line_height]
    if not inks:
        return None
    down, across = len(inks) * line_height + 2 * edge, max(ink.shape[1] for ink, _ in inks) + 2 * edge
    dimming_HW1, added_HW3 = np.full((down, across, 1), BACKGROUND_BRIGHTNESS), np.zeros((down, across, 3))
    for number, (ink, colour) in enumerate(inks):
        top, share_HW1 = edge + number * line_height, ink[..., None] / 255
        place = slice(top, top + line_height), slice(edge, edge + ink.shape[1])
        dimming_HW1[place] *= 1 - share_HW1
        added_HW3[place] = share_HW1 * colour
    box = next((drawn.box for drawn in overlay.objects if drawn.box is not None), None)
    box_is_above = box is not None and box[1] + box[3] / 2 < height / 2
    rows = slice(height - down, height) if box_is_above else slice(0, down)
    return _Panel((rows, slice(0, across)), dimming_HW1, added_HW3)


def _coloured_lines(overlay: Overlay) -> list[tuple[str, Colour]]:
    lines = [(line, TEXT_COLOUR) for line in overlay.lines]
    if len(overlay.objects) > 1:
        lines += [(drawn.name, box) for drawn, (box, _) in zip(overlay.objects, _colours(overlay), strict=True)]
    return lines


def _colours(overlay: Overlay) -> list[tuple[Colour, Colour]]:
    """The colours of each object's box and of its arrow."""
    if len(overlay.objects) == 1:
        return [(COLOURS[0], COLOURS[1])]
    return [(COLOURS[number % len(COLOURS)],) * 2 for number in range(len(overlay.objects))]


def _draw_object(
    frame_HWC: np.ndarray,
    drawn: OverlayObject,
    frames: int,
    *,
    colours: tuple[Colour, Colour],
    rate: float,
) -> None:
    """Draw an object as it is `frames` frames after the reference frame, where its box has lines twice as thick."""
    height, width = frame_HWC.shape[:2]
    thick, centre = max(1 + (min(height, width) >= 64), min(height, width) // 200), (width / 2, height / 2)
    box = drawn.box_at(frames)
    if box is not None:
        left, top, across, down = box
        centre = left + across / 2, top + down / 2
        ends = _to_pixel(left, top), _to_pixel(left + across - 1, top + down - 1)
        for colour, more in ((OUTLINE_COLOUR, 2), (colours[0], 0)):
            cv2.rectangle(frame_HWC, *ends, colour, thick * (1 if frames else 2) + more)
    if drawn.motion is not None and np.hypot(*drawn.motion) >= MIN_ARROW_SPEED:
        tip = _arrow_tip(centre, drawn.motion, rate=rate, side=min(height, width))
        _draw_arrow(frame_HWC, (centre, tip), colours[1], thick=thick)


def _arrow_tip(
    centre: tuple[float, float], motion: tuple[float, float], *, rate: float, side: int
) -> tuple[float, float]:
    """The point that the motion reaches in one second, but between an eighth and a third of `side` from the centre."""
    speed = np.hypot(*motion)
    scale = min(max(rate * speed, side / 8), side / 3) / speed
    return centre[0] + scale * motion[0], centre[1] + scale * motion[1]


def _draw_arrow(
    frame_HWC: np.ndarray,
    ends: tuple[tuple[float, float], tuple[float, float]],
    colour: Colour,
    *,
    thick: int,
) -> None:
    start, tip = _to_pixel(*ends[0]), _to_pixel(*ends[1])
    head = 5 * thick / max(1.0, float(np.hypot(tip[0] - start[0], tip[1] - start[1])))
    for ink, more in ((OUTLINE_COLOUR, 2), (colour, 0)):
        cv2.arrowedLine(frame_HWC, start, tip, ink, thick + more, cv2.LINE_8, 0, head)


def _to_pixel(x: float, y: float) -> tuple[int, int]:
    across, down = np.clip(np.rint((x, y)), -MAX_COORDINATE, MAX_COORDINATE).astype(int).tolist()
    return across, down


def _decode_frames(source: Path) -> Iterator[np.ndarray]:
    """The frames in order, uint8 RGB (H, W, 3), upright, all resized to the size of the first."""
    if source.is_dir():
        yield from (read_frames(source, [index])[0][0].transpose(1, 2, 0) for index in range(probe(source).num_frames))
        return
    to_rgb, size = RgbConverter(source), None
    with open_video(source) as (container, stream):
        for frame in decode_frames(source, container, stream):
            frame_HWC = to_rgb(frame, size)
            size = frame_HWC.shape[:2]
            yield frame_HWC


def encode_video(target: Path, frames: Iterable[np.ndarray], *, rate: float) -> None:
    """Write frames, uint8 RGB (H, W, 3), as `draw_video` does; `rate` is in frames a second."""
    # H.264 stores colours at half resolution, so width and height must be even.
    even = (np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge") for frame in frames)
    fps = Fraction(min(max(rate, MIN_OUTPUT_RATE), MAX_OUTPUT_RATE)).limit_denominator(MAX_RATE_DENOMINATOR)
    with _atomic_target(target) as partial:
        write_frames(partial, even, fps=fps)


def encode_image(target: Path, frame_HWC: np.ndarray) -> None:
    """Write a frame, uint8 RGB (H, W, 3), as an image. The suffix of `target` is one of IMAGE_OUTPUT_SUFFIXES."""
    _, encoded = cv2.imencode(target.suffix.lower(), cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR))
    with _atomic_target(target) as partial:
        partial.write_bytes(encoded.tobytes())


@contextmanager
def _atomic_target(target: Path) -> Iterator[Path]:
    """A temporary path with the suffix of `target`, moved there at the end. Raises RunError where that fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as partial:
            written = partial.with_name(f"{partial.name}{target.suffix}")
            try:
                yield written
                os.replace(written, partial)
            finally:
                written.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}") from None
