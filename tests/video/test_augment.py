"""All frames of a clip are augmented alike, and each augmentation follows from its seed."""

import pickle

import pytest
import torch

from finetune.errors import RecipeError
from finetune.recipe.load import check_recipe
from finetune.recipe.schema import Augment
from finetune.video.augment import build_augmentation, center_crop, multi_scale_box, read_size, seeded

PIECES = [
    *({"preset": preset} for preset in ("none", "light", "strong")),
    *(
        {"preset": "none", "flip": False} | piece
        for piece in (
            {"crop": "random_resized"},
            {"crop": "multi_scale"},
            {"color_jitter": 0.5},
            {"auto_augment": "trivial"},
            {"auto_augment": "randaugment"},
            {"random_erasing": 1.0},
            {"blur": 1.0},
            {"rotate": 30.0},
        )
    ),
    {"preset": "light", "color_jitter": 0.0, "crop": "center"},  # only mirroring is left
]


def texture(frames=5, height=48, width=64):
    with seeded(3):
        coarse = torch.rand(1, 3, 12, 16)
        picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (picture * 255).to(torch.uint8).expand(frames, -1, -1, -1)


@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_all_frames_get_the_same_draw_and_seeds_differ(pieces):
    clip, transform = texture(), build_augmentation(Augment(**pieces), size=32, fit="crop")
    drawn = [transform(clip, seed) for seed in range(12)]
    for out in drawn:
        assert out.shape == (5, 3, 32, 32)
        assert out.dtype == torch.uint8
        assert out.is_contiguous()
        assert all(torch.equal(out[0], frame) for frame in out)
    assert all(torch.equal(out, transform(clip, seed)) for seed, out in enumerate(drawn))
    differ = sum(not torch.equal(drawn[0], out) for out in drawn)
    assert differ == 0 if pieces == {"preset": "none"} else differ >= 3


@pytest.mark.parametrize("pieces", PIECES[3:-1], ids=str)
def test_each_piece_changes_the_picture(pieces):
    clip, transform = texture(), build_augmentation(Augment(**pieces), size=32, fit="crop")
    plain = center_crop(clip, 32)
    assert sum(not torch.equal(transform(clip, seed), plain) for seed in range(8)) >= 4


@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_an_augmentation_can_be_sent_to_a_loading_process(pieces):
    transform = build_augmentation(Augment(**pieces), size=32, fit="crop")
    assert torch.equal(pickle.loads(pickle.dumps(transform))(texture(), 3), transform(texture(), 3))


def test_a_draw_leaves_the_global_generator_as_it_was():
    transform = build_augmentation(Augment(preset="strong"), size=32, fit="crop")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    transform(texture(), 5)
    assert torch.equal(torch.rand(3), expected)


def test_the_boxes_of_tsn_lie_inside_and_take_all_scales_and_places():
    with seeded(0):
        boxes = [multi_scale_box(100, 160) for _ in range(3000)]
    assert {height for *_, height, _ in boxes} == {100, 88, 75, 66}
    assert all(0 <= top <= 100 - height and 0 <= left <= 160 - width for top, left, height, width in boxes)
    ranks = {100: 0, 88: 1, 75: 2, 66: 3}
    assert all(abs(ranks[height] - ranks[width]) <= 1 for *_, height, width in boxes)
    assert len({(top, left) for top, left, height, width in boxes if (height, width) == (66, 66)}) == 13


def test_frames_are_read_larger_only_where_a_crop_is_drawn():
    assert read_size(Augment(), 200) == 230
    assert read_size(Augment(preset="none"), 200) == 200
    assert read_size(Augment(preset="none", crop="multi_scale"), 200) == 230
    assert read_size(Augment(crop="center"), 200) == 200


def test_a_piece_that_is_not_there_is_said():
    with pytest.raises(RecipeError, match=r"(?s)augment.auto_augment is 'random'.*'trivial' or 'randaugment'"):
        check_recipe({"augment": {"auto_augment": "random"}}, where="r.yaml")
    with pytest.raises(RecipeError, match="augment.random_erasing is 2"):
        check_recipe({"augment": {"random_erasing": 2}}, where="r.yaml")
