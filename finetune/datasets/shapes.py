"""Draw flat shapes on textured backgrounds, for generated data sets.

Angles are in radians, clockwise on the screen (y points down). Positions are pixel centres. All randomness comes from
the generator that is passed in.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike

BackgroundKind = Literal["gradient", "noise", "checks", "stripes", "blobs"]
SUBPIXEL_BITS = 4


def shape_mask(name: str, *, size: int, center: ArrayLike, radius: float, angle: float) -> np.ndarray:
    """The coverage of the shape, uint8 (size, size): 255 inside, antialiased at the edge.

    `center` is (x, y). `radius`, in pixels, is the distance from the centroid to the farthest point. Parts outside the
    picture are cut off.
    """
    outlines = _place(name, center=center, radius=radius, angle=angle)
    contours = [np.rint(outline * (1 << SUBPIXEL_BITS)).astype(np.int32) for outline in outlines]
    mask = np.zeros((size, size), np.uint8)
    return cv2.fillPoly(mask, contours, 255, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)


def _place(name: str, *, center: ArrayLike, radius: float, angle: float) -> list[np.ndarray]:
    """The shape's outlines (points, 2), turned, scaled and moved."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return [outline @ turn.T * radius + center for outline in OUTLINES[name]]


def paint(frame_HWC: np.ndarray, mask_HW: np.ndarray, *, color: ArrayLike) -> None:
    """Blend one RGB colour into the frame, uint8 (H, W, 3), in place, with the mask, uint8 (H, W), as opacity."""
    x, y, width, height = cv2.boundingRect(mask_HW)
    part = frame_HWC[y : y + height, x : x + width]
    cover = mask_HW[y : y + height, x : x + width, None].astype(np.float32) / 255
    part[:] = np.rint(part * (1 - cover) + np.asarray(color, np.float32) * cover)


def mask_box(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) in pixels of what the mask, uint8 (H, W), covers at least half; zeros if it is empty."""
    x, y, width, height = cv2.boundingRect((mask_HW >= 128).astype(np.uint8))
    return int(x), int(y), int(width), int(height)


def outline_box(
    name: str, *, size: int, center: ArrayLike, radius: float, angle: float
) -> tuple[float, float, float, float]:
    """The box (x, y, width, height) around the shape that `shape_mask` draws, finer than a pixel.

    It is cut off at the picture's edges; width or height are 0 outside. OpenCV paints half a pixel around an outline.
    """
    (outline, *_) = _place(name, center=center, radius=radius, angle=angle)
    start, end = np.clip([outline.min(0), outline.max(0) + 1], 0, size)
    return float(start[0]), float(start[1]), float(end[0] - start[0]), float(end[1] - start[1])


def background_colors(rng: np.random.Generator) -> np.ndarray:
    """Two RGB colours (2, 3), 0 to 255, similar enough for a third colour to contrast with both."""
    first = rng.uniform(20, 235, 3)
    return np.stack([first, np.clip(first + rng.uniform(-60, 60, 3), 5, 250)])


def contrasting_color(rng: np.random.Generator, others: np.ndarray, *, distance: float = 120) -> np.ndarray:
    """A colour (3,) at least `distance` (RGB, Euclidean) from the others (N, 3), and lighter or darker by 40.

    The difference in brightness is needed because video codecs store colour at a quarter of the resolution.
    """
    luma = np.array([0.299, 0.587, 0.114])
    others = np.concatenate([others, others.mean(0, keepdims=True)])
    while True:
        color = rng.uniform(5, 250, 3)
        far = np.linalg.norm(others - color, axis=1).min() >= distance
        if far and np.abs((others - color) @ luma).min() >= 40:
            return color


def draw_background(rng: np.random.Generator, colors: np.ndarray, *, size: int) -> np.ndarray:
    """A picture, uint8 (size, size, 3), that mixes two colours (2, 3) in a pattern, with light from one side."""
    kind = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    mix = BACKGROUNDS[kind](rng, size)[..., None].astype(np.float32)
    light = 1 + rng.uniform(0, 0.15) * (_ramp(rng, size)[..., None].astype(np.float32) - 0.5)
    first, second = colors.astype(np.float32)
    return np.clip((first + (second - first) * mix) * light, 0, 255).astype(np.uint8)


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[:size, :size] / (size - 1) - 0.5
    ramp = xs * np.cos(angle) + ys * np.sin(angle)
    return (ramp - ramp.min()) / np.ptp(ramp)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = int(rng.integers(4, 33))
    grid = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi / 2), rng.uniform(8, 24)
    ys, xs = np.mgrid[:size, :size] + rng.uniform(0, period)
    across = xs * np.cos(angle) + ys * np.sin(angle)
    along = ys * np.cos(angle) - xs * np.sin(angle)
    return (np.floor(across / period) + np.floor(along / period)) % 2


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 32)
    ys, xs = np.mgrid[:size, :size]
    wave = np.sin((xs * np.cos(angle) + ys * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 2 * np.pi))
    return np.clip(0.5 + wave * rng.uniform(0.5, 3), 0, 1)


def _blobs(rng: np.random.Generator, size: int) -> np.ndarray:
    mix = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(4, 12)):
        center = [int(at) for at in rng.integers(0, size, 2)]
        cv2.circle(mix, center, int(rng.integers(4, size // 5)), float(rng.uniform(0.3, 1)), thickness=-1)
    return cv2.GaussianBlur(mix, (0, 0), float(rng.uniform(1, 6)))


BACKGROUNDS: dict[BackgroundKind, Callable[[np.random.Generator, int], np.ndarray]] = {
    "gradient": _ramp,
    "noise": _noise,
    "checks": _checks,
    "stripes": _stripes,
    "blobs": _blobs,
}


def _arc(start: float, stop: float, *, radius: float = 1, center: tuple[float, float] = (0, 0)) -> np.ndarray:
    angles = np.radians(np.linspace(start, stop, 33))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + center


def _regular(corners: int, *, inner: float | None = None) -> np.ndarray:
    """A regular polygon; with `inner`, a star whose notches lie at that radius."""
    count = corners if inner is None else 2 * corners
    angles = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radii = np.ones(count) if inner is None else np.where(np.arange(count) % 2, inner, 1)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 65)[:-1]
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], 1)


def _centered(*contours: Sequence[Sequence[float]] | np.ndarray) -> tuple[np.ndarray, ...]:
    """Move the first contour's centroid to the origin, and scale its farthest point to radius 1."""
    arrays = [np.asarray(contour, np.float64) for contour in contours]
    moments = cv2.moments((arrays[0] * 1000).astype(np.float32))
    middle = np.array([moments["m10"], moments["m01"]]) / moments["m00"] / 1000
    reach = np.linalg.norm(arrays[0] - middle, axis=1).max()
    return tuple((array - middle) / reach for array in arrays)


