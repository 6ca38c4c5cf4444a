"""Average precision of detections as COCO defines it, by faster-coco-eval, which equals pycocotools.

A frame's detections are matched with its true objects of the same class by falling score: each takes the free object
with the highest IoU, if that reaches the threshold. Objects to ignore are COCO's crowds: any number of detections may
match one, by the share of the detection inside it, and these count neither as found nor as invented. Detections of the
same score rank in the order of the frames, and within a frame in their own order. Of each class, the first 100
detections of a frame count.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from finetune.recipe.object_fields import MAX_DETECTIONS

SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
SIZE_AREAS = (32**2, 96**2)  # pixels: the borders between small, medium and large objects
RECALLS = np.linspace(0, 1, 101)
IOUS = np.linspace(0.5, 0.95, 10)
PLACE_50, PLACE_75 = 0, 5  # of IoU 0.5 and 0.75 in IOUS


class CocoMatches:
    """Detections matched with true objects once, so that the average precision of any of the frames is cheap."""

    def __init__(
        self,
        truth: Sequence[np.ndarray],
        detections: Sequence[np.ndarray],
        num_classes: int,
        *,
        sizes: Sequence[str] = tuple(SIZES),
    ) -> None:
        """`truth` are the labels of N frames, (M, 9) LABEL_FIELDS each, `detections` theirs, (D, 8) DETECTION_FIELDS.

        Neither has rows without an object, but M and D may differ between frames, and be 0.
        """
        from faster_coco_eval import COCO, COCOeval_faster

        frames = [{"id": number} for number in range(1, len(truth) + 1)]
        classes = [{"id": code} for code in range(num_classes)]
        true, found = (
            COCO({"images": frames, "categories": classes, "annotations": annotations})
            for annotations in (_true_annotations(truth), _detected_annotations(detections))
        )
        evaluation = COCOeval_faster(true, found, "bbox", separate_eval=True)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(SIZES[size]) for size in sizes], list(sizes)
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        self._evaluation = evaluation
        self._matches = np.empty((num_classes, len(sizes), len(truth)), dtype=object)
        self._matches.reshape(-1)[:] = evaluation._evalImgs_cpp

    @property
    def size(self) -> int:
        """Frames × classes × sizes of objects: what `precision` adds up."""
        return int(self._matches.size)

    def precision(self, kept_N: np.ndarray | None = None) -> np.ndarray:
        """Interpolated precision (10, 101, K, S) at IOUS and RECALLS, of K classes and S sizes of objects.

        NaN for a class without true objects of that size. `kept_N`, bool (N,), chooses frames; by default all.
        """
        evaluation, matches = copy(self._evaluation), self._matches
        if kept_N is not None:
            matches = matches[:, :, kept_N]
            evaluation._paramsEval = copy(evaluation._paramsEval)
            evaluation._paramsEval.imgIds = evaluation._paramsEval.imgIds[: matches.shape[2]]
        evaluation._evalImgs_cpp = matches.reshape(-1).tolist()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0]
        return np.where(precision < 0, np.nan, precision)


def _true_annotations(frames: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for frame, objects_M9 in enumerate(frames, 1):
        for code, x, y, width, height, *_, ignored in objects_M9.tolist():
            annotations.append(_annotation(frame, code, (x, y, width, height)) | {"iscrowd": int(ignored)})
    return [annotation | {"id": number} for number, annotation in enumerate(annotations, 1)]


def _detected_annotations(frames: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for frame, detections_D8 in enumerate(frames, 1):
        for x, y, width, height, score, code, *_ in detections_D8.tolist():
            annotations.append(_annotation(frame, code, (x, y, width, height)) | {"score": score})
    return [annotation | {"id": number} for number, annotation in enumerate(annotations, 1)]


def _annotation(frame: int, code: float, box: tuple[float, float, float, float]) -> dict[str, Any]:
    return {"image_id": frame, "category_id": int(code), "bbox": list(box), "area": box[2] * box[3]}
