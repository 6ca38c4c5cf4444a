"""Contact sheets: the very frames that the model saw, small."""

import json

import cv2
import numpy as np
import pytest
import torch
from grey import make_clip

import finetune as ft
from finetune.evaluation.contact_sheets import (
    GAP,
    MAX_FRAMES,
    SIDE,
    make_mosaic,
    make_sheet,
    remove_sheets,
    sheet_file_name,
    sheet_frame_indices,
    write_sheets,
)
from finetune.video.dataset import ClipDataset
from finetune.video.probe_files import scan_files


def frames(count, size=32):
    """Frame n has level 16 + 7 n."""
    levels = 16 + 7 * torch.arange(count)
    return levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, size, size)


def parts_of(sheet):
    """The frames on a sheet (3, SIDE, W), without what is between them: (3, SIDE, T, SIDE)."""
    apart = np.pad(sheet, ((0, 0), (0, 0), (0, GAP)))
    return apart.reshape(3, SIDE, -1, SIDE + GAP)[..., :SIDE]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [0]), (2, [0, 1]), (8, list(range(8))), (9, [0, 1, 2, 3, 5, 6, 7, 8]), (16, [0, 2, 4, 6, 9, 11, 13, 15])],
)
def test_a_sheet_has_frames_from_first_to_last(count, shown):
    assert sheet_frame_indices(count) == shown
    sheet = make_sheet(frames(count))
    assert (sheet.shape, sheet.dtype) == ((3, SIDE, (SIDE + GAP) * len(shown) - GAP), np.uint8)
    levels = parts_of(sheet)
    assert (levels == (16 + 7 * np.array(shown))[None, None, :, None]).all()
    assert len(shown) <= MAX_FRAMES


def test_a_mosaic_has_four_frames_row_by_row():
    mosaic = make_mosaic(frames(10))
    assert (mosaic.shape, mosaic.dtype) == ((3, 2 * SIDE + GAP, 2 * SIDE + GAP), np.uint8)
    middles = [SIDE // 2, SIDE + GAP + SIDE // 2]
    levels = 16 + 7 * np.array([[0, 3], [6, 9]])
    assert (mosaic[0][np.ix_(middles, middles)] == levels).all()


def test_where_a_frame_is_bright_its_picture_is(tmp_path):
    frame = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    frame[0, 0, :32, 32:] = 200
    red = make_sheet(frame)[0]
    assert red[: SIDE // 2 - 2, SIDE // 2 + 2 :].min() == 200
    assert red[SIDE // 2 + 2 :].max() == red[:, : SIDE // 2 - 2].max() == 0


def test_names_are_those_that_a_report_takes():
    assert sheet_file_name("/a/b.mp4") == sheet_file_name("/a/b.mp4") != sheet_file_name("/a/c.mp4")
    from finetune.report.run.clips_section import _PICTURE_NAME as _NAME

    for path in ("/a/b.mp4", "挥手", "\udce9", ""):
        assert _NAME.fullmatch(sheet_file_name(path)) and _NAME.fullmatch(sheet_file_name(path, "-cam"))


@pytest.fixture
def dataset(tmp_path):
    for number in range(3):
        make_clip(tmp_path / "clips" / "a" / f"{number}.mp4", 8, start=16 + 60 * number)
        make_clip(tmp_path / "clips" / "b" / f"{number}.mp4", 8, start=16 + 60 * number)
    manifest = ft.Manifest.from_folder(tmp_path / "clips", val=0, test=0)
    clip = ft.Clip(num_frames=4, size=32)
    return ClipDataset(manifest, "train", clip=clip, views=1, facts=scan_files(manifest))


def test_each_sheet_is_of_the_clip_that_asked_for_it(dataset, tmp_path):
    paths = [str(dataset.manifest.path(row)) for row in (4, 0)]
    index = write_sheets(tmp_path, dataset, paths)
    assert index == json.loads((tmp_path / "pictures/index.json").read_text())
    assert index == {path: {"sheet": sheet_file_name(path), "frames": 4} for path in paths}
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    for row, path in zip((4, 0), paths, strict=True):
        picture = cv2.imread(str(tmp_path / "pictures" / index[path]["sheet"]))
        levels = parts_of(picture.transpose(2, 0, 1)).mean((0, 1, 3))
        position = dataset.rows.tolist().index(row)
        wanted = dataset[position]["clips"][0].float().mean((1, 2, 3)).numpy()
        assert np.abs(levels - wanted).max() < 3
        assert np.diff(wanted).min() > 5, "the clip moves"


def test_files_that_have_gone_bad_have_no_sheet_and_old_sheets_go(dataset, tmp_path):
    paths = [str(dataset.manifest.path(row)) for row in range(2)]
    write_sheets(tmp_path, dataset, paths)
    dataset.manifest.path(0).write_bytes(b"gone bad")
    assert list(write_sheets(tmp_path, dataset, paths)) == paths[1:]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {sheet_file_name(paths[1]), "index.json"}
    remove_sheets(tmp_path)
    remove_sheets(tmp_path)
    assert not (tmp_path / "pictures").exists()
