"""Pictures of the frames that detection or segmentation gets most wrong: labels and predictions side by side."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.frame_objects import BOX, CLASS, IGNORE, MOTION, TRACK
from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.evaluation.task_results import TaskPredictions
from finetune.evaluation.worst_frames import find_errors, shown_objects, worst_frames
from finetune.recipe.object_fields import DETECTION_FIELDS, background_index
from finetune.recipe.tasks import DETECTION_KINDS
from finetune.video.dataset import ClipDataset
from finetune.video.draw_objects import DrawnObject, draw_mask, draw_objects, in_grey
from finetune.video.encode import encode_jpeg
from finetune.video.geometry import Placement, boxes_to_crop, motion_to_crop
from finetune.video.masks import mask_in_crop

SHOWN_SIDE, GAP = 256, 4  # pixels: smaller pictures of the model are enlarged to about so many
MASK_OPACITY = 0.6
ARROW_FRAMES = 8  # an arrow shows the motion in so many frames of the video
_SCORE, _DETECTED_CLASS = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")


class FramePicture(NamedTuple):
    """A frame by the name of its clip, with the labels and predictions of a task, and `text`: what is wrong."""

    path: str
    task: str
    text: str
    jpeg: bytes


def draw_worst_frames(
    dataset: ClipDataset,
    tested: Manifest,
    predictions: Mapping[str, TaskPredictions],
    masks: Mapping[str, np.ndarray],
) -> Iterator[FramePicture]:
    """The worst frames of each task, the worst first.

    `masks` are predicted masks uint8 (N, S, S) of segmentation tasks, in the order of their predictions' rows; a task
    without them has no pictures. The frames are those of `dataset`, which is that of the evaluation.
    """
    for task, of_task in predictions.items():
        labels = tested.tasks.get(task)
        if labels is None or not (labels.kind in DETECTION_KINDS or task in masks):
            continue
        for frame in worst_frames(labels, of_task, tested):
            item = dataset[0, int(np.searchsorted(dataset.rows, frame.row))]
            if "clips" not in item:  # the file has changed since
                continue
            clip_TCHW, placement = item["clips"][0], dataset.placements_of_row(frame.row)[0]
            picture_HWC = _enlarge(clip_TCHW[len(clip_TCHW) // 2].numpy().transpose(1, 2, 0))
            place = int(np.searchsorted(of_task.rows, frame.row))
            if labels.kind in DETECTION_KINDS:
                true, detected = _drawn_objects(labels, of_task, (frame.row, place), placement, len(picture_HWC))
                parts = [draw_objects(picture_HWC, true), draw_objects(picture_HWC, detected)]
            else:
                mask_HW = mask_in_crop(Path(os.fsdecode(labels.values[frame.row])), placement, len(masks[task][place]))
                parts = [
                    picture_HWC,
                    *(_with_mask(picture_HWC, mask, labels) for mask in (mask_HW, masks[task][place])),
                ]
            yield FramePicture(tested.clip_name(frame.row), task, frame.text, encode_jpeg(_side_by_side(parts)))


def _enlarge(pixels_HW: np.ndarray) -> np.ndarray:
    """A picture (S, S, …) with each pixel repeated, so that its side is about SHOWN_SIDE, or as it is."""
    times = max(1, round(SHOWN_SIDE / len(pixels_HW)))
    return pixels_HW.repeat(times, 0).repeat(times, 1)


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 (H, W, 3) as one (3, H, W), GAP apart."""
    gap_HWC = np.full((pictures[0].shape[0], GAP, 3), 128, np.uint8)
    parts = [part for picture_HWC in pictures for part in (picture_HWC, gap_HWC)]
    return np.concatenate(parts[:-1], 1).transpose(2, 0, 1)


def _with_mask(picture_HWC: np.ndarray, mask_HW: np.ndarray, labels: Labels) -> np.ndarray:
    """The picture in grey with a smaller mask laid over, but for the class named background."""
    times = len(picture_HWC) // len(mask_HW)
    return draw_mask(
        in_grey(picture_HWC),
        mask_HW.repeat(times, 0).repeat(times, 1),
        opacity=MASK_OPACITY,
        background=background_index(labels.names),
    )


def _drawn_objects(
    labels: Labels, predictions: TaskPredictions, at: tuple[int, int], placement: Placement, side: int
) -> tuple[list[DrawnObject], list[DrawnObject]]:
    """The labelled and the detected objects of a frame; errors are named. `at` is the row and its place."""
    objects_M9, shown_D8, tracks_D = shown_objects(labels, predictions, *at)
    is_missed_M, is_wrong_D = find_errors(objects_M9, shown_D8)
    names_M = [
        _name(labels, fields[CLASS], fields[TRACK]) + " missed" * is_missed
        for fields, is_missed in zip(objects_M9, is_missed_M.tolist(), strict=True)
    ]
    names_D = [
        f"{_name(labels, fields[_DETECTED_CLASS], track)} {fields[_SCORE]:.2f}" + " wrong" * is_wrong
        for fields, track, is_wrong in zip(shown_D8, tracks_D, is_wrong_D.tolist(), strict=True)
    ]
    moves = labels.kind == "track"
    true = _objects(objects_M9[:, BOX], objects_M9[:, MOTION] if moves else None, placement, side)
    detected = _objects(shown_D8[:, :4], shown_D8[:, 6:8] if moves else None, placement, side)
    return (
        [
            DrawnObject(box, int(fields[CLASS]), name, motion, dashed=fields[IGNORE] > 0)
            for (box, motion), fields, name in zip(true, objects_M9, names_M, strict=True)
        ],
        [
            DrawnObject(box, int(fields[_DETECTED_CLASS]), name, motion)
            for (box, motion), fields, name in zip(detected, shown_D8, names_D, strict=True)
        ],
    )


def _objects(
    boxes_N4: np.ndarray, motion_N2: np.ndarray | None, placement: Placement, side: int
) -> list[tuple[tuple[float, float, float, float], tuple[float, float] | None]]:
    """Boxes (N, 4) and motion (N, 2), pixels of the video, as those of a picture of `side` pixels."""
    units_N4 = boxes_to_crop(boxes_N4, placement)
    placed_N4 = side * np.concatenate([units_N4[:, :2] - units_N4[:, 2:] / 2, units_N4[:, 2:]], 1)
    if motion_N2 is None or placement.step == 0:
        return [(tuple(box), None) for box in placed_N4.tolist()]
    arrows_N2 = motion_to_crop(motion_N2, placement) * side * ARROW_FRAMES / placement.step
    return [(tuple(box), tuple(arrow)) for box, arrow in zip(placed_N4.tolist(), arrows_N2.tolist(), strict=True)]


def _name(labels: Labels, code: float, track: float) -> str:
    return labels.names[int(code)] + (f" #{int(track)}" if track >= 0 else "")
