"""Detections of an evaluation: their score threshold, their identities along each file, their metrics and files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.metrics.detection import DEFAULT_SCORE_THRESHOLD, rows_with_objects, score_detection
from finetune.metrics.object_matching import best_score_threshold, count_at_threshold
from finetune.metrics.tracking import FrameIdentities, score_tracks, tracked_frames
from finetune.recipe.object_fields import DETECTION_FIELDS, LABEL_FIELDS
from finetune.run.detections_csv import write_detections, write_frame_counts
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import save_array
from finetune.tracking.tracker import track_frames
from finetune.video.file_facts import FileFacts

_SCORE, _CLASS = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")
_TRACK = LABEL_FIELDS.index("track")


class ShownDetections(NamedTuple):
    """What is shown of the detections (N, D, 8) of a task: those whose score reaches `score_threshold`.

    It is fitted on val, or else (`is_fitted` false) the best one for these rows. `tracks` (N, D) are identities within
    a file, -1 for none, `track_classes` (N, D) the classes of their tracks; None where labels have none.
    """

    score_threshold: float
    is_fitted: bool
    tracks: np.ndarray | None
    track_classes: np.ndarray | None = None

    def at(self, keep: np.ndarray) -> "ShownDetections":
        """Of some rows: `keep` (M,) are their positions."""
        tracks, classes = (None if of_rows is None else of_rows[keep] for of_rows in (self.tracks, self.track_classes))
        return self._replace(tracks=tracks, track_classes=classes)


def shown_detections(
    tested: Manifest, task: str, rows: np.ndarray, detections_ND8: np.ndarray, *, fitted: float | None, facts: FileFacts
) -> ShownDetections:
    """What is shown of the detections of `rows` (N,); `fitted` is the score threshold of the run, if there is one."""
    labels = tested.tasks[task].at(rows)
    truth_NM9, known_ND8 = labels.values[labels.known], detections_ND8[labels.known]
    threshold = best_score_threshold(*rows_with_objects(truth_NM9, known_ND8)) if fitted is None else fitted
    threshold = DEFAULT_SCORE_THRESHOLD if threshold is None else threshold
    has_identities = (truth_NM9[..., _TRACK] >= 0).any()
    if not has_identities:
        return ShownDetections(threshold, fitted is not None, None)
    return ShownDetections(threshold, fitted is not None, *_track_files(tested, rows, detections_ND8, threshold, facts))


def _track_files(
    tested: Manifest, rows: np.ndarray, detections_ND8: np.ndarray, threshold: float, facts: FileFacts
) -> tuple[np.ndarray, np.ndarray]:
    """Identities (N, D) of the detections of each file's rows, in the order of their frames, and classes (N, D)."""
    frame_N, tracks_ND = _frames(rows, facts), np.full(detections_ND8.shape[:2], -1)
    classes_ND = detections_ND8[..., _CLASS].copy()
    for places in _places_of_files(tested, rows, frame_N):
        found = [np.flatnonzero(detections_D8[:, _SCORE] > 0) for detections_D8 in detections_ND8[places]]
        frames = ((int(frame_N[place]), detections_ND8[place, kept]) for place, kept in zip(places, found, strict=True))
        for place, kept, tracked in zip(places, found, track_frames(frames, score=threshold), strict=True):
            tracks_ND[place, kept] = tracked.tracks_D
            classes_ND[place, kept] = tracked.detections_D8[:, _CLASS]
    return tracks_ND, classes_ND


def _frames(rows: np.ndarray, facts: FileFacts) -> np.ndarray:
    """The number (N,) of each row's labelled frame, its middle one, in the file."""
    first_N = np.zeros(len(rows), dtype=int) if facts.first_frames is None else facts.first_frames[rows]
    return first_N + facts.num_frames[rows] // 2


