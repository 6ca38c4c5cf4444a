"""Files of masks: which are read, and what is wrong with the others."""

import numpy as np
import pytest
from framed import CLASSES, draw_labelled_videos, manifest_of_frames, recipe_of_frames, write_mask
from PIL import Image

from finetune.errors import DataError, VideoError
from finetune.train.log.console import Display
from finetune.train.setup.preflight import load_file_facts
from finetune.video.masks import mask_problems, read_mask
from finetune.video.probe_files import scan_files
from finetune.video.row_loader import evaluation_loader


@pytest.fixture
def recipe(tmp_path):
    return recipe_of_frames(draw_labelled_videos(tmp_path, train=1, val=1, test=0), ("pixels", "objects"))


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_indexed_masks_of_any_depth_are_read_as_classes(tmp_path, bits):
    mask = np.random.default_rng(0).integers(0, 2**bits, (9, 11)).astype(np.uint8)
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * 2**bits).tolist())
    image.save(tmp_path / "m.png", bits=bits)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)


def test_grey_and_black_and_white_masks_are_read_as_classes(tmp_path):
    mask = np.arange(250, dtype=np.uint8).reshape(10, 25)
    Image.fromarray(mask).save(tmp_path / "grey.png")
    Image.fromarray(mask > 100).save(tmp_path / "one.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png"), mask)
    assert np.array_equal(read_mask(tmp_path / "one.png"), (mask > 100).astype(np.uint8))


def test_pictures_in_colour_or_of_16_bits_and_broken_files_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    write_mask(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.uint8))
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "colour": "the mask is a picture of mode RGB; save the class of each pixel as an indexed or grey PNG",
        "deep": "mode I;16",
        "cut": "the mask cannot be read",
        "text": "the mask cannot be read",
        "folder": "the mask cannot be read",
        "none": "the mask does not exist",
    }.items():
        with pytest.raises(VideoError, match=f"{name}.png: .*{message}"):
            read_mask(tmp_path / f"{name}.png")


def test_right_masks_have_no_problems(recipe):
    manifest = manifest_of_frames(recipe)
    assert mask_problems(manifest, scan_files(manifest)) == []


def test_everything_that_is_wrong_with_masks_is_named_before_training(recipe, tmp_path):
    masks = sorted((tmp_path / "masks").iterdir())
    masks[0].unlink()
    write_mask(masks[1], np.zeros((60, 80), np.uint8))
    Image.fromarray(np.full((64, 80), 7, np.uint8)).save(masks[2])
    Image.fromarray(np.full((64, 80), 255, np.uint8)).save(masks[3])  # unlabelled
    manifest = manifest_of_frames(recipe)
    with pytest.raises(DataError) as error:
        load_file_facts(manifest, recipe, Display(quiet=True))
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and all("(tasks.pixels)" in line for line in lines)
    with pytest.raises(DataError) as on_evaluation:
        evaluation_loader(manifest, "val", recipe, size=64, views=1)
    assert str(on_evaluation.value) == str(error.value)
    assert f"{masks[0]}: the mask does not exist" in str(error.value)
    assert f"{masks[1]}: the mask has 80 x 60 pixels, its video 80 x 64" in str(error.value)
    assert f"{masks[2]}: the mask has the values 7, but classes names only 0 to {len(CLASSES) - 1}" in str(error.value)


def test_wrong_masks_and_files_that_cannot_be_read_are_named_at_once(recipe, tmp_path):
    next(path for path in sorted((tmp_path / "masks").iterdir()) if path.name.startswith("train")).unlink()
    (tmp_path / "val0.mp4").write_text("no video")
    with pytest.raises(DataError) as error:
        load_file_facts(manifest_of_frames(recipe), recipe, Display(quiet=True))
    assert "the mask does not exist" in str(error.value) and "val0.mp4: is not a video" in str(error.value)


def test_rows_of_several_frames_are_refused_for_tracking_but_not_for_detection(tmp_path):
    path = draw_labelled_videos(tmp_path, train=1, val=0, test=0)
    path.write_text(path.read_text().replace(",0.1,0.14,", ",0.1,0.24,"))
    for name, is_refused in (("tracks", True), ("objects", False)):
        recipe = recipe_of_frames(path, (name,))
        manifest = manifest_of_frames(recipe)
        if is_refused:
            with pytest.raises(DataError, match=r"tasks.tracks needs rows of one frame.*train0.mp4.*\(3 frames\)"):
                load_file_facts(manifest, recipe, Display(quiet=True))
        else:
            load_file_facts(manifest, recipe, Display(quiet=True))
