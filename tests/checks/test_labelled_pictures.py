"""Pictures of a check show the labels of their frames, and are left as they are without."""

import numpy as np
import pytest
from framed import draw_labelled_videos, tasks_of

from finetune.checks.labelled_pictures import LabelledPictures
from finetune.checks.rows import read_rows
from finetune.errors import VideoError
from finetune.video.probe_files import ClipOfFile, inspect_files


@pytest.mark.parametrize("task", ["objects", "pixels"])
def test_labels_are_drawn_on_readable_frames_that_have_any(tmp_path, task):
    rows = read_rows(
        draw_labelled_videos(tmp_path, train=1), group_pattern=None, shares=(0.2, 0.2, 0), tasks=tasks_of(task)
    )
    clips = [ClipOfFile(path, rows.interval(row), False) for row, path in enumerate(rows.paths)]
    inspections = [*inspect_files(clips[:-1], seconds=30.0, image_rate=25.0), VideoError("gone")]
    names = [str(row) for row in range(len(rows))]
    pictures = LabelledPictures(rows, names, inspections)
    assert list(pictures) == names[:-1]
    changed = np.array([pictures[name] != inspections[row].middle_jpeg for row, name in enumerate(pictures)])
    values = rows.labels_by_task[task].values
    has_objects = (values[:-1, :, 0] >= 0).any(1) if task == "objects" else np.ones(len(changed), bool)
    assert (changed == has_objects).all()
    assert changed.any()
