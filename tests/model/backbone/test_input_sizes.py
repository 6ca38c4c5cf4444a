"""Backbones at other sizes than they were trained at: positions are resampled, sizes that do not go are refused."""

import pytest
import timm
import torch
from grey import TINY
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch.nn import functional as F
from torchvision import models as tv

from finetune.errors import ModelError
from finetune.model.backbone.backbone import build_backbone


def clips(size, frames=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (1, frames, 3, size, size), dtype=torch.uint8, generator=generator)


def saved(net, path):
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize("size", [96, 160, 224])
def test_positions_of_timm_are_resampled_as_timm_does(size, tmp_path):
    torch.manual_seed(0)
    published = timm.create_model("test_vit")  # of 160 pixels
    backbone = build_backbone("test_vit", weights=saved(published, tmp_path / "w.safetensors"), size=size).eval()
    side = size // 16
    expected = resample_abs_pos_embed(published.pos_embed, [side, side], num_prefix_tokens=1, antialias=True)
    got = backbone.net.pos_embed
    assert got.shape == (1, side * side + 1, 64)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(backbone.net.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    assert backbone(clips(size)).isfinite().all()


def test_features_at_another_size_are_near_those_at_the_own(tmp_path):
    torch.manual_seed(0)
    published = saved(timm.create_model("test_vit"), tmp_path / "w.safetensors")
    picture = F.interpolate(torch.rand(1, 3, 4, 4), 320, mode="bicubic")  # nothing fine to lose
    found = []
    for size in (160, 192):
        backbone = build_backbone("test_vit", weights=published, size=size).eval()
        clip = (F.interpolate(picture, size, mode="area") * 255).clamp(0, 255).to(torch.uint8)[None]
        with torch.no_grad():
            found.append(backbone(clip).flatten())
    same = F.cosine_similarity(*found, dim=0)
    other = build_backbone("test_vit", weights=published).eval()(clips(160))[0, 0]
    assert same > 0.95 > F.cosine_similarity(found[0], other, dim=0)


def test_tables_of_relative_positions_are_resampled(tmp_path):
    published = timm.create_model("swinv2_cr_tiny_ns_224", num_classes=0)
    path = saved(published, tmp_path / "w.safetensors")
    backbone = build_backbone("swinv2_cr_tiny_ns_224", weights=path, size=64).eval()
    assert torch.equal(backbone.net.patch_embed.proj.weight, published.patch_embed.proj.weight)
    assert backbone(clips(64)).isfinite().all()


@pytest.mark.slow
def test_positions_of_torchvision_are_resampled_as_torchvision_does(tmp_path):
    torch.manual_seed(0)
    published = tv.vit_b_32(weights=None)
    path = saved(published, tmp_path / "w.safetensors")
    backbone = build_backbone("torchvision/vit_b_32", weights=path, size=96).eval()
    state = tv.vision_transformer.interpolate_embeddings(96, 32, published.state_dict())
    assert torch.equal(backbone.net.encoder.pos_embedding, state["encoder.pos_embedding"])
    assert backbone.net.encoder.pos_embedding.shape == (1, 3 * 3 + 1, 768)


@pytest.mark.slow
def test_positions_in_space_and_time_are_resampled(tmp_path):
    torch.manual_seed(0)
    published = tv.video.mvit_v1_b(weights=None)
    path = saved(published, tmp_path / "w.safetensors")
    own = build_backbone("torchvision/mvit_v1_b", weights=path, num_frames=16).net.pos_encoding
    assert torch.equal(own.spatial_pos, published.pos_encoding.spatial_pos)
    assert torch.equal(own.temporal_pos, published.pos_encoding.temporal_pos)
    places = build_backbone("torchvision/mvit_v1_b", weights=path, size=112, num_frames=4).net.pos_encoding
    grid = published.pos_encoding.spatial_pos.T.reshape(1, -1, 56, 56)
    half = F.interpolate(grid, (28, 28), mode="bicubic")
    torch.testing.assert_close(places.spatial_pos, half.flatten(2)[0].T)
    pairs = published.pos_encoding.temporal_pos[1:7:4] + published.pos_encoding.temporal_pos[2:7:4]
    torch.testing.assert_close(places.temporal_pos, pairs / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [("test_vit", 100, "96 or 112 or 128"), ("torchvision/vit_b_32", 100, "96 or 128 or 224")],
)
def test_a_size_that_does_not_go_is_refused_with_sizes_that_do(name, size, sizes):
    with pytest.raises(ModelError, match=f"{name}' cannot take pictures of {size} pixels: .*; it takes .*{sizes}"):
        build_backbone(name, weights="none", size=size)


def test_a_convolutional_network_takes_any_size():
    backbone = build_backbone(TINY, weights="none", size=33)
    assert backbone(clips(33)).shape == (1, 2, backbone.width)


def test_weights_that_cannot_be_resampled_say_the_size_they_are_for(tmp_path):
    published = saved(timm.create_model("gmixer_12_224"), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="at 64 pixels instead of 224: does not fit .* of another shape"):
        build_backbone("gmixer_12_224", weights=published, size=64)


@pytest.mark.parametrize("size", [None, 64])
def test_weights_saved_at_a_size_load_at_it_without_being_touched(size, tmp_path):
    torch.manual_seed(0)
    first = build_backbone("test_vit", weights="none", size=size)
    again = build_backbone("test_vit", weights=saved(first.net, tmp_path / "w.safetensors"), size=size)
    assert all(torch.equal(first.net.state_dict()[name], value) for name, value in again.net.state_dict().items())
