"""Predicted masks compared with true ones: counts of pixels for each row, from which metrics are computed."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune.data.labels import Labels
from finetune.inference.predict_split import Predictions
from finetune.metrics.segmentation import frame_counts
from finetune.video.dataset import ClipDataset
from finetune.video.masks import mask_in_crop


def with_mask_counts(predictions: Predictions, dataset: ClipDataset) -> Predictions:
    """The predictions with counts of pixels (N, K² + 2), see `frame_counts`, in the place of masks (N, S, S).

    True masks are read as the model sees the frame. Rows without a label have counts of 0. Raises VideoError for a mask
    that cannot be read.
    """
    tasks = dict(predictions.tasks)
    for task, masks_NSS in predictions.tasks.items():
        labels = dataset.manifest.tasks.get(task)
        if labels is not None and labels.kind == "segment":
            tasks[task] = _count(labels, predictions.rows, masks_NSS, dataset)
    return replace(predictions, tasks=tasks)


def _count(labels: Labels, rows: np.ndarray, masks_NSS: np.ndarray, dataset: ClipDataset) -> np.ndarray:
    manifest, num_classes = dataset.manifest, len(labels.names)
    known = np.flatnonzero(labels.known[rows])
    starts = np.zeros(len(rows)) if manifest.intervals is None else manifest.intervals[rows, 0]
    known = known[np.lexsort((starts[known], manifest.paths[rows[known]]))]  # each file's frames in order

    def masks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for place in known.tolist():
            placement = dataset.placements_of_row(int(rows[place]))[0]
            path = Path(os.fsdecode(labels.values[rows[place]]))
            yield mask_in_crop(path, placement, masks_NSS.shape[-1]), masks_NSS[place]

    counts_NF = np.zeros((len(rows), num_classes**2 + 2), dtype=np.int32)
    counts_NF[known] = frame_counts(masks(), num_classes, recordings=manifest.paths[rows[known]])
    return counts_NF
