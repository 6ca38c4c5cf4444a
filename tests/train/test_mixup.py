import pytest
import torch

from finetune.recipe.schema import Augment
from finetune.train.mixup import mix_clips


def batch(size=4, frames=3):
    levels = torch.arange(1, size + 1) * 40
    clips = levels.view(-1, 1, 1, 1, 1).expand(size, frames, 3, 8, 8).to(torch.uint8)
    return clips, torch.eye(3)[torch.arange(size) % 3]


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_labels_are_blended_by_the_share_of_pixels_and_all_frames_alike(way):
    clips, certain = batch()
    seen = 0
    for seed in range(20):
        mixed, targets = mix_clips(clips, certain, augment=Augment(**{way: 1.0}), seed=seed)
        assert mixed.dtype == torch.float32
        assert (mixed == mixed[:, :1]).all()
        share = (mixed[1] - 40).mean() / 40  # of the clip itself: the one before it is darker by 40
        assert targets[1, 1] == pytest.approx(float(share), abs=1e-4)
        assert targets.sum(1).allclose(torch.ones(4))
        seen += 0.01 < share < 0.99
    assert seen > 5


def test_a_blend_follows_from_its_seed_alone():
    clips, certain = batch()
    augment = Augment(mixup=0.4, cutmix=1.0)
    torch.manual_seed(0)
    one = mix_clips(clips, certain, augment=augment, seed=5)
    torch.manual_seed(1)
    two = mix_clips(clips, certain, augment=augment, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    boxes = [len(mix_clips(clips, certain, augment=augment, seed=s)[0][1].unique()) > 1 for s in range(30)]
    assert 3 < sum(boxes) < 27  # both ways are taken


def test_a_batch_of_one_is_blended_with_itself():
    clips, certain = batch(size=1)
    mixed, targets = mix_clips(clips, certain, augment=Augment(mixup=1.0), seed=0)
    assert mixed.allclose(clips.float())
    assert targets[0, 0] == pytest.approx(1)
