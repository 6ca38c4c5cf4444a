"""Draw objects on a frame: boxes with labels, arrows of motion, and masks, in colours that tell classes apart.

Each line has a dark and each label a coloured ground, so both are legible on any picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np

from finetune.recipe.object_fields import UNLABELLED
from finetune.video.class_colours import Colour, class_colour
from finetune.video.render_text import render_text

OUTLINE: Colour = (0, 0, 0)
MIN_LETTERS = 9  # pixels; smaller letters are not legible
MAX_COORDINATE = 10**6  # pixels; OpenCV fails on much larger ones
_DASH = 4  # pixels, in units of the line's thickness

Place = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class DrawnObject:
    """A box (left, top, width, height) in pixels of the frame; `motion` (dx, dy) is drawn as an arrow of that length.

    `colour` is an index, of a class or an identity: there are as many colours as CLASS_COLOURS, then they repeat.
    `dashed` lines mark objects that do not count.
    """

    box: tuple[float, float, float, float]
    colour: int = 0
    label: str = ""
    motion: tuple[float, float] | None = None
    dashed: bool = False


def draw_objects(frame_HWC: np.ndarray, objects: Sequence[DrawnObject]) -> np.ndarray:
    """A copy of a frame, uint8 RGB (H, W, 3), with objects; the first are drawn last, over the others."""
    frame_HWC = np.ascontiguousarray(frame_HWC).copy()
    side = min(frame_HWC.shape[:2])
    thick = max(1 + (side >= 96), side // 300)
    for drawn in reversed(objects):
        _draw_box(frame_HWC, drawn, thick)
        if drawn.motion is not None and np.isfinite(drawn.motion).all() and np.hypot(*drawn.motion) >= 1:
            _draw_arrow(frame_HWC, drawn, thick)
    _draw_labels(frame_HWC, objects, letters=max(MIN_LETTERS, side // 32))
    return frame_HWC


def draw_on_jpeg(
    jpeg: bytes, objects: Sequence[DrawnObject], *, size: tuple[int, int], mask_HW: np.ndarray | None = None
) -> bytes:
    """A picture of a frame with objects, and with a mask uint8 (H, W) below them, of any size.

    The boxes are in pixels of the frame of `size` (width, height).
    """
    picture_HWC = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture_HWC is not None, "not a JPEG picture"
    height, width = picture_HWC.shape[:2]
    if mask_HW is not None:
        small_HW = cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_NEAREST)
        picture_HWC = draw_mask(in_grey(picture_HWC), np.asarray(small_HW, np.uint8))
    scaled = [scale_object(drawn, (width / size[0], height / size[1])) for drawn in objects]
    _, encoded = cv2.imencode(".jpg", draw_objects(picture_HWC, scaled)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return encoded.tobytes()


def in_grey(picture_HWC: np.ndarray) -> np.ndarray:
    """The picture uint8 (H, W, 3) without its colours, so that those of a mask are classes alone."""
    return np.repeat(picture_HWC.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)


def scale_object(drawn: DrawnObject, scales: tuple[float, float]) -> DrawnObject:
    """The object in a picture of another size; `scales` are those of x and y."""
    left, top, width, height = drawn.box
    box = left * scales[0], top * scales[1], width * scales[0], height * scales[1]
    motion = None if drawn.motion is None else (drawn.motion[0] * scales[0], drawn.motion[1] * scales[1])
    return replace(drawn, box=box, motion=motion)


def draw_mask(
    frame_HWC: np.ndarray, mask_HW: np.ndarray, *, opacity: float = 0.5, background: int | None = None
) -> np.ndarray:
    """A copy of a frame, uint8 RGB (H, W, 3), with the classes of a mask uint8 (H, W) laid over, and their borders.

    Pixels of the class `background` and unlabelled ones keep their colour.
    """
    colours_KC = np.array([class_colour(value) for value in range(256)], np.float32)
    shown_HW = mask_HW != UNLABELLED
    if background is not None:
        shown_HW &= mask_HW != background
    mixed_HWC = (1 - opacity) * frame_HWC + opacity * colours_KC[mask_HW]
    drawn_HWC = np.where(shown_HW[..., None], np.rint(mixed_HWC).astype(np.uint8), frame_HWC)
    border_HW = np.zeros_like(shown_HW)
    border_HW[:, 1:] |= mask_HW[:, 1:] != mask_HW[:, :-1]
    border_HW[1:] |= mask_HW[1:] != mask_HW[:-1]
    drawn_HWC[border_HW & shown_HW] = colours_KC[mask_HW[border_HW & shown_HW]]
    return drawn_HWC


def _draw_box(frame_HWC: np.ndarray, drawn: DrawnObject, thick: int) -> None:
    left, top, width, height = drawn.box
    first, last = _to_pixel(left, top), _to_pixel(left + width - 1, top + height - 1)
    cv2.rectangle(frame_HWC, first, last, OUTLINE, thick + 2)
    if not drawn.dashed:
        cv2.rectangle(frame_HWC, first, last, class_colour(drawn.colour), thick)
        return
    corners = [first, (last[0], first[1]), last, (first[0], last[1]), first]
    for start, end in pairwise(corners):
        _draw_dashes(frame_HWC, start, end, class_colour(drawn.colour), thick)


def _draw_dashes(
    frame_HWC: np.ndarray, start: tuple[int, int], end: tuple[int, int], colour: Colour, thick: int
) -> None:
    """Every other part of a line; at most a thousand, so that a box far outside of the frame costs no time."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    number = min(1000, max(1, length // (_DASH * thick)))
    points = np.linspace(start, end, number + 1).round().astype(int).tolist()
    for one, other in list(pairwise(points))[::2]:
        cv2.line(frame_HWC, tuple(one), tuple(other), colour, thick)


