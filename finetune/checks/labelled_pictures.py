"""The pictures that `finetune check` shows, with the labelled objects and masks of their frames."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.checks.rows import Rows
from finetune.errors import VideoError
from finetune.recipe.object_fields import UNLABELLED, background_index
from finetune.recipe.tasks import DETECTION_KINDS
from finetune.video.draw_objects import DrawnObject, draw_on_jpeg
from finetune.video.masks import read_mask
from finetune.video.probe_files import FileInspection


class LabelledPictures(Mapping[str, bytes]):
    """The middle frame of each readable clip as JPEG, by the clip's name; labels are drawn when a picture is read."""

    def __init__(self, rows: Rows, names: Sequence[str], inspections: Sequence[FileInspection | VideoError]) -> None:
        self.rows, self.inspections = rows, inspections
        readable = [row for row, result in enumerate(inspections) if isinstance(result, FileInspection)]
        self.row_of = {names[row]: row for row in readable}

    def __len__(self) -> int:
        return len(self.row_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self.row_of)

    def __getitem__(self, name: str) -> bytes:
        row = self.row_of[name]
        inspection = self.inspections[row]
        assert isinstance(inspection, FileInspection)
        objects, mask_HW = _objects(self.rows, row), _mask(self.rows, row)
        if not objects and mask_HW is None:
            return inspection.middle_jpeg
        size = inspection.info.width, inspection.info.height
        return draw_on_jpeg(inspection.middle_jpeg, objects, size=size, mask_HW=mask_HW)


def _objects(rows: Rows, row: int) -> list[DrawnObject]:
    """The labelled objects of a row; those to ignore are dashed."""
    drawn = []
    for labels in rows.labels_by_task.values():
        if labels.kind in DETECTION_KINDS and labels.known[row]:
            for code, left, top, width, height, _, _, track, ignore in labels.values[row].tolist():
                if code >= 0:
                    label = labels.names[int(code)] + (f" #{int(track)}" if track >= 0 else "")
                    drawn.append(DrawnObject((left, top, width, height), int(code), label, dashed=ignore == 1))
    return drawn


def _mask(rows: Rows, row: int) -> np.ndarray | None:
    """The mask of a row, uint8 (H, W), its background unlabelled; None without one that can be read."""
    for labels in rows.labels_by_task.values():
        if labels.kind == "segment" and labels.known[row]:
            try:
                mask_HW = read_mask(Path(os.fsdecode(labels.values[row])))
            except VideoError:
                return None
            background = background_index(labels.names)
            return mask_HW if background is None else np.where(mask_HW == background, UNLABELLED, mask_HW)
    return None
