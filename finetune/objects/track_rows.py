"""The tracks of a recording as rows of a manifest, each of which follows one object: see data/tubes.py."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.intervals import seconds_text
from finetune.data.tubes import Tube, tube_text
from finetune.objects.detect import Recording
from finetune.objects.predict_frames import PredictedFrame
from finetune.storage.atomic import atomic_file
from finetune.video.probe_files import ClipOfFile

MIN_SECONDS = 0.5  # of a row
TIME_TOLERANCE = 1e-6  # seconds
TOLERANCE = 0.05  # of the box's longer side: by how much keyframes may miss a box
COLUMNS = ("path", "start", "end", "boxes", "label", "object", "track", "score")


@dataclass(frozen=True)
class Track:
    """An object of a recording in K frames (K,) that rise, and its boxes (K, 4) in pixels.

    `name` is the class that it has in most of them, `score` its mean score.
    """

    number: int
    name: str
    score: float
    frames_K: np.ndarray
    boxes_K4: np.ndarray


@dataclass(frozen=True)
class TrackRow:
    """A track, or a part of one, as a clip; `first` and `last` are its frames in the file."""

    track: Track
    clip: ClipOfFile
    first: int
    last: int


@dataclass(frozen=True)
class RowLengths:
    """Rows have at least `min_seconds`. With `window`, longer tracks become several rows of that many seconds.

    What remains of a track after its last window is a row too if it is long enough; a window is.
    """

    min_seconds: float = MIN_SECONDS
    window: float | None = None


def collect_tracks(frames: Iterable[PredictedFrame]) -> list[Track]:
    """The tracks of a recording's frames, in the order of their numbers."""
    places: dict[int, list[tuple[int, tuple[float, ...], float]]] = defaultdict(list)
    names: dict[int, Counter[str]] = defaultdict(Counter)
    for frame in frames:
        for predicted in frame.objects:
            if predicted.track is not None:
                places[predicted.track].append((frame.frame, predicted.box, predicted.score))
                names[predicted.track][predicted.name] += 1
    tracks = []
    for number in sorted(places):
        frames_of_track, boxes, scores = zip(*places[number], strict=True)
        name, score = names[number].most_common(1)[0][0], float(np.mean(scores))
        tracks.append(Track(number, name, score, np.array(frames_of_track), np.array(boxes, dtype=np.float64)))
    return tracks


def rows_of_tracks(
    recording: Recording, tracks: Iterable[Track], lengths: RowLengths = RowLengths()
) -> Iterator[TrackRow]:
    """The rows of tracks, without those that are too short."""
    shortest = min(lengths.min_seconds, lengths.window or lengths.min_seconds)
    gap = _frame_gap(recording)
    for track in tracks:
        track = _inside_picture(track, recording)
        if not len(track.frames_K):
            continue
        for first, last in _windows(recording, track, lengths):
            if recording.times_N[last] - recording.times_N[first] + gap >= shortest - TIME_TOLERANCE:
                cell, interval = tube_text(_keyframes(track, first, last)), _interval(recording, first, last)
                yield TrackRow(track, ClipOfFile(recording.path, interval, boxes=cell), first, last)


def _frame_gap(recording: Recording) -> float:
    """Seconds from one frame to the next, in most cases."""
    times_N = recording.times_N
    return float(np.median(np.diff(times_N))) if len(times_N) > 1 else 1 / (recording.info.fps or 25)


def _windows(recording: Recording, track: Track, lengths: RowLengths) -> Iterator[tuple[int, int]]:
    """The first and the last frame of each part of a track."""
    first, last = int(track.frames_K[0]), int(track.frames_K[-1])
    while lengths.window is not None:
        end = recording.times_N[first] + lengths.window
        following = int(np.searchsorted(recording.times_N, end - TIME_TOLERANCE))
        if following > last:
            break
        yield first, max(first, following - 1)
        first = max(first + 1, following)
    yield first, last


def _interval(recording: Recording, first: int, last: int) -> tuple[float, float]:
    """The interval in seconds that holds the frames from `first` to `last`: between frames where there are others."""
    times_N = recording.times_N
    start = (times_N[first - 1] + times_N[first]) / 2 if first else 0.0
    end = (times_N[last] + times_N[last + 1]) / 2 if last + 1 < len(times_N) else times_N[last] + _frame_gap(recording)
    return round(float(start), 6), round(float(end), 6)


def _inside_picture(track: Track, recording: Recording) -> Track:
    """The boxes as far as they are in the picture, without those that are not."""
    size_2 = np.array([recording.info.width, recording.info.height])
    low_K2 = np.clip(track.boxes_K4[:, :2], 0, size_2)
    high_K2 = np.clip(track.boxes_K4[:, :2] + track.boxes_K4[:, 2:], 0, size_2)
    is_inside_K = (high_K2 - low_K2 >= 1).all(1)
    boxes_K4 = np.concatenate([low_K2, high_K2 - low_K2], axis=1)[is_inside_K]
    return Track(track.number, track.name, track.score, track.frames_K[is_inside_K], boxes_K4)


def _keyframes(track: Track, first: int, last: int) -> Tube:
    """As few keyframes of a part of a track as keep each of its boxes within TOLERANCE; first and last are among them.

    As in Ramer, Douglas and Peucker's simplification of a line.
    """
    frames_F = np.arange(first, last + 1)
    boxes_F4 = Tube(track.frames_K, track.boxes_K4).boxes_at(frames_F)
    chosen = [0, len(frames_F) - 1] if last > first else [0]
    while True:
        tube = Tube(frames_F[chosen], boxes_F4[chosen])
        error_F = np.abs(tube.boxes_at(frames_F) - boxes_F4).max(1) / boxes_F4[:, 2:].max(1)
        worst = int(error_F.argmax())
        if error_F[worst] <= TOLERANCE:
            return tube
        chosen = sorted([*chosen, worst])


def write_track_rows(path: Path, rows: Sequence[TrackRow], *, label_by_object: bool = False) -> None:
    """Write rows as a manifest with absolute paths.

    The labels are for a person to fill in, or with `label_by_object` the classes of the objects.
    """
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for row in rows:
            track, times = row.track, [seconds_text(time) for time in row.clip.interval]
            label = track.name if label_by_object else ""
            cells = [label, track.name, track.number, round(track.score, 4)]
            writer.writerow([str(row.clip.path.absolute()), *times, row.clip.boxes, *cells])