def _draw_arrow(frame_HWC: np.ndarray, drawn: DrawnObject, thick: int) -> None:
    left, top, width, height = drawn.box
    across, down = drawn.motion or (0.0, 0.0)
    centre = left + width / 2, top + height / 2
    start, tip = _to_pixel(*centre), _to_pixel(centre[0] + across, centre[1] + down)
    head = 4 * thick / max(1.0, float(np.hypot(tip[0] - start[0], tip[1] - start[1])))
    for colour, more in ((OUTLINE, 2), (class_colour(drawn.colour), 0)):
        cv2.arrowedLine(frame_HWC, start, tip, colour, thick + more, cv2.LINE_8, 0, head)


def _draw_labels(frame_HWC: np.ndarray, objects: Sequence[DrawnObject], *, letters: int) -> None:
    """Draw labels beside their boxes where they cover no other label; the first objects choose first."""
    height, width = frame_HWC.shape[:2]
    taken: list[Place] = []
    for drawn in objects:
        ink_HW = render_text(drawn.label, size=letters, width=width - 4) if drawn.label else np.zeros((1, 0), np.uint8)
        if not ink_HW.shape[1]:
            continue
        place = _free_place(drawn.box, (ink_HW.shape[1] + 4, ink_HW.shape[0]), taken, (width, height))
        if place is not None:
            taken.append(place)
            _draw_label(frame_HWC, ink_HW, place, class_colour(drawn.colour))


def _free_place(
    box: tuple[float, float, float, float], size: tuple[int, int], taken: Sequence[Place], frame: tuple[int, int]
) -> Place | None:
    """The first place above, below or inside a box that is free; None where the box is outside of the frame."""
    left, top, width, height = (int(value) for value in np.clip(box, -MAX_COORDINATE, MAX_COORDINATE))
    if left >= frame[0] or top >= frame[1] or left + width <= 0 or top + height <= 0:
        return None
    tops = (top - size[1], top + height, top + 1, top + height - size[1] - 1)
    lefts = (left, left + width - size[0])
    places = [_inside(x, y, size, frame) for y in tops for x in lefts]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _inside(left: int, top: int, size: tuple[int, int], frame: tuple[int, int]) -> Place:
    """A place of `size` (width, height) that is moved into the frame (width, height)."""
    left, top = max(0, min(left, frame[0] - size[0])), max(0, min(top, frame[1] - size[1]))
    return left, top, min(frame[0], left + size[0]), min(frame[1], top + size[1])


def _overlap(one: Place, other: Place) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_label(frame_HWC: np.ndarray, ink_HW: np.ndarray, place: Place, ground: Colour) -> None:
    """Text in black or white, whichever has more contrast, on a ground of the class's colour."""
    left, top, right, bottom = place
    ink = 0 if np.dot(ground, (0.299, 0.587, 0.114)) > 110 else 255
    frame_HWC[top:bottom, left:right] = ground
    rows, columns = bottom - top, min(ink_HW.shape[1], right - left - 2)
    share_HW1 = ink_HW[:rows, :columns, None] / 255
    part_HWC = frame_HWC[top:bottom, left + 2 : left + 2 + columns]
    part_HWC[:] = np.rint(part_HWC * (1 - share_HW1) + share_HW1 * ink)


def _to_pixel(x: float, y: float) -> tuple[int, int]:
    across, down = np.clip(np.rint((x, y)), -MAX_COORDINATE, MAX_COORDINATE).astype(int).tolist()
    return across, down
