"""What is said of a video, drawn on its frames and written as a video anew: boxes, where they go, lines of text."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from finetune.errors import RunError
from finetune.prediction.text import render_text
from finetune.storage.atomic import atomic_file
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.probe import probe
from finetune.video.decode.read import RgbConverter, read_frames
from finetune.video.encode import write_frames

Colour = tuple[int, int, int]  # red, green, blue
VIDEO_OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
IMAGE_OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg")
# Those of the report's dark page (report/templates/compare.css), which eyes that see fewer colours tell apart.
COLOURS = ((106, 183, 240), (242, 154, 82), (69, 201, 160), (221, 154, 216), (230, 193, 77), (255, 143, 157))
TEXT_COLOUR, OUTLINE_COLOUR = (255, 255, 255), (0, 0, 0)
BACKGROUND_BRIGHTNESS = 0.25  # of a picture's light that is left behind text
MIN_TEXT_SIZE = 9  # pixels
MAX_RATE_DENOMINATOR = 1001  # of a second: rates as 30000 / 1001 stay what they are
MIN_OUTPUT_RATE, MAX_OUTPUT_RATE = 0.01, 1000.0  # frames a second; what claims more has no true rate
MIN_ARROW_SPEED = 0.05  # pixels a frame: less has no direction worth an arrow
MAX_COORDINATE = 10**6  # pixels outside of a picture


@dataclass(frozen=True)
class OverlayObject:
    """A box (left, top, width, height) in pixels at the frame that it is said for, its movement in pixels a frame."""

    name: str
    box: tuple[float, float, float, float] | None = None
    motion: tuple[float, float] | None = None

    def box_at(self, frames: int) -> tuple[float, float, float, float] | None:
        """So many frames after the one that it is said for, where the movement has taken it by then."""
        if self.box is None:
            return None
        across, down = self.motion or (0.0, 0.0)
        left, top, width, height = self.box
        return left + frames * across, top + frames * down, width, height


@dataclass(frozen=True)
class Overlay:
    """What is drawn on a video: lines of text on each frame, and things as they are at the frame `reference_frame`."""

    lines: tuple[str, ...] = ()
    objects: tuple[OverlayObject, ...] = ()
    reference_frame: int = 0


def draw_video(source: Path, target: Path, marks: Overlay, *, image_rate: float = DEFAULT_IMAGE_FPS) -> None:
    """Write each frame of a video with its marks, all equally long, at the video's mean rate and without its sound.

    The ending is one of VIDEO_ENDINGS. Sides of an odd number of pixels get one more. An existing file is replaced when
    the new one is whole. Raises VideoError where the source cannot be decoded to its end, and RunError where the target
    cannot be written.
    """
    rate = probe(source).fps or image_rate
    with _atomic_target(target) as partial:
        _encode(partial, overlay_frames(_decode_frames(source), marks, rate=rate), rate)


def draw_image(source: Path, target: Path, marks: Overlay) -> None:
    """The same for an image, of which the ending is one of IMAGE_ENDINGS."""
    frame_HWC = next(overlay_frames(_decode_frames(source), marks, rate=25.0))
    _, encoded = cv2.imencode(target.suffix.lower(), cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR))
    with _atomic_target(target) as partial:
        partial.write_bytes(encoded.tobytes())


def overlay_frames(frames: Iterable[np.ndarray], marks: Overlay, *, rate: float) -> Iterator[np.ndarray]:
    """Frames, uint8 RGB (H, W, 3), all of one size, with their marks; `rate` in frames a second."""
    panel = None
    for number, frame_HWC in enumerate(frames):
        if number == 0:
            panel = _panel(marks, frame_HWC.shape[:2])
        frame_HWC = np.ascontiguousarray(frame_HWC).copy()
        for thing, colours in zip(marks.objects, _colours(marks), strict=True):
            _draw_object(frame_HWC, thing, number - marks.reference_frame, colours=colours, rate=rate)
        if panel is not None:
            panel.draw_on(frame_HWC)
        yield frame_HWC


@dataclass(frozen=True, eq=False)
class _Panel:
    """Lines of text on one dark ground: what is left of a picture's light there, and the light that is added."""

    place: tuple[slice, slice]
    dimming_HW1: np.ndarray
    added_HW3: np.ndarray

    def draw_on(self, frame_HWC: np.ndarray) -> None:
        frame_HWC[self.place] = np.rint(frame_HWC[self.place] * self.dimming_HW1 + self.added_HW3)