# For each shape its outer contour, then its holes; upright, y pointing down.
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "arrow": _centered([(0, -5), (4, 0), (1.5, 0), (1.5, 5), (-1.5, 5), (-1.5, 0), (-4, 0)]),
    "heart": _centered(_heart()),
    "disc": _centered(_arc(0, 360)[:-1]),
    "square": _centered(_regular(4)),
    "triangle": _centered(_regular(3)),
    "hexagon": _centered(_regular(6)),
    "star": _centered(_regular(5, inner=0.42)),
    "ring": _centered(_arc(0, 360)[:-1], _arc(0, 360, radius=0.55)[:-1]),
    "cross": _centered(
        [
            (1, 3),
            (1, 1),
            (3, 1),
            (3, -1),
            (1, -1),
            (1, -3),
            (-1, -3),
            (-1, -1),
            (-3, -1),
            (-3, 1),
            (-1, 1),
            (-1, 3),
        ]
    ),
    "bolt": _centered([(1, -4), (-2.2, 0.6), (-0.2, 0.6), (-1, 4), (2.2, -0.6), (0.2, -0.6)]),
    "crescent": _centered(np.concatenate([_arc(40, 320), _arc(295, 65, radius=0.75, center=(0.42, 0))])),
    "drop": _centered(np.concatenate([[(0, -2.2)], _arc(-30, 210)])),
    "half_disc": _centered(_arc(0, 180)),
    "house": _centered([(-3, 3), (-3, -1), (0, -4), (3, -1), (3, 3)]),
    "key": _centered(
        np.concatenate([_arc(120, 420, radius=1.6, center=(0, -2.2)), [(0.8, 4), (-2, 4), (-2, 3), (-0.8, 3)]])
    ),
    "wedge": _centered(np.concatenate([[(0, 0)], _arc(35, 325)])),
    "spear": _centered([(0, -4), (2.4, 3), (0, 1.6), (-2.4, 3)]),
    "letter_e": _centered(
        [
            (-2, -3),
            (2, -3),
            (2, -1.8),
            (-0.7, -1.8),
            (-0.7, -0.6),
            (1.4, -0.6),
            (1.4, 0.6),
            (-0.7, 0.6),
            (-0.7, 1.8),
            (2, 1.8),
            (2, 3),
            (-2, 3),
        ]
    ),
    "letter_f": _centered(
        [
            (-2, -3),
            (2, -3),
            (2, -1.6),
            (-0.5, -1.6),
            (-0.5, -0.5),
            (1.3, -0.5),
            (1.3, 0.9),
            (-0.5, 0.9),
            (-0.5, 3),
            (-2, 3),
        ]
    ),
    "letter_l": _centered([(-2, -3), (-0.4, -3), (-0.4, 1.4), (2, 1.4), (2, 3), (-2, 3)]),
    "letter_t": _centered(
        [(-2.5, -3), (2.5, -3), (2.5, -1.4), (0.8, -1.4), (0.8, 3), (-0.8, 3), (-0.8, -1.4), (-2.5, -1.4)]
    ),
    "letter_y": _centered(
        [
            (-2.5, -3),
            (-0.9, -3),
            (0, -1.2),
            (0.9, -3),
            (2.5, -3),
            (0.8, 0.4),
            (0.8, 3),
            (-0.8, 3),
            (-0.8, 0.4),
        ]
    ),
}
