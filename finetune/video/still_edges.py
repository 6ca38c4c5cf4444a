"""Static edges of a clip, on one grid for clips of any size: where the picture has an edge that does not move.

The median over frames of the image gradient keeps static edges and drops moving ones (Weiss, "Deriving intrinsic images
from image sequences", ICCV 2001).
"""

from collections.abc import Sequence

import numpy as np

Window = tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture, 0 to 1
WHOLE_FRAME: Window = (0.0, 0.0, 1.0, 1.0)
_BLUR = 1.0  # standard deviation in grid points, so that edges one grid point apart still agree
_NOISE = 2.0  # grey levels per grid point; an edge of this strength gets length 0.5
_RED_GREEN_BLUE = np.array([0.299, 0.587, 0.114], np.float32)


def to_grey(frames_T3HW: np.ndarray) -> np.ndarray:
    """Grey uint8 (T, H, W) from RGB uint8 (T, 3, H, W)."""
    return np.rint(np.einsum("c,tchw->thw", _RED_GREEN_BLUE, frames_T3HW.astype(np.float32))).astype(np.uint8)


def still_edges(frames_3HW: np.ndarray, *, window: Window, grid: tuple[int, int]) -> np.ndarray:
    """Two fields of edge vectors (down, right), float16 (2, 2, rows, columns), of length 0 (no edge) to 1 (strong).

    `frames_3HW` are three grey frames; `window` is the part of the picture that the `grid` of (rows, columns) covers.
    The vectors of the first field point to the lighter side. Those of the second have twice the angle, so that an edge
    of a mark is the same on a lighter and on a darker background.
    """
    first, middle, last = (_edges(_sample_window(frame_HW.astype(np.float32), window, grid)) for frame_HW in frames_3HW)
    median = np.maximum(np.minimum(first, middle), np.minimum(np.maximum(first, middle), last))
    return median.astype(np.float16)


def _edges(picture_HW: np.ndarray) -> np.ndarray:
    down_HW, right_HW = np.gradient(picture_HW)
    length_HW = np.hypot(down_HW, right_HW)
    signed = np.stack([down_HW, right_HW]) / (length_HW + _NOISE)
    unsigned = np.stack([signed[0] * down_HW - signed[1] * right_HW, 2 * signed[0] * right_HW]) / (length_HW + 1e-6)
    return np.stack([signed, unsigned])


def mean_picture(jpegs: Sequence[bytes], windows: Sequence[Window], *, grid: tuple[int, int]) -> np.ndarray:
    """The mean RGB picture, uint8 (3, rows, columns), of the part of each JPEG that its window covers."""
    import cv2  # slow to import

    total_HW3 = np.zeros((*grid, 3))
    for jpeg, window in zip(jpegs, windows, strict=True):
        picture_HW3 = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture_HW3 is not None
        total_HW3 += _sample_window(picture_HW3.astype(np.float32), window, grid, blur=0.5)
    return np.rint(total_HW3 / len(jpegs)).astype(np.uint8)[:, :, ::-1].transpose(2, 0, 1)


def _sample_window(picture: np.ndarray, window: Window, grid: tuple[int, int], *, blur: float = _BLUR) -> np.ndarray:
    """The part of a picture (H, W, ...) that a window covers, sampled on a grid; `blur` is in grid points."""
    import cv2

    (height, width), (rows, columns) = picture.shape[:2], grid
    left, top, right, bottom = window
    step_y, step_x = (bottom - top) * height / rows, (right - left) * width / columns
    blurred = cv2.GaussianBlur(picture, (0, 0), sigmaX=blur * step_x, sigmaY=blur * step_y)
    to_picture = np.array(
        [[step_x, 0, left * width + (step_x - 1) / 2], [0, step_y, top * height + (step_y - 1) / 2]], np.float64
    )
    return cv2.warpAffine(
        blurred,
        to_picture,
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