def _panel(marks: Overlay, size: tuple[int, int]) -> _Panel | None:
    """In a left corner of pictures of a size, away from where the first box is; lines that do not fit are left out."""
    height, width = size
    letters = max(MIN_TEXT_SIZE, min(height, width) // 26)
    edge = letters // 3
    inks = [
        (ink, colour)
        for line, colour in _coloured_lines(marks)
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
    box = next((thing.box for thing in marks.objects if thing.box is not None), None)
    is_below = box is not None and box[1] + box[3] / 2 < height / 2
    rows = slice(height - down, height) if is_below else slice(0, down)
    return _Panel((rows, slice(0, across)), dimming_HW1, added_HW3)


def _coloured_lines(marks: Overlay) -> list[tuple[str, Colour]]:
    lines = [(line, TEXT_COLOUR) for line in marks.lines]
    if len(marks.objects) > 1:
        lines += [(thing.name, box) for thing, (box, _) in zip(marks.objects, _colours(marks), strict=True)]
    return lines


def _colours(marks: Overlay) -> list[tuple[Colour, Colour]]:
    """Of each thing's box, and of its arrow."""
    if len(marks.objects) == 1:
        return [(COLOURS[0], COLOURS[1])]
    return [(COLOURS[number % len(COLOURS)],) * 2 for number in range(len(marks.objects))]


def _draw_object(
    frame_HWC: np.ndarray,
    thing: OverlayObject,
    frames: int,
    *,
    colours: tuple[Colour, Colour],
    rate: float,
) -> None:
    """So many frames after the one that it is said for; at that one the box has a line twice as thick."""
    height, width = frame_HWC.shape[:2]
    thick, centre = max(1 + (min(height, width) >= 64), min(height, width) // 200), (width / 2, height / 2)
    box = thing.box_at(frames)
    if box is not None:
        left, top, across, down = box
        centre = left + across / 2, top + down / 2
        ends = _to_pixel(left, top), _to_pixel(left + across - 1, top + down - 1)
        for colour, more in ((OUTLINE_COLOUR, 2), (colours[0], 0)):
            cv2.rectangle(frame_HWC, *ends, colour, thick * (1 if frames else 2) + more)
    if thing.motion is not None and np.hypot(*thing.motion) >= MIN_ARROW_SPEED:
        tip = _arrow_tip(centre, thing.motion, rate=rate, side=min(height, width))
        _draw_arrow(frame_HWC, (centre, tip), colours[1], thick=thick)


def _arrow_tip(
    centre: tuple[float, float], motion: tuple[float, float], *, rate: float, side: int
) -> tuple[float, float]:
    """Where the movement leads within a second, but no nearer than an eighth of the picture's side, nor a third off."""
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
    for each, more in ((OUTLINE_COLOUR, 2), (colour, 0)):
        cv2.arrowedLine(frame_HWC, start, tip, each, thick + more, cv2.LINE_8, 0, head)


def _to_pixel(x: float, y: float) -> tuple[int, int]:
    across, down = np.clip(np.rint((x, y)), -MAX_COORDINATE, MAX_COORDINATE).astype(int).tolist()
    return across, down


def _decode_frames(source: Path) -> Iterator[np.ndarray]:
    """One after the other, upright, in the size of the first."""
    if source.is_dir():
        yield from (read_frames(source, [index])[0][0].transpose(1, 2, 0) for index in range(probe(source).num_frames))
        return
    to_rgb, size = RgbConverter(source), None
    with open_video(source) as (container, stream):
        for frame in decode_frames(source, container, stream):
            frame_HWC = to_rgb(frame, size)
            size = frame_HWC.shape[:2]
            yield frame_HWC


def _encode(target: Path, frames: Iterable[np.ndarray], rate: float) -> None:
    # H.264 halves colours: an odd side is made longer.
    even = (np.pad(each, ((0, each.shape[0] % 2), (0, each.shape[1] % 2), (0, 0)), mode="edge") for each in frames)
    write_frames(
        target,
        even,
        fps=Fraction(min(max(rate, MIN_OUTPUT_RATE), MAX_OUTPUT_RATE)).limit_denominator(MAX_RATE_DENOMINATOR),
    )


@contextmanager
def _atomic_target(target: Path) -> Iterator[Path]:
    """A path with the ending of `target` to write to, which takes its place. Raises RunError where that cannot be."""
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
