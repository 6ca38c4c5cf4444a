"""Find clips that are copies of others in spite of changes: encoded again, cropped, mirrored, later, faster, covered.

In three steps: a search for similar thumbnails; a comparison of what moves in five thumbnails; and, for the few pairs
that are left, a comparison of what moves in frames that are read anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.checks.copy_alignment import (
    Affine,
    MotionMatch,
    cut_to_box,
    frame_correlation,
    match_motion,
    register,
    scene_texture,
    window_affine,
)
from finetune.checks.copy_candidates import Candidate, content_box, find_candidates, known_pairs, without_bars
from finetune.errors import VideoError
from finetune.text import whole_percent
from finetune.video.fingerprints import near_duplicates
from finetune.video.grey_frames import MAX_SECONDS, GreyFrames, PartOfClip, read_grey_frames
from finetune.video.probe_files import ClipOfFile, FileInspection, Progress
from finetune.video.still_edges import WHOLE_FRAME, Window

MAX_CLIPS = 20_000  # with more, only fingerprints of first, middle and last frames are compared
# Chosen on one half of the groups of benchmarks/near_copies.py, which has the figures of the other half.
MIN_CORRELATION, MIN_EDGES = 0.87, 0.5
MIN_CORRELATION_OTHER_SPEED, MIN_EDGES_OTHER_SPEED = 0.94, 0.7
MIN_TEXTURE = 0.12  # in a plainer scene, such as drawn shapes before one colour, other clips move in the same way too
MIN_MOTION = 4.0  # grey levels; in a calmer clip noise hides whether it moves in the same way
_CORRELATION_OF_OTHERS = 0.6  # clips with the same three pictures that move less alike than this are no copies
_MIN_OF_PAIR, _MIN_IN_ORDER = 0.7, 0.55  # correlation in thumbnails, of the best pair or of all in order
_SAME_START = 0.1  # seconds; an earlier or later start is not mentioned
_MIN_SHARE = 0.65  # of height and width that a crop keeps; the search looks for 0.7
_FULL_SHARE = 0.95  # of height and width; less counts as cropped
_PARTS_AT_ONCE = 128  # parts of clips, each of at most 0.5 MB


@dataclass(frozen=True)
class NearCopy:
    """Two clips, by position, of which `part` shows `whole` or a part of its picture, and how they differ.

    `still`: their pictures are the same but hardly anything moves, so they may also be two takes of one scene.
    """

    whole: int
    part: int
    mirrored: bool = False
    still: bool = False
    shift_seconds: float = 0.0  # the time in `whole` at which the part starts; below 0 where it starts before
    speed: float = 1.0  # of the part, relative to the whole
    kept_share: float = 1.0  # of the height and width of the picture, where one is cropped from the other

    @property
    def changes(self) -> tuple[str, ...]:
        """How the two differ, in words."""
        texts = {
            "mirrored": self.mirrored,
            f"cropped to about {whole_percent(round(20 * self.kept_share) / 20)}": self.kept_share < _FULL_SHARE,
            f"shifted by {abs(self.shift_seconds):.1f} s": abs(self.shift_seconds) > _SAME_START,
            f"{max(self.speed, 1 / self.speed):.3g} × as fast": self.speed != 1,
        }
        return tuple(text for text, applies in texts.items() if applies)


@dataclass(frozen=True, eq=False)
class _Clips:
    """What is known of N clips: the files, thumbnails without bars, and where the bars end."""

    clips: Sequence[ClipOfFile]
    durations: Sequence[float]
    pictures_N5SS: np.ndarray
    boxes: Sequence[Window]


@dataclass(frozen=True)
class _LikelyPair:
    """A candidate, how its pictures lie over each other, and whether its first, middle and last frames are the same."""

    candidate: Candidate
    affine: Affine
    same_pictures: bool


def find_near_copies(
    clips: Sequence[ClipOfFile],
    inspections: Sequence[FileInspection],
    files_N: np.ndarray,
    *,
    reading: tuple[float, float],
    progress: Progress | None = None,
) -> list[NearCopy]:
    """Copies among N clips; those with one number in `files_N` are not compared with each other.

    Likely copies are read again: `reading` is the rate of images in folders, and the seconds without progress after
    which a file is given up. `progress` counts pairs.
    """
    if not clips:
        return []
    pictures_N5SS = np.stack([inspection.pictures_5SS for inspection in inspections])
    same_pictures = near_duplicates(pictures_N5SS[:, ::2], files_N)
    found = {(one, other): NearCopy(one, other, mirrored) for one, other, mirrored in same_pictures}
    moving = np.flatnonzero([inspection.info.num_frames > 1 for inspection in inspections])
    boxes = [content_box(pictures_5SS) for pictures_5SS in pictures_N5SS]
    known = _Clips(
        clips,
        [inspection.info.duration_seconds for inspection in inspections],
        np.stack([without_bars(*both) for both in zip(pictures_N5SS, boxes, strict=True)]),
        boxes,
    )
    likely, done = list(_likely_pairs(known, files_N, moving, same_pictures)), 0
    for block in _blocks(likely, known.durations):
        for pair, verdict in zip(block, _verdicts(block, known, reading), strict=True):
            found.pop(pair.candidate.pair, None)
            if verdict is not None:
                found[pair.candidate.pair] = verdict
            done += 1
            if progress is not None:
                progress(done, len(likely))
    return [found[pair] for pair in sorted(found)]


def _likely_pairs(
    known: _Clips, files_N: np.ndarray, moving: np.ndarray, same_pictures: Sequence[tuple[int, int, bool]]
) -> Iterator[_LikelyPair]:
    """Pairs of clips with several frames that may be copies, by their thumbnails."""
    is_moving = set(moving.tolist())
    compared = {pair[:2]: pair for pair in same_pictures if is_moving.issuperset(pair[:2])}
    for candidate in known_pairs(list(compared.values())):
        yield _LikelyPair(candidate, _compare_thumbnails(candidate, known.pictures_N5SS)[0], True)
    if len(moving) > MAX_CLIPS:
        return
    for candidate in find_candidates(known.pictures_N5SS, files_N, moving):
        if candidate.pair not in compared:
            affine, of_pair, in_order = _compare_thumbnails(candidate, known.pictures_N5SS)
            if of_pair >= _MIN_OF_PAIR or in_order >= _MIN_IN_ORDER:
                yield _LikelyPair(candidate, affine, False)


def _blocks(likely: Sequence[_LikelyPair], durations: Sequence[float]) -> Iterator[list[_LikelyPair]]:
    """Pairs that together need few parts of clips, as many as are in memory at once.

    Of a fixed camera all pairs of clips may look the same: by blocks of the table of pairs, few clips are read again.
    """
    side = max(1, _PARTS_AT_ONCE // 2)
    block: list[_LikelyPair] = []
    parts: set[tuple[int, float]] = set()
    for pair in sorted(likely, key=lambda pair: [clip // side for clip in pair.candidate.pair]):
        needed = set(_parts_to_read(pair.candidate, durations))
        if block and len(parts | needed) > _PARTS_AT_ONCE:
            yield block
            block, parts = [], set()
        block.append(pair)
        parts |= needed
    if block:
        yield block


def _compare_thumbnails(candidate: Candidate, pictures_N5SS: np.ndarray) -> tuple[Affine, float, float]:
    """How the pictures lie over each other, and how what moves in them correlates; see `frame_correlation`."""
    whole_5SS, part_5SS = pictures_N5SS[candidate.whole], pictures_N5SS[candidate.part]
    if candidate.mirrored:
        whole_5SS = whole_5SS[..., ::-1]
    start = window_affine(candidate.window)
    registered = register(whole_5SS[candidate.frames[0]], part_5SS[candidate.frames[1]], start)
    guesses = [start] if registered is None else [start, registered]
    compared = [(affine, *frame_correlation(whole_5SS, part_5SS, affine)) for affine in guesses]
    return max(compared, key=lambda each: max(each[1:]))


def _verdicts(pairs: Sequence[_LikelyPair], known: _Clips, reading: tuple[float, float]) -> Iterator[NearCopy | None]:
    """What each pair is, by frames that are read anew; None where it is no copy."""
    wanted: dict[tuple[int, float], None] = {}
    for pair in pairs:
        wanted |= dict.fromkeys(_parts_to_read(pair.candidate, known.durations))
    parts = [PartOfClip(known.clips[clip], start) for clip, start in wanted]
    image_rate, seconds = reading
    frames = dict(zip(wanted, read_grey_frames(parts, image_rate=image_rate, seconds=seconds), strict=True))
    for pair in pairs:
        whole, part = (
            _content(frames[wanted_part], known.boxes[wanted_part[0]])
            for wanted_part in _parts_to_read(pair.candidate, known.durations)
        )
        yield _verdict(pair, whole, part)


def _parts_to_read(candidate: Candidate, durations: Sequence[float]) -> list[tuple[int, float]]:
    """(clip, start in seconds) of the whole and of the part: of long clips what surrounds the matching frames."""
    parts = []
    for clip, frame in zip((candidate.whole, candidate.part), candidate.frames, strict=True):
        spare = max(0.0, durations[clip] - MAX_SECONDS)
        start = durations[clip] * frame / 4 - MAX_SECONDS / 2
        parts.append((clip, round(min(max(start, 0.0), spare), 2)))
    return parts


def _content(frames: GreyFrames | VideoError, box: Window) -> GreyFrames | VideoError:
    return frames if isinstance(frames, VideoError) or box == WHOLE_FRAME else cut_to_box(frames, box)


def _verdict(pair: _LikelyPair, whole: GreyFrames | VideoError, part: GreyFrames | VideoError) -> NearCopy | None:
    candidate = pair.candidate
    by_pictures = NearCopy(*candidate.pair, candidate.mirrored) if pair.same_pictures else None
    if isinstance(whole, VideoError) or isinstance(part, VideoError):
        return by_pictures
    if candidate.mirrored:
        whole = GreyFrames(np.ascontiguousarray(whole.frames_TSS[..., ::-1]), whole.times_T)
    match, affine = match_motion(whole, part, _registered(candidate, pair.affine, whole, part))
    if not match.frames:
        return by_pictures
    if match.motion < MIN_MOTION:
        return None if by_pictures is None else replace(by_pictures, still=True)
    if not _is_copy(match):
        return by_pictures if match.correlation >= _CORRELATION_OF_OTHERS else None
    if by_pictures is None and min(map(scene_texture, (whole.frames_TSS, part.frames_TSS))) < MIN_TEXTURE:
        return None
    share = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    share = min(share, 1 / share)
    if share < _MIN_SHARE:
        return by_pictures
    return NearCopy(
        candidate.whole,
        candidate.part,
        candidate.mirrored,
        shift_seconds=round(match.shift, 2),
        speed=match.speed,
        kept_share=share,
    )


def _registered(candidate: Candidate, affine: Affine, whole: GreyFrames, part: GreyFrames) -> Affine:
    """The pictures of the matching frames laid over each other more precisely, where that succeeds."""
    whole_SS, part_SS = (
        clip.frames_TSS[round(frame / 4 * (len(clip.times_T) - 1))]
        for clip, frame in zip((whole, part), candidate.frames, strict=True)
    )
    registered = register(whole_SS, part_SS, affine)
    return affine if registered is None else registered


def _is_copy(match: MotionMatch) -> bool:
    correlation, edges = MIN_CORRELATION, MIN_EDGES
    if match.speed != 1:
        correlation, edges = MIN_CORRELATION_OTHER_SPEED, MIN_EDGES_OTHER_SPEED
    return match.correlation >= correlation and match.same_edges >= edges
