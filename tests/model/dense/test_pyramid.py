"""The feature pyramid: which stages it reads, its strides, and backbones that have none."""

import pytest
import torch
from dense_models import dense_model
from torch import nn

import finetune as ft
from finetune.errors import ModelError

STRIDES = {
    ("resnet10t", 128): (4, 8, 16, 32),
    ("resnet10t", 100): (4, 8, 16, 32),
    ("resnet10t", 160): (8, 16, 32),
    ("torchvision/mobilenet_v3_small", 96): (4, 8, 16, 32),
    ("mobilenetv3_small_050", 224): (8, 16, 32),
    ("vit_tiny_patch16_224", 64): (4, 8, 16, 32),
    ("swin_tiny_patch4_window7_224", 224): (8, 16, 32),
}


@pytest.mark.parametrize(("backbone", "size"), STRIDES)
def test_levels_have_strides_from_4_or_8_to_32_and_fit_their_maps(backbone, size):
    model = dense_model(["track", "segment"], backbone=backbone, size=size, num_frames=2)
    shape = model.sharing.pyramid.shape
    assert shape.strides == STRIDES[backbone, size]
    outputs = model.eval()(torch.zeros(1, 2, 3, size, size, dtype=torch.uint8))
    assert outputs["track"].shape == (1, sum(side**2 for side in shape.sides), 3 + 4 + 1 + 2)
    assert outputs["segment"].shape == (1, 3, -(-size // 4), -(-size // 4))


def test_the_pyramid_is_a_stage_of_its_own_among_the_new_parts():
    model = dense_model(["detect"])
    assert list(model.stages)[-2:] == ["pyramid", "head"]
    assert ft.set_trainable(model, "head") == ["pyramid", "head"]
    assert ft.set_trainable(model, ["pyramid"]) == ["pyramid"]


def test_heads_grow_with_the_backbone():
    small, large = (dense_model(["detect"], backbone=name).sharing.pyramid.shape for name in ("resnet10t", "resnet18"))
    assert (small.channels, small.convolutions) == (64, 2)
    assert (large.channels, large.convolutions) == (128, 3)


def test_without_a_task_of_motion_only_the_middle_frame_passes_the_pyramid():
    model, rows = dense_model(["detect"], num_frames=5), []
    model.sharing.pyramid.register_forward_hook(lambda module, inputs, outputs: rows.append(outputs[0].shape[:2]))
    clips = torch.randint(0, 255, (2, 5, 3, 64, 64), dtype=torch.uint8)
    first = model.eval()(clips)["detect"]
    assert rows == [(2, 1)]
    clips[:, [0, 1, 3, 4]] = 0
    torch.testing.assert_close(model(clips)["detect"], first)


class Vectors(nn.Module):
    """A backbone without maps."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 8)

    def forward(self, pictures):
        return self.layer(pictures.mean((2, 3)))


def test_a_backbone_without_maps_is_refused():
    with pytest.raises(ModelError, match="no stage of this backbone returns maps"):
        dense_model(["detect"], backbone=Vectors)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "torchvision/r3d_18", "num_frames": 8},
        {"sharing": "towers"},
        {"fusion": "early"},
        {"fusion": "slow"},
    ],
    ids=str,
)
def test_what_mixes_frames_or_doubles_the_backbone_is_refused(settings):
    with pytest.raises(ModelError, match="need maps of single frames: take an image backbone"):
        dense_model(["detect"], **settings)
