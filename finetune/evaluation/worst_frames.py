"""The frames that detection or segmentation gets most wrong."""

from typing import Any, NamedTuple

import numpy as np

from finetune.data.frame_objects import CLASS, IGNORE
from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.evaluation.task_results import TaskPredictions
from finetune.metrics.detection import rows_with_objects
from finetune.metrics.object_matching import IGNORED, match_objects
from finetune.metrics.segmentation import segmentation_figures
from finetune.recipe.object_fields import DETECTION_FIELDS
from finetune.recipe.tasks import DETECTION_KINDS
from finetune.text import count, whole_percent

MAX_FRAMES, MIN_PER_FILE = 12, 2  # of a task; frames of one file look alike
_SCORE, _DETECTED_CLASS = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")


class WrongFrame(NamedTuple):
    """A row whose predictions are wrong: `error` orders rows, `text` says what is wrong."""

    row: int
    error: float
    text: str


def worst_frames(labels: Labels, predictions: TaskPredictions, tested: Manifest) -> list[WrongFrame]:
    """At most MAX_FRAMES labelled rows with errors, the worst first, and few of each file."""
    find = _wrong_objects if labels.kind in DETECTION_KINDS else _wrong_pixels
    wrong = find(labels, predictions)
    files = {tested.paths[frame.row] for frame in wrong}
    per_file = max(MIN_PER_FILE, -(-MAX_FRAMES // max(1, len(files))))
    chosen: list[WrongFrame] = []
    of_file: dict[Any, int] = {}
    for frame in sorted(wrong, key=lambda frame: (-frame.error, frame.row)):
        path = tested.paths[frame.row]
        of_file[path] = of_file.get(path, 0) + 1
        if of_file[path] <= per_file and len(chosen) < MAX_FRAMES:
            chosen.append(frame)
    return chosen


def _wrong_objects(labels: Labels, predictions: TaskPredictions) -> list[WrongFrame]:
    """Frames with missed objects or wrong detections; of equally many errors, first that of the highest score."""
    assert predictions.shown is not None
    wrong = []
    for place, row in enumerate(predictions.rows.tolist()):
        if labels.known[row]:
            objects_M9, shown_D8, _ = shown_objects(labels, predictions, row, place)
            is_missed, is_wrong = find_errors(objects_M9, shown_D8)
            if errors := int(is_missed.sum() + is_wrong.sum()):
                objects = count(int((objects_M9[:, IGNORE] == 0).sum()), "object")
                text = f"{is_missed.sum()} of {objects} missed, {count(int(is_wrong.sum()), 'wrong detection')}"
                wrong.append(WrongFrame(row, errors + shown_D8[is_wrong, _SCORE].max(initial=0.0) / 2, text))
    return wrong


def shown_objects(
    labels: Labels, predictions: TaskPredictions, row: int, place: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects (M, 9) of a frame, its detections (D, 8) above the score threshold, and their identities (D,)."""
    assert predictions.shown is not None
    detections_D8 = predictions.values[place]
    is_shown = (detections_D8[:, _SCORE] >= predictions.shown.score_threshold) & (detections_D8[:, _SCORE] > 0)
    tracks = predictions.shown.tracks
    tracks_D = np.full(len(detections_D8), -1) if tracks is None else tracks[place]
    (objects_M9,), _ = rows_with_objects(labels.values[row][None], detections_D8[None])
    return objects_M9, detections_D8[is_shown], tracks_D[is_shown]


def find_errors(objects_M9: np.ndarray, shown_D8: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which objects (M,) are not found as their class, and which detections (D,) are wrong."""
    object_D = match_objects(objects_M9, shown_D8)
    is_correct = object_D >= 0
    is_correct[is_correct] = objects_M9[object_D[is_correct], CLASS] == shown_D8[is_correct, _DETECTED_CLASS]
    is_found = np.isin(np.arange(len(objects_M9)), object_D[is_correct])
    return ~is_found & (objects_M9[:, IGNORE] == 0), ~is_correct & (object_D != IGNORED)


def _wrong_pixels(labels: Labels, predictions: TaskPredictions) -> list[WrongFrame]:
    """Frames by their mean IoU; without those that are all right, or have no labelled pixel."""
    wrong = []
    for place, row in enumerate(predictions.rows.tolist()):
        figures = segmentation_figures(predictions.values[place]) if labels.known[row] else {"miou": None}
        if (miou := figures["miou"]) is not None and miou < 1:
            accuracy = figures["pixel_accuracy"]
            text = f"mean IoU {whole_percent(miou)}, {whole_percent(accuracy or 0.0)} of the pixels right"
            wrong.append(WrongFrame(row, 1 - miou, text))
    return wrong
