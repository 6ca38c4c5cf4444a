"""Masks that training would refuse are found with the reason, and classes without pixels by split."""

import numpy as np
import pytest
from framed import CLASSES, draw_labelled_videos, tasks_of, write_mask
from PIL import Image

from finetune.checks.check_data import write_fixed
from finetune.checks.mask_findings import mask_findings
from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.video.masks import mask_problems
from finetune.video.probe_files import ClipOfFile, inspect_files, scan_files


@pytest.fixture
def checked(tmp_path):
    """A function that checks the masks of drawn videos."""
    source = draw_labelled_videos(tmp_path, train=1)

    def check():
        rows = read_rows(source, group_pattern=None, shares=(0.2, 0.2, 0), tasks=tasks_of("pixels"))
        clips = [ClipOfFile(path, rows.interval(row), False) for row, path in enumerate(rows.paths)]
        return mask_findings(rows, dict(enumerate(inspect_files(clips, seconds=30.0, image_rate=25.0))))

    return check


def test_right_masks_have_no_finding_and_their_classes_are_counted(checked):
    findings, table = checked()
    assert [finding.kind for finding in findings if finding.severity == "mend"] == []
    assert [row["class"] for row in table] == list(CLASSES)
    assert table[0]["frames"] == 12 and table[0]["share"] > 0.8
    assert sum(row["share"] for row in table) == pytest.approx(1, abs=1e-4)


def test_missing_small_and_unknown_masks_are_one_error_with_the_reasons(checked, tmp_path):
    masks = sorted((tmp_path / "masks").glob("train0_*.png"))
    masks[0].unlink()
    write_mask(masks[1], np.zeros((8, 9), np.uint8))
    write_mask(masks[2], np.full((64, 80), 7, np.uint8))
    Image.new("RGB", (80, 64)).save(masks[3])
    (finding,) = (finding for finding in checked()[0] if finding.kind == "mask")
    assert (finding.severity, len(finding.rows)) == ("mend", 4)
    assert finding.what.startswith("tasks.pixels: 4 masks cannot be used: ")


def test_a_class_without_training_pixels_is_an_error(checked, tmp_path):
    for path in (tmp_path / "masks").glob("train0_*.png"):
        write_mask(path, np.zeros((64, 80), np.uint8))
    found = {finding.kind: finding for finding in checked()[0]}
    assert found["untaught"].what.startswith("tasks.pixels: No mask of train has a pixel of “bar”, “square”")


def test_a_fixed_manifest_in_another_folder_finds_the_masks(tmp_path):
    path = draw_labelled_videos(tmp_path / "data", train=1, val=0, test=0)
    rows = read_rows(path, group_pattern=None, shares=(0, 0, 0), tasks=tasks_of("pixels", "objects"))
    write_fixed(tmp_path / "fixed.csv", rows, [1, 2])
    fixed = Manifest.from_csv(tmp_path / "fixed.csv", tasks=tasks_of("pixels", "objects"), checked=False)
    assert mask_problems(fixed, scan_files(fixed)) == [] and fixed.tasks["pixels"].known.all()
    assert fixed.tasks["objects"].text(1) == rows.labels_by_task["objects"].text(2)
