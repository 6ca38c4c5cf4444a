"""Video backbones of torchvision: the contract, the axis of time they keep, and the clips they can take."""

import pytest
import torch
from contract import features, keeps_the_contract, slowly, torchvisions_own

from finetune.errors import ModelError
from finetune.model.backbone.backbone import build_backbone

QUICK = [
    ("r3d_18", 32, 9, 2),
    ("mc3_18", 32, 4, 4),
    ("r2plus1d_18", 32, 8, 1),
    ("mvit_v1_b", 64, 4, 1),
    ("mvit_v2_s", 64, 4, 1),
    ("swin3d_t", 32, 3, 2),
]
SLOW = [("s3d", 224, 16, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "num_frames", "steps"), [*QUICK, *slowly(SLOW)])
def test_a_video_backbone_keeps_the_contract_and_its_axis_of_time(name, size, num_frames, steps):
    model = keeps_the_contract(f"torchvision/{name}", size=size, num_frames=num_frames).eval()
    over_time = features(model)
    assert over_time.shape == (2, steps, model.backbone.width)
    assert model.backbone.steps(num_frames) == steps
    theirs = torchvisions_own(model, name)
    scale = theirs.abs().max()
    torch.testing.assert_close(over_time.mean(1) / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"])
def test_the_number_of_steps_is_foretold(name):
    backbone = build_backbone(f"torchvision/{name}", weights="none", size=32, num_frames=8).eval()
    for num_frames in (1, 2, 3, 8, 9, 17):
        with torch.no_grad():
            got = backbone(torch.zeros(1, num_frames, 3, 32, 32, dtype=torch.uint8)).shape[1]
        assert got == backbone.steps(num_frames), num_frames


def test_a_video_backbone_says_what_it_was_trained_on():
    spec = build_backbone("torchvision/r3d_18", weights="none", num_frames=16).spec
    assert (spec.size, spec.num_frames, spec.interpolation) == (112, 16, "bilinear")
    assert build_backbone("test_resnet", weights="none").spec.num_frames is None


@pytest.mark.slow
def test_clips_that_are_too_short_are_refused_with_some_that_are_not():
    with pytest.raises(
        ModelError, match=r"s3d' cannot take clips of 4 frames of 224 pixels: .*it takes 16 frames of 224"
    ):
        build_backbone("torchvision/s3d", weights="none", num_frames=4)


def test_a_backbone_for_so_many_frames_refuses_others():
    backbone = build_backbone("torchvision/mvit_v2_s", weights="none", size=32, num_frames=4)
    with pytest.raises(ModelError, match="built for clips of 4 frames and got 6"):
        backbone(torch.zeros(1, 6, 3, 32, 32, dtype=torch.uint8))
