"""Find pairs of clips of which one may show the other, or a part of its picture: a search among small descriptors.

A descriptor holds the directions of a thumbnail's gradients, on a grid of 8 × 8. Those of five frames of every clip are
searched for those of whole frames, mirrored ones, and parts of the middle frame, as if it had been cropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from finetune.vector_index.nearest import nearest
from finetune.video.fingerprints import THUMBNAIL_SIDE, averaging_matrix
from finetune.video.still_edges import WHOLE_FRAME, Window

GRID = 8
MIN_SIMILARITY = 0.6  # cosine of two descriptors
MAX_PER_CLIP = 5  # pairs
_NEAREST_FRAMES = 24
_QUERY_BLOCK = 64  # clips
_WEAK_EDGE = 4.0  # grey levels; an edge of this strength gets length 0.5
_BLACK, _MIN_CONTENT = 24, 12  # grey levels of a bar at most; rows and columns of a picture between bars at least
_SHARES = (0.9, 0.8, 0.7)  # of the height and width that a crop keeps
_PLACES = ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))
WINDOWS: tuple[Window, ...] = (
    WHOLE_FRAME,
    *(
        (right * (1 - share), down * (1 - share), right * (1 - share) + share, down * (1 - share) + share)
        for share, (down, right) in product(_SHARES, _PLACES)
    ),
)
# (frame, window, mirrored) of each query
_QUERIES = [(2, window, mirrored) for window in WINDOWS for mirrored in (False, True)]
_QUERIES += [(frame, WHOLE_FRAME, mirrored) for frame in (1, 3) for mirrored in (False, True)]


@dataclass(frozen=True)
class Candidate:
    """Two clips, by position: `window` of the (mirrored) picture of `whole` looks like the picture of `part`.

    `frames` are the numbers, of five, of the frames of both that match best.
    """

    whole: int
    part: int
    window: Window
    mirrored: bool
    frames: tuple[int, int]
    similarity: float

    @property
    def pair(self) -> tuple[int, int]:
        return min(self.whole, self.part), max(self.whole, self.part)


def find_candidates(pictures_N5SS: np.ndarray, files_N: np.ndarray, compared: np.ndarray) -> list[Candidate]:
    """The most similar pairs of the clips `compared`, at most MAX_PER_CLIP for each; never of one number in `files_N`.

    `pictures_N5SS` are thumbnails without bars, see `content_box`.
    """
    if len(np.unique(files_N[compared])) < 2:
        return []
    vectors_FD = descriptors(pictures_N5SS[compared], WHOLE_FRAME).reshape(-1, 2 * GRID**2)
    files_F = np.repeat(files_N[compared], 5)
    best: dict[tuple[int, int], Candidate] = {}
    for start in range(0, len(compared), _QUERY_BLOCK):
        clips = compared[start : start + _QUERY_BLOCK]
        queries_BQD = np.stack([_query(pictures_N5SS[clips], *query) for query in _QUERIES], axis=1)
        found = nearest(
            vectors_FD,
            queries_BQD.reshape(-1, vectors_FD.shape[1]),
            top_k=min(_NEAREST_FRAMES, len(vectors_FD)),
            unit_ids=files_F,
            query_units=np.repeat(files_N[clips], len(_QUERIES)),
        )
        scores_BQK, rows_BQK = (each.reshape(*queries_BQD.shape[:2], -1) for each in (found.scores_QK, found.rows_QK))
        for clip, scores_QK, rows_QK in zip(clips.tolist(), scores_BQK, rows_BQK, strict=True):
            for candidate in _best_of_clip(clip, scores_QK, rows_QK, compared):
                known = best.get(candidate.pair)
                if known is None or known.similarity < candidate.similarity:
                    best[candidate.pair] = candidate
    return list(best.values())


def _query(pictures_N5SS: np.ndarray, frame: int, window: Window, mirrored: bool) -> np.ndarray:
    pictures_NSS = pictures_N5SS[:, frame]
    return descriptors(pictures_NSS[..., ::-1] if mirrored else pictures_NSS, window)


def _best_of_clip(clip: int, scores_QK: np.ndarray, rows_QK: np.ndarray, compared: np.ndarray) -> list[Candidate]:
    """The best match with each of the clips that are most similar to one."""
    chosen: dict[int, Candidate] = {}
    for place in np.argsort(-scores_QK, axis=None, kind="stable"):
        query, rank = divmod(int(place), scores_QK.shape[1])
        similarity = float(scores_QK[query, rank])
        if similarity < MIN_SIMILARITY or len(chosen) == MAX_PER_CLIP:
            break
        frame, window, mirrored = _QUERIES[query]
        other, other_frame = int(compared[rows_QK[query, rank] // 5]), int(rows_QK[query, rank] % 5)
        chosen.setdefault(other, Candidate(clip, other, window, mirrored, (frame, other_frame), similarity))
    return list(chosen.values())


def descriptors(pictures: np.ndarray, window: Window) -> np.ndarray:
    """Descriptors float32 (..., 2 · GRID²) of length 1 of a window of each thumbnail, (..., S, S)."""
    left, top, right, bottom = window
    down, across = (averaging_matrix(THUMBNAIL_SIDE, GRID + 1, part) for part in ((top, bottom), (left, right)))
    picture = down @ pictures.astype(np.float32) @ across.T
    vertical = (picture[..., 1:, :] - picture[..., :-1, :])[..., :-1]
    horizontal = (picture[..., 1:] - picture[..., :-1])[..., :-1, :]
    length = np.hypot(vertical, horizontal) + _WEAK_EDGE
    fields = np.stack([vertical / length, horizontal / length], axis=-1).reshape(*picture.shape[:-2], -1)
    return fields / np.maximum(np.linalg.norm(fields, axis=-1, keepdims=True), 1e-6)


def content_box(pictures_5SS: np.ndarray) -> Window:
    """The part of a clip's picture that is not covered by black bars at its sides."""
    brightest_SS = pictures_5SS.max(axis=0)
    edges = []
    for axis in (0, 1):
        lit = np.flatnonzero(np.quantile(brightest_SS, 0.9, axis=axis) > _BLACK)
        if not len(lit) or lit[-1] + 1 - lit[0] < _MIN_CONTENT:
            return WHOLE_FRAME
        # A row at the border of a bar is a mixture of both.
        first = lit[0] + (lit[0] > 0)
        last = lit[-1] + 1 - (lit[-1] + 1 < THUMBNAIL_SIDE)
        edges.append((first / THUMBNAIL_SIDE, last / THUMBNAIL_SIDE))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def without_bars(pictures_5SS: np.ndarray, box: Window) -> np.ndarray:
    """The part of thumbnails that a box covers, as thumbnails."""
    if box == WHOLE_FRAME:
        return pictures_5SS
    left, top, right, bottom = box
    down, across = (averaging_matrix(THUMBNAIL_SIDE, THUMBNAIL_SIDE, part) for part in ((top, bottom), (left, right)))
    return np.rint(down @ pictures_5SS.astype(np.float32) @ across.T).astype(np.uint8)


def known_pairs(pairs: Sequence[tuple[int, int, bool]]) -> list[Candidate]:
    """Candidates of pairs (one, other, mirrored) whose whole pictures look the same."""
    return [Candidate(one, other, WHOLE_FRAME, mirrored, (2, 2), 1.0) for one, other, mirrored in pairs]
