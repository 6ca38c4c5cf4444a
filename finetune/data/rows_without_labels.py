"""Files, or parts of files, as rows of a manifest of which no label is used."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.data.intervals import WHOLE
from finetune.data.manifest import Manifest
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS


def rows_without_labels(
    source: Path,
    files: Sequence[Path],
    intervals: Sequence[tuple[float, float]] | None = None,
    *,
    classes: tuple[str, ...] = (),
    image_rate: float = DEFAULT_IMAGE_FPS,
) -> Manifest:
    """Rows of the split test: whole files or folders of numbered images, or their `intervals` (N,) in seconds.

    Facts about the files are cached beside `source`. `classes` are those of the manifest; no row has one of them.
    """
    number = len(files)
    encoded = np.array([os.fsencode(file.absolute()) for file in files])
    splits, labels = np.full(number, "test", dtype="U5"), np.full(number, len(classes), dtype=np.int64)
    times_N2 = None if intervals is None else np.array(intervals, dtype=np.float64).reshape(-1, 2)
    if times_N2 is not None and (times_N2 == WHOLE).all():
        times_N2 = None
    return Manifest(source, classes, encoded, labels, splits, None, image_rate=image_rate, intervals=times_N2)
