"""Features before they are pooled over space: of both libraries, pictures and clips, channels first or last, tokens."""

import pytest
import torch

from finetune.errors import ModelError
from finetune.model.backbone.backbone import build_backbone

POOLED = [
    ("test_resnet", 64),
    ("test_byobnet", 64),
    ("test_efficientnet", 64),
    ("swin_tiny_patch4_window7_224", 64),
    ("torchvision/resnet18", 64),
    ("torchvision/densenet121", 64),
    ("torchvision/mobilenet_v2", 64),
    ("torchvision/shufflenet_v2_x0_5", 64),
    ("torchvision/mnasnet0_5", 64),
    ("torchvision/squeezenet1_1", 64),
    ("torchvision/googlenet", 64),
    ("torchvision/efficientnet_b0", 64),
    ("torchvision/swin_t", 64),
    ("torchvision/r3d_18", 32),
    ("torchvision/swin3d_t", 32),
]
TOKENS = [("test_vit", 64, 17), ("torchvision/vit_b_32", 64, 5), ("torchvision/mvit_v2_s", 64, 5)]


def maps_and_features(name, size, num_frames):
    torch.manual_seed(0)
    backbone = build_backbone(name, weights="none", size=size, num_frames=num_frames).eval()
    clips = torch.randint(0, 255, (2, num_frames, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        return backbone.feature_map(clips), backbone(clips)


@pytest.mark.parametrize(("name", "size"), POOLED)
def test_the_mean_over_a_map_is_the_features(name, size):
    maps_BTCHW, features = maps_and_features(name, size, 9)
    assert maps_BTCHW.ndim == 5 and maps_BTCHW.shape[:3] == features.shape
    assert maps_BTCHW.shape[3] == maps_BTCHW.shape[4]
    scale = features.abs().max()
    torch.testing.assert_close(maps_BTCHW.mean((3, 4)) / scale, features / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "count"), TOKENS)
def test_the_first_token_is_the_features(name, size, count):
    tokens_BTNC, features = maps_and_features(name, size, 2)
    assert tokens_BTNC.shape == (2, features.shape[1], count, features.shape[2])
    torch.testing.assert_close(tokens_BTNC[:, :, 0], features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fusion", "steps"), [("early", 1), ("slow", 1), ("grey_stack", 2), ("two_stream", 2)])
def test_frames_that_met_have_one_map(fusion, steps):
    backbone = build_backbone("test_resnet", weights="none", size=64, num_frames=4, fusion=fusion)
    assert backbone.feature_map(torch.zeros(2, 4, 3, 64, 64, dtype=torch.uint8)).shape == (2, steps, 96, 2, 2)


def test_a_network_of_several_maps_says_so():
    backbone = build_backbone("crossvit_9_240", weights="none")
    with pytest.raises(ModelError, match="CrossVit has no one feature map"):
        backbone.feature_map(torch.zeros(1, 1, 3, 240, 240, dtype=torch.uint8))
