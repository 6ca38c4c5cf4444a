"""Which detections of a recording's frames are the same object.

As in ByteTrack (arXiv:2110.06864): detections with a high score are assigned to the tracks whose predicted boxes they
overlap most, then those with a low score to the tracks that are left. A track's box is predicted from its last ones by
a constant velocity, in which the motion that the network predicts counts too.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from finetune.metrics.boxes import box_iou_matrix
from finetune.metrics.detection import DEFAULT_SCORE_THRESHOLD
from finetune.recipe.object_fields import DETECTION_FIELDS

LOW_SCORE_SHARE = 0.3  # of the score that begins a track: the one from which a detection continues a track
MIN_IOU = 0.15  # of a detection and the predicted box of its track
OTHER_CLASS_FACTOR = 0.5  # of the IoU with a track of another class: a class may change from frame to frame
DUPLICATE_IOU = 0.5  # with a detection that has a track: the same object, detected twice or as another class too
MAX_LOST_FRAMES = 30  # without a detection, after which a track ends
# The least gains by which a detection corrects box and velocity. The first detections of a track have larger ones: then
# its velocity is that of a line fitted to them.
MIN_BOX_GAIN, MIN_VELOCITY_GAIN = 0.65, 0.1
MOTION_WEIGHT = 0.5  # of the predicted motion in the velocity
LOOKAHEAD = 25  # frames
VOTES_KEPT = 100  # of ended tracks, before they are forgotten
NO_TRACK = -1
_SCORE, _CLASS = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")
_BOX, _MOTION = slice(0, 4), slice(6, 8)


class TrackedFrame(NamedTuple):
    """Detections of a frame (D, 8), see DETECTION_FIELDS, and their identities (D,), NO_TRACK where there is none."""

    frame: int
    detections_D8: np.ndarray
    tracks_D: np.ndarray


def track_frames(
    frames: Iterable[tuple[int, np.ndarray]], *, score: float = DEFAULT_SCORE_THRESHOLD
) -> Iterator[TrackedFrame]:
    """The identities of the detections (D, 8), in pixels, of frames of one recording, whose numbers rise.

    Each frame is given once LOOKAHEAD later ones are known. An object that is not detected again in the next frame has
    no identity yet, except in the first frame. Detections of a track get its class: the one with the largest sum of
    scores up to the latest frame that is known.
    """
    tracker = Tracker(score=score)
    votes: dict[int, Counter[float]] = defaultdict(Counter)  # by track: the sum of the scores of each class
    known: deque[TrackedFrame] = deque()
    for frame, detections_D8 in frames:
        tracks_D = tracker.update(detections_D8, frame)
        for track, detection_8 in zip(tracks_D.tolist(), detections_D8, strict=True):
            if track != NO_TRACK:
                votes[track][detection_8[_CLASS]] += detection_8[_SCORE]
        if known:
            known[-1] = tracker.drop_unconfirmed(known[-1])
        if len(known) >= LOOKAHEAD:
            yield _with_track_classes(known.popleft(), votes)
        known.append(TrackedFrame(frame, detections_D8, tracks_D))
        if len(votes) > 2 * len(needed := _tracks_in_use(tracker, known)) + VOTES_KEPT:
            votes = defaultdict(Counter, {track: votes[track] for track in needed})
    if known:
        tracker.update(np.zeros((0, len(DETECTION_FIELDS))), known[-1].frame + 1)
        known[-1] = tracker.drop_unconfirmed(known[-1])
    yield from (_with_track_classes(tracked, votes) for tracked in known)


def _tracks_in_use(tracker: "Tracker", known: Iterable[TrackedFrame]) -> set[int]:
    """The tracks that have not ended, and those of frames that are not given yet."""
    tracks = {int(track) for tracked in known for track in tracked.tracks_D}
    return (tracks | {track.number for track in tracker.tracks}) - {NO_TRACK}


def _with_track_classes(tracked: TrackedFrame, votes: Mapping[int, Counter[float]]) -> TrackedFrame:
    detections_D8 = tracked.detections_D8.copy()
    for row in np.flatnonzero(tracked.tracks_D != NO_TRACK):
        detections_D8[row, _CLASS] = votes[int(tracked.tracks_D[row])].most_common(1)[0][0]
    return tracked._replace(detections_D8=detections_D8)


@dataclass
class _Track:
    number: int
    frame: int  # of its last detection
    class_index: float
    box_4: np.ndarray  # left, top, width, height in pixels
    is_confirmed: bool
    count: int = 1  # detections
    velocity_2: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels per frame

    def box_at(self, frame: int) -> np.ndarray:
        return self.box_4 + np.append(self.velocity_2 * (frame - self.frame), (0.0, 0.0))

    def add(self, detection_8: np.ndarray, frame: int) -> None:
        """Correct the box and the velocity by a detection (8,), as an alpha-beta filter does."""
        self.count += 1
        pairs = self.count * (self.count + 1)
        predicted_4 = self.box_at(frame)
        error_4 = detection_8[_BOX] - predicted_4
        centre_error_2 = error_4[:2] + error_4[2:] / 2
        self.box_4 = predicted_4 + max(MIN_BOX_GAIN, (4 * self.count - 2) / pairs) * error_4
        gain = max(MIN_VELOCITY_GAIN, 6 / pairs) / (frame - self.frame)
        self.velocity_2 = self.velocity_2 + gain * centre_error_2
        self.move_as(detection_8[_MOTION], MOTION_WEIGHT)
        self.frame, self.class_index, self.is_confirmed = frame, detection_8[_CLASS], True

    def move_as(self, motion_2: np.ndarray, weight: float) -> None:
        if np.isfinite(motion_2).all():
            self.velocity_2 = self.velocity_2 + weight * (motion_2 - self.velocity_2)


class Tracker:
    """Gives detections of one recording identities, one frame after the other."""

    def __init__(self, *, score: float = DEFAULT_SCORE_THRESHOLD) -> None:
        self.score = score
        self.count = 0  # of tracks so far
        self.tracks: list[_Track] = []  # that have not ended
        self.confirmed: list[int] = []  # tracks of the frame before the last one that have a second detection
        self.has_begun = False

    def update(self, detections_D8: np.ndarray, frame: int) -> np.ndarray:
        """The identities (D,) of a frame's detections, from 0, NO_TRACK where there is none; frame numbers rise.

        Tracks that begin in this frame have one too; once the next frame is known, `drop_unconfirmed` removes it from
        those that did not continue.
        """
        scores_D = detections_D8[:, _SCORE]
        is_high_D = scores_D >= self.score
        is_low_D = (scores_D >= LOW_SCORE_SHARE * self.score) & ~is_high_D
        tracks_D, unassigned = np.full(len(detections_D8), NO_TRACK), self.tracks
        for is_chosen_D in (is_high_D, is_low_D):
            rows_R = np.flatnonzero(is_chosen_D)
            for track, place in _assign(unassigned, detections_D8[rows_R], frame):
                track.add(detections_D8[rows_R[place]], frame)
                tracks_D[rows_R[place]] = track.number
            unassigned = [track for track in unassigned if track.frame < frame]
        self.confirmed = [track.number for track in self.tracks if track.is_confirmed]
        self.tracks = [track for track in self.tracks if track.is_confirmed and frame - track.frame <= MAX_LOST_FRAMES]
        self._begin_tracks(detections_D8, is_high_D, tracks_D, frame)
        return tracks_D

    def drop_unconfirmed(self, tracked: TrackedFrame) -> TrackedFrame:
        """The frame before the last one of `update`, without the identities of tracks that did not continue."""
        is_confirmed_D = np.isin(tracked.tracks_D, self.confirmed)
        return tracked._replace(tracks_D=np.where(is_confirmed_D, tracked.tracks_D, NO_TRACK))

    def _begin_tracks(self, detections_D8: np.ndarray, is_high_D: np.ndarray, tracks_D: np.ndarray, frame: int) -> None:
        """Begin a track with each detection (8,) of a high score that is no object with a track; fills `tracks_D`."""
        for row in np.flatnonzero(is_high_D & (tracks_D == NO_TRACK)):
            if is_duplicate(detections_D8[row], detections_D8[tracks_D != NO_TRACK]):
                continue
            track = _Track(self.count, frame, detections_D8[row, _CLASS], detections_D8[row, _BOX], not self.has_begun)
            track.move_as(detections_D8[row, _MOTION], 1.0)
            self.tracks.append(track)
            tracks_D[row] = track.number
            self.count += 1
        self.has_begun = True


def is_duplicate(detection_8: np.ndarray, tracked_T8: np.ndarray) -> bool:
    """Whether a detection (8,) shows the same object as one of those that have a track (T, 8)."""
    return bool((box_iou_matrix(detection_8[None, _BOX], tracked_T8[:, _BOX]) >= DUPLICATE_IOU).any())


def _assign(tracks: list[_Track], detections_R8: np.ndarray, frame: int) -> list[tuple[_Track, int]]:
    """Tracks with the index of their detection among (R, 8), so that the sum of the IoU is largest."""
    if not tracks or not len(detections_R8):
        return []
    iou_TR = box_iou_matrix(np.stack([track.box_at(frame) for track in tracks]), detections_R8[:, _BOX])
    classes_T1 = np.array([[track.class_index] for track in tracks])
    iou_TR[classes_T1 != detections_R8[:, _CLASS]] *= OTHER_CLASS_FACTOR
    iou_TR[iou_TR < MIN_IOU] = 0
    pairs = zip(*linear_sum_assignment(iou_TR, maximize=True), strict=True)
    return [(tracks[track], int(place)) for track, place in pairs if iou_TR[track, place] > 0]
