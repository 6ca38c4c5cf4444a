"""The objects of every frame of a recording: detected in every n-th frame, tracked, and moved along in between."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.arguments import check_arguments, check_range
from finetune.metrics.detection import DEFAULT_SCORE_THRESHOLD
from finetune.model.classifier import VideoClassifier
from finetune.objects.detect import Detector, FrameOutput, Recording, RunDetector, read_recording
from finetune.prediction.predict import run_of_model
from finetune.recipe.object_fields import DETECTION_FIELDS, MIN_SCORE
from finetune.run.fitted import read_fitted
from finetune.run.read import Run, open_run
from finetune.tracking.tracker import NO_TRACK, TrackedFrame, is_duplicate, track_frames

Box = tuple[float, float, float, float]
_SCORE, _CLASS = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")


@dataclass(frozen=True)
class PredictedObject:
    """An object of a frame: its box (left, top, width, height) in pixels of the video, its motion in pixels per frame.

    `track` is its identity in the recording; None if it is detected in one frame only. `motion` is None where the run
    does not predict it.
    """

    name: str
    class_index: int
    score: float
    box: Box
    motion: tuple[float, float] | None = None
    track: int | None = None


@dataclass(frozen=True, eq=False)
class PredictedFrame:
    """The objects of a frame, best first, and the classes of its pixels, uint8 (H, W), 255 where they are not known."""

    frame: int
    seconds: float
    objects: tuple[PredictedObject, ...]
    mask_HW: np.ndarray | None = None


@check_arguments
def predict_objects(
    run: str | Path | VideoClassifier, video: str | Path, *, every: int = 1, score: float | None = None
) -> Iterator[PredictedFrame]:
    """Every frame of a video, an image or a folder of numbered images, predicted while they are taken.

    `run` is a run folder, or a model from `load` or after `fit`, with a task of kind detect, track or segment. Objects
    have at least this `score`, by default the best one on val, or less where they continue a track. With `every` above
    1, every n-th frame is computed, and objects are tracked in between. Raises RunError for a run of other tasks and
    VideoError for a video that cannot be read, also while frames are taken.
    """
    check_range(every, 1, name="every")
    check_range(1 if score is None else score, MIN_SCORE, 1, name="score")
    model, folder = (run, run_of_model(run)) if isinstance(run, VideoClassifier) else (None, run)
    return ObjectPredictor(open_run(folder), every=every, score=score, model=model)(Path(video))[1]


class ObjectPredictor:
    """Predicts every frame of one recording after the other by a run's tasks of objects and pixels.

    `every` and `score` are those of `predict_frames`; the score is by default the one that was fitted on val. A `model`
    that is given is not read again. `classes` are those of objects, `pixel_classes` those of pixels, () where the run
    has no such task. Raises RunError for a run without either.
    """

    def __init__(
        self, run: Run, *, every: int = 1, score: float | None = None, model: VideoClassifier | None = None
    ) -> None:
        self.detect = RunDetector(run, model=model)
        self.image_rate = run.recipe.data.image_rate
        self.every = every
        objects, pixels = self.detect.objects, self.detect.pixels
        self.classes = () if objects is None else run.outputs[objects].names
        self.pixel_classes = () if pixels is None else run.outputs[pixels].names
        self.score = _fitted_score(run, objects) if score is None else score

    def __call__(self, path: Path) -> tuple[Recording, Iterator[PredictedFrame]]:
        """A recording and its frames, which are predicted as they are taken. Raises VideoError, also while they are."""
        recording = read_recording(path, image_rate=self.image_rate)
        return recording, predict_frames(self.detect, recording, self.classes, every=self.every, score=self.score)


def _fitted_score(run: Run, task: str | None) -> float:
    fitted = None if task is None else read_fitted(run)[task].score_threshold
    return DEFAULT_SCORE_THRESHOLD if fitted is None else fitted


def predict_frames(
    detect: Detector,
    recording: Recording,
    classes: tuple[str, ...],
    *,
    every: int = 1,
    score: float = DEFAULT_SCORE_THRESHOLD,
) -> Iterator[PredictedFrame]:
    """Every frame of a recording, in order; memory does not grow with their number.

    Objects are those with at least this score, and those with less that continue a track. With `every` above 1, every
    n-th frame is computed, and the last one. Between two of them, the boxes of objects that are tracked in both change
    evenly, and the mask is that of the first.
    """
    last_frame = recording.info.num_frames - 1
    frames_W = np.unique(np.append(np.arange(0, last_frame + 1, every), last_frame))
    outputs: deque[FrameOutput] = deque()  # whose objects have no identities yet

    def detections() -> Iterator[tuple[int, np.ndarray]]:
        for output in detect(recording, frames_W):
            outputs.append(output)
            yield output.frame, output.detections_D8

    previous: PredictedFrame | None = None
    for tracked in track_frames(detections(), score=score):
        objects = _objects(tracked, classes, score=score, with_tracks=last_frame > 0)
        seconds = float(recording.times_N[tracked.frame])
        current = PredictedFrame(tracked.frame, seconds, objects, outputs.popleft().mask_HW)
        if previous is not None:
            yield from _frames_between(previous, current, recording.times_N)
        yield current
        previous = current


def _objects(
    tracked: TrackedFrame, classes: tuple[str, ...], *, score: float, with_tracks: bool
) -> tuple[PredictedObject, ...]:
    """Those with a track, and others with a high score, unless they are one with a track, seen as another class too."""
    tracked_T8 = tracked.detections_D8[tracked.tracks_D != NO_TRACK]
    objects = []
    for values_8, track in zip(tracked.detections_D8, tracked.tracks_D.tolist(), strict=True):
        if track == NO_TRACK and (values_8[_SCORE] < score or is_duplicate(values_8, tracked_T8)):
            continue
        detection_8 = values_8.tolist()
        left, top, width, height = detection_8[:4]
        across, down = detection_8[6:]
        class_index = int(detection_8[_CLASS])
        objects.append(
            PredictedObject(
                name=classes[class_index],
                class_index=class_index,
                score=detection_8[_SCORE],
                box=(left, top, width, height),
                motion=(across, down) if np.isfinite([across, down]).all() else None,
                track=track if with_tracks and track != NO_TRACK else None,
            )
        )
    return tuple(objects)


def _frames_between(first: PredictedFrame, last: PredictedFrame, times_N: np.ndarray) -> Iterator[PredictedFrame]:
    """The frames between two that were computed, whose boxes change evenly from the one to the other."""
    later = {tracked.track: tracked for tracked in last.objects if tracked.track is not None}
    pairs = [(tracked, later[tracked.track]) for tracked in first.objects if tracked.track in later]
    for frame in range(first.frame + 1, last.frame):
        share = (frame - first.frame) / (last.frame - first.frame)
        objects = tuple(_between(start, end, share) for start, end in pairs)
        yield PredictedFrame(frame, float(times_N[frame]), objects, first.mask_HW)


def _between(start: PredictedObject, end: PredictedObject, share: float) -> PredictedObject:
    left, top, width, height = ((1 - share) * a + share * b for a, b in zip(start.box, end.box, strict=True))
    return replace(start, box=(left, top, width, height), score=(1 - share) * start.score + share * end.score)