def _places_of_files(tested: Manifest, rows: np.ndarray, frame_N: np.ndarray) -> Iterator[np.ndarray]:
    """For each file, the places of its rows in `rows` (N,), by rising frame; the first row of each frame."""
    file_N = np.unique(tested.paths[rows], return_inverse=True)[1].reshape(-1)
    order_N = np.lexsort((frame_N, file_N))  # stable: of two rows of a frame the first stays first
    for places in np.split(order_N, np.flatnonzero(np.diff(file_N[order_N])) + 1):
        _, first = np.unique(frame_N[places], return_index=True)
        yield places[first]


def object_metrics(
    tested: Manifest,
    task: str,
    rows: np.ndarray,
    detections_ND8: np.ndarray,
    *,
    shown: ShownDetections,
    facts: FileFacts,
) -> dict[str, Any]:
    """The results of a task of kind detect or track, from `rows` (N,) that have a label."""
    labels = tested.tasks[task].at(rows)
    results = score_detection(
        labels.kind,
        labels.values,
        detections_ND8,
        classes=labels.names,
        groups=None if tested.groups is None else tested.groups[rows],
        score_threshold=shown.score_threshold if shown.is_fitted else None,
    )
    if shown.tracks is None or shown.track_classes is None:
        return results
    tracked_ND8 = detections_ND8.copy()
    tracked_ND8[..., _CLASS] = shown.track_classes
    sequences: list[list[FrameIdentities]] = []
    units: list[str] = []
    for places in _places_of_files(tested, rows, _frames(rows, facts)):
        of_file = _sequences(labels.at(places), tracked_ND8[places], shown.tracks[places])
        unit = os.fsdecode(tested.paths[rows[places[0]]]) if tested.groups is None else tested.groups[rows[places[0]]]
        sequences += of_file
        units += [str(unit)] * len(of_file)
    return results | (score_tracks(sequences, groups=units) if sequences else {})


def _sequences(labels: Labels, detections_ND8: np.ndarray, tracks_ND: np.ndarray) -> list[list[FrameIdentities]]:
    """The sequence of each class that has objects or tracks in the frames of one file."""
    truth, detections = rows_with_objects(labels.values, detections_ND8)
    tracks = [row_D[row_D8[:, _SCORE] > 0] for row_D, row_D8 in zip(tracks_ND, detections_ND8, strict=True)]
    sequences = [tracked_frames(truth, detections, tracks, code=code) for code in range(len(labels.names))]
    return [frames for frames in sequences if any(len(frame.true_M) or len(frame.predicted_D) for frame in frames)]


def write_object_predictions(
    folder: Path, tested: Manifest, task: str, rows: np.ndarray, detections_ND8: np.ndarray, *, shown: ShownDetections
) -> None:
    """Write all detections as an array, the shown ones one line each, and for each frame how many objects are found."""
    labels, threshold = tested.tasks[task].at(rows), shown.score_threshold
    shown_ND8 = np.where(detections_ND8[..., _SCORE, None] >= threshold, detections_ND8, 0.0)
    save_array(EvaluationFolder(folder).outputs(task), detections_ND8)
    write_detections(folder, tested, rows, shown_ND8, task=task, tracks_ND=shown.tracks)
    truth, detections = rows_with_objects(labels.values, detections_ND8)
    counts = count_at_threshold(truth, detections, len(labels.names), score_threshold=threshold)
    objects_N, found_N = (_per_frame(counts.frame_M, weights, len(rows)) for weights in (None, counts.found_M))
    shown_N, correct_N = (_per_frame(counts.frame_D, weights, len(rows)) for weights in (None, counts.correct_D))
    columns = {"objects": objects_N, "found": found_N, "missed": objects_N - found_N, "invented": shown_N - correct_N}
    known = {
        name: [int(value) if is_known else None for value, is_known in zip(values, labels.known, strict=True)]
        for name, values in columns.items()
    }
    write_frame_counts(folder, tested, rows, known, task=task)


def _per_frame(frames: np.ndarray, weights: np.ndarray | None, size: int) -> np.ndarray:
    return np.bincount(frames, weights, minlength=size).astype(int)
