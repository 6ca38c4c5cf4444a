"""What each tracked object of a recording does: a classifier of clips predicts the rows of its tracks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import VideoError
from finetune.inference.exported import InferenceModel
from finetune.objects.detect import Recording
from finetune.objects.predict_frames import ObjectPredictor, PredictedFrame, PredictedObject
from finetune.objects.track_rows import RowLengths, TrackRow, collect_tracks, rows_of_tracks
from finetune.prediction.predict import Prediction, iter_predictions
from finetune.run.read import Run


@dataclass(frozen=True)
class ClassifiedTrack:
    """A row of a tracked object, and what the classifier says of it."""

    row: TrackRow
    prediction: Prediction


@dataclass(frozen=True, eq=False)
class ClassifiedRecording:
    """All frames of a recording with their objects, and the predictions of the tracks, by track and time."""

    recording: Recording
    frames: Sequence[PredictedFrame]
    tracks: Sequence[ClassifiedTrack]


def classify_tracks(
    predictor: ObjectPredictor,
    path: Path,
    classifier: Run,
    *,
    model: InferenceModel,
    lengths: RowLengths,
    options: Mapping[str, Any],
) -> ClassifiedRecording:
    """Detect and track the objects of a recording, and predict each track that is long enough.

    `options` are those of `iter_predictions`. Raises VideoError where the recording cannot be read.
    """
    recording, predicted_frames = predictor(path)
    frames = [replace(frame, mask_HW=None) for frame in predicted_frames]
    rows = list(rows_of_tracks(recording, collect_tracks(frames), lengths))
    predictions = iter_predictions(classifier, [row.clip for row in rows], model=model, **options)
    tracks = []
    for row, (_, prediction) in zip(rows, predictions, strict=True):
        if isinstance(prediction, VideoError):
            raise prediction
        tracks.append(ClassifiedTrack(row, prediction))
    return ClassifiedRecording(recording, frames, tracks)


def frames_named_by_action(classified: ClassifiedRecording) -> Iterator[PredictedFrame]:
    """The frames with the objects whose tracks have a prediction, named by it, with its probability as their score."""
    by_track: dict[int, list[ClassifiedTrack]] = {}
    for track in classified.tracks:
        by_track.setdefault(track.row.track.number, []).append(track)
    for frame in classified.frames:
        named = (
            _named(tracked, frame.frame, by_track.get(tracked.track, ()))
            for tracked in frame.objects
            if tracked.track is not None
        )
        yield replace(frame, objects=tuple(action for action in named if action is not None))


def _named(tracked: PredictedObject, frame: int, tracks: Iterable[ClassifiedTrack]) -> PredictedObject | None:
    for track in tracks:
        if track.row.first <= frame <= track.row.last:
            prediction = track.prediction
            return replace(tracked, name=prediction.predicted, score=prediction.probability or 0.0, motion=None)
    return None
