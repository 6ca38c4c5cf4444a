"""Compare what moves in two clips, after their pictures are laid over each other.

A static scene looks the same in different clips of one camera. So each pixel's mean over the compared time is
subtracted, and the rest, which is what moves, is correlated over pixels and frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from finetune.video.grey_frames import GreyFrames
from finetune.video.still_edges import Window

SPEEDS = (1.0, 0.8, 1.25)
CELLS = 24  # rows and columns of the compared pictures
MIN_SHARED = 0.3  # of the picture
MIN_OVERLAP_SECONDS, MIN_OVERLAP_SHARE, MIN_OVERLAP_FRAMES = 1.0, 0.4, 6
_COARSE_STEP, _FINE_STEPS = 0.2, (-0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15)  # seconds
_ITERATIONS, _MIN_STEP = 40, 1e-3  # of the registration
_TEXTURE_LEVELS = 4  # grey levels
_REGISTRATION_BLUR = 3  # pixels, the side of the filter
_MIN_COARSE = 0.3  # correlation; a lower one is not refined
_UNCERTAIN = (0.5, 0.95)  # correlations after which the pictures are registered again
_WEAK_EDGE = 4.0  # grey levels per pixel; an edge of this strength gets length 0.5
Affine = np.ndarray  # float64 (2, 3): from shares of the picture (x, y) of a part to those of the whole


@dataclass(frozen=True)
class MotionMatch:
    """The best alignment in time: second t of the part shows second `speed` · t + `shift` of the whole."""

    correlation: float  # -1 to 1
    speed: float = 1.0
    shift: float = 0.0
    frames: int = 0  # that overlap
    motion: float = 0.0  # grey levels: standard deviation over time of the pixels that move most, in the calmer clip
    same_edges: float = -1.0  # how well edges of the mean pictures agree, -1 to 1


def window_affine(window: Window) -> Affine:
    left, top, right, bottom = window
    return np.array([[right - left, 0, left], [0, bottom - top, top]], np.float64)


def scene_texture(frames_TSS: np.ndarray) -> float:
    """The share of the pixels (S, S) of what stays in frames (T, S, S) that differ clearly from those around them."""
    scene_SS = np.median(frames_TSS.astype(np.float32), axis=0)
    return float((np.abs(scene_SS - cv2.blur(scene_SS, (5, 5))) > _TEXTURE_LEVELS).mean())


def register(whole_SS: np.ndarray, part_SS: np.ndarray, start: Affine) -> Affine | None:
    """The affine map that lays two pictures over each other, from a first guess; None where none is found.

    Maximizes the correlation of the pictures (Evangelidis and Psarakis, "Parametric image alignment using enhanced
    correlation coefficient maximization", PAMI 2008).
    """
    side = part_SS.shape[0]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _MIN_STEP)
    try:
        _, in_pixels = cv2.findTransformECC(
            part_SS.astype(np.float32),
            whole_SS.astype(np.float32),
            _to_pixels(start, side).astype(np.float32),
            cv2.MOTION_AFFINE,
            criteria,
            np.full((side, side), 255, np.uint8),
            _REGISTRATION_BLUR,
        )
    except cv2.error:  # no correlation is left to follow
        return None
    return _from_pixels(in_pixels.astype(np.float64), side)


def _to_pixels(affine: Affine, side: int) -> Affine:
    linear = affine[:, :2]
    return np.hstack([linear, (side * affine[:, 2] + linear.sum(1) / 2 - 0.5)[:, None]])


def _from_pixels(affine: Affine, side: int) -> Affine:
    linear = affine[:, :2]
    return np.hstack([linear, ((affine[:, 2] - linear.sum(1) / 2 + 0.5) / side)[:, None]])


def _shared_pixels(whole_TSS: np.ndarray, part_TSS: np.ndarray, affine: Affine) -> tuple[np.ndarray, np.ndarray] | None:
    """The pictures (T, C) of both where they show the same area, at most CELLS² values each; None if that is small."""
    side = part_TSS.shape[1]
    cells = min(CELLS, side)
    in_pixels = _to_pixels(affine, side)
    shared_cells = _shrink((_warp(np.ones((side, side)), in_pixels) > 0.99).astype(np.float32), cells) > 0.99
    if shared_cells.mean() < MIN_SHARED:
        return None
    wholes = np.stack([_shrink(_warp(picture, in_pixels), cells)[shared_cells] for picture in whole_TSS])
    parts = np.stack([_shrink(picture, cells)[shared_cells] for picture in part_TSS.astype(np.float32)])
    return wholes, parts


def _shrink(picture_SS: np.ndarray, cells: int) -> np.ndarray:
    return cv2.resize(picture_SS, (cells, cells), interpolation=cv2.INTER_AREA)


def cut_to_box(clip: GreyFrames, box: Window) -> GreyFrames:
    """The part of the frames that a box covers, at the size of the whole."""
    side = clip.frames_TSS.shape[1]
    left, top, right, bottom = (round(edge * side) for edge in box)
    pictures = [cv2.resize(picture_SS[top:bottom, left:right], (side, side)) for picture_SS in clip.frames_TSS]
    return GreyFrames(np.stack(pictures), clip.times_T)


def frame_correlation(whole_TSS: np.ndarray, part_TSS: np.ndarray, affine: Affine) -> tuple[float, float]:
    """How well what moves agrees in a few frames: the best of all pairs of frames, and of all frames in order, -1 to 1.

    In order, a frame of the part is compared with the one that is a fixed number of frames earlier or later.
    """
    shared = _shared_pixels(whole_TSS, part_TSS, affine)
    if shared is None:
        return -1.0, -1.0
    wholes_TC, parts_TC = shared
    one, other = (pixels_TC - pixels_TC.mean(0) for pixels_TC in shared)
    lengths = np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    in_order, number = -1.0, len(one)
    for shift in range(1 - number, number):
        numbers = np.arange(max(0, shift), min(number, number + shift))
        if len(numbers) >= 3:
            in_order = max(in_order, _correlation(wholes_TC[numbers], parts_TC[numbers - shift]))
    return float((one @ other.T / np.maximum(lengths, 1e-6)).max()), in_order


def match_motion(whole: GreyFrames, part: GreyFrames, affine: Affine) -> tuple[MotionMatch, Affine]:
    """The best alignment of two clips in time, and in space, starting from `affine`."""
    best = _search_shifts(whole, part, affine)
    if _UNCERTAIN[0] <= best.correlation < _UNCERTAIN[1]:
        refined = register(*_mean_pictures(whole, part, best), affine)
        again = MotionMatch(-1.0) if refined is None else _search_shifts(whole, part, refined)
        if refined is not None and again.correlation > best.correlation:
            best, affine = again, refined
    if best.frames:
        best = replace(best, same_edges=_edge_agreement(*_mean_pictures(whole, part, best), affine))
    return best, affine


def _search_shifts(whole: GreyFrames, part: GreyFrames, affine: Affine) -> MotionMatch:
    """The best alignment in time. Shorter overlaps than MIN_OVERLAP_SECONDS and so on are not considered."""
    shared = _shared_pixels(whole.frames_TSS, part.frames_TSS, affine)
    if shared is None:
        return MotionMatch(-1.0)
    best = MotionMatch(-1.0)
    for coarse in _coarse_matches(whole, part, shared):
        fine = [_match_at(whole, part, shared, (coarse.speed, coarse.shift + step)) for step in _FINE_STEPS]
        best = max([best, *fine], key=lambda found: found.correlation)
    return best


def _coarse_matches(
    whole: GreyFrames, part: GreyFrames, shared: tuple[np.ndarray, np.ndarray]
) -> Iterator[MotionMatch]:
    """The best shift for each speed, by frames without interpolation.

    All correlations follow from the products of all pairs of frames, whose block sums give those of means.
    """
    wholes_TC, parts_TC = (pixels_TC - pixels_TC.mean(0) for pixels_TC in shared)
    grams = [wholes_TC @ parts_TC.T, wholes_TC @ wholes_TC.T, parts_TC @ parts_TC.T]
    sums = [np.pad(gram.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1) for gram in grams]
    step, number = _step(whole), len(whole.times_T)
    for speed in SPEEDS:
        best, min_frames = MotionMatch(-1.0), _min_overlap(whole, part, speed)
        low, high = whole.times_T[0] - speed * part.times_T[-1], whole.times_T[-1] - speed * part.times_T[0]
        for shift in np.arange(low, high, _COARSE_STEP):
            places = np.rint((speed * part.times_T + shift - whole.times_T[0]) / step).astype(int)
            frames = np.flatnonzero((places >= 0) & (places < number))
            if len(frames) < min_frames:
                continue
            places = places[frames]
            first = (places[0], places[-1] + 1), (frames[0], frames[-1] + 1)
            product, one, other = (
                gram[rows, columns].sum() - len(frames) * _block_mean(total, *block)
                for gram, total, rows, columns, block in (
                    (grams[0], sums[0], places, frames, first),
                    (grams[1], sums[1], places, places, (first[0], first[0])),
                    (grams[2], sums[2], frames, frames, (first[1], first[1])),
                )
            )
            correlation = float(product / np.sqrt(max(one * other, 1e-6)))
            if correlation > best.correlation:
                best = MotionMatch(correlation, speed, float(shift), len(frames))
        if best.correlation >= _MIN_COARSE:
            yield best


def _block_mean(sums: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> float:
    """The mean of a block of a matrix, by its sums over all blocks that start in its first row and column."""
    (top, bottom), (left, right) = rows, columns
    total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return total / ((bottom - top) * (right - left))


def _match_at(
    whole: GreyFrames, part: GreyFrames, shared: tuple[np.ndarray, np.ndarray], speed_and_shift: tuple[float, float]
) -> MotionMatch:
    """The correlation of two clips at one alignment; between two frames of the whole, they are interpolated."""
    speed, shift = speed_and_shift
    places = (speed * part.times_T + shift - whole.times_T[0]) / _step(whole)
    inside = np.flatnonzero((places > -0.01) & (places < len(whole.times_T) - 0.99))
    if len(inside) < _min_overlap(whole, part, speed):
        return MotionMatch(-1.0, speed, shift)
    wholes_TC, parts_TC = shared
    before = np.clip(places[inside].astype(int), 0, max(0, len(wholes_TC) - 2))
    weight = (places[inside] - before).astype(np.float32)[:, None]
    after = np.minimum(before + 1, len(wholes_TC) - 1)
    one = (1 - weight) * wholes_TC[before] + weight * wholes_TC[after]
    other = parts_TC[inside]
    motion = min(float(np.quantile(pixels_TC.std(0), 0.98)) for pixels_TC in (one, other))
    return MotionMatch(_correlation(one, other), speed, shift, len(inside), motion)


def _min_overlap(whole: GreyFrames, part: GreyFrames, speed: float) -> int:
    """The least number of frames of the part that must lie in the whole."""
    shorter = min(len(whole.times_T) * _step(whole) / speed, len(part.times_T) * _step(part))
    seconds = max(min(MIN_OVERLAP_SECONDS, 0.8 * shorter), MIN_OVERLAP_SHARE * shorter)
    return max(MIN_OVERLAP_FRAMES, round(seconds / _step(part)))


def _step(clip: GreyFrames) -> float:
    return float(clip.times_T[1] - clip.times_T[0]) if len(clip.times_T) > 1 else 1.0


def _mean_pictures(whole: GreyFrames, part: GreyFrames, match: MotionMatch) -> tuple[np.ndarray, np.ndarray]:
    """The mean pictures (S, S) of both clips over the time that they share."""
    in_whole = match.speed * part.times_T + match.shift
    times = in_whole[(in_whole >= whole.times_T[0] - 0.01) & (in_whole <= whole.times_T[-1] + 0.01)]
    low, high = times[0] - 0.01, times[-1] + 0.01
    wholes = whole.frames_TSS[(whole.times_T >= low) & (whole.times_T <= high)]
    parts = part.frames_TSS[(in_whole >= low) & (in_whole <= high)]
    return (wholes if len(wholes) else whole.frames_TSS).mean(0), parts.mean(0)


def _edge_agreement(whole_SS: np.ndarray, part_SS: np.ndarray, affine: Affine) -> float:
    """The mean cosine of the gradients of two pictures where they show the same area, weighted by their strength."""
    side = part_SS.shape[0]
    in_pixels = _to_pixels(affine, side)
    fields = []
    for picture_SS in (_warp(whole_SS, in_pixels), part_SS):
        down, right = np.gradient(_shrink(picture_SS.astype(np.float32), side // 2))
        fields.append(np.stack([down, right]) / (np.hypot(down, right) + _WEAK_EDGE))
    shared = _shrink(_warp(np.ones_like(part_SS), in_pixels), side // 2) > 0.99
    one, other = (field[:, shared] for field in fields)
    return float((one * other).sum() / max(np.sqrt((one**2).sum() * (other**2).sum()), 1e-6))


def _warp(picture_SS: np.ndarray, in_pixels: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture_SS.astype(np.float32), in_pixels, picture_SS.shape[::-1], flags=flags)


def _correlation(one_TC: np.ndarray, other_TC: np.ndarray) -> float:
    """The correlation of what moves in two clips, over pixels and frames."""
    one, other = one_TC - one_TC.mean(0), other_TC - other_TC.mean(0)
    return float(np.vdot(one, other) / max(np.sqrt(np.vdot(one, one) * np.vdot(other, other)), 1e-6))
