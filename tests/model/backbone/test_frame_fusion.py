"""How frames meet inside a backbone: what a clip that stands still gives, and what the order of frames does."""

import copy

import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.errors import ModelError
from finetune.model.backbone.backbone import build_backbone
from finetune.model.backbone.frame_fusion import FrameCount, TemporalShift, stack_grey_frames
from finetune.model.classifier import build_from_settings
from finetune.recipe.schema import Clip, Model, Phase, Train

SHIFTED = [
    TINY,
    "regnetx_002",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "tinynet_e",
    "efficientnetv2_rw_t",
    "test_convnext",
    "torchvision/resnet18",
    "torchvision/regnet_x_400mf",
    "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v3_small",
    "torchvision/convnext_tiny",
]


def clips(frames=4, *, size=64, still=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1 if still else frames, 3, size, size)
    return torch.randint(0, 255, shape, dtype=torch.uint8, generator=generator).expand(2, frames, -1, -1, -1)


def enliven(module):
    """Give weight to residual branches, which begin at nothing or nearly so, and would hide what enters them."""
    for name, parameter in module.named_parameters():
        if name.endswith(("weight", "gamma", "layer_scale")) and parameter.abs().max() < 1e-4:
            torch.nn.init.ones_(parameter)


def pair(name, fusion, *, num_frames=4):
    """The backbone with its fusion and the one without, both with the same weights."""
    torch.manual_seed(0)
    fused = build_backbone(name, weights="none", size=64, num_frames=num_frames, fusion=fusion)
    torch.manual_seed(0)
    plain = build_backbone(name, weights="none", size=64, num_frames=num_frames)
    enliven(fused)
    enliven(plain)
    return fused.eval().double(), plain.eval().double()  # deep networks without trained weights magnify rounding


@torch.no_grad()
def mean_of(backbone, frames):
    return backbone(frames).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIFTED)
def test_tsm_tells_a_clip_from_its_reverse_and_the_plain_network_cannot(name):
    fused, plain = pair(name, "tsm")
    assert fused.net.state_dict().keys() == plain.net.state_dict().keys()
    forward, backward = clips(), clips().flip(1)
    torch.testing.assert_close(mean_of(plain, forward), mean_of(plain, backward), rtol=1e-4, atol=1e-4)
    far = (mean_of(fused, forward) - mean_of(fused, backward)).abs().max()
    assert far > 1e-3 * mean_of(fused, forward).abs().max()


def test_a_shift_takes_an_eighth_of_the_channels_from_the_next_frame_and_an_eighth_from_the_last():
    pictures = torch.arange(2 * 3 * 16.0).view(6, 16, 1, 1) + 1
    (shifted,) = TemporalShift(FrameCount(3))(None, (pictures,))
    before, after = (x.view(2, 3, 16) for x in (pictures, shifted))
    assert torch.equal(after[:, 0, :2], before[:, 1, :2]) and torch.equal(after[:, 1, :2], before[:, 2, :2])
    assert torch.equal(after[:, 1, 2:4], before[:, 0, 2:4]) and torch.equal(after[:, 2, 2:4], before[:, 1, 2:4])
    assert not after[:, 2, :2].any() and not after[:, 0, 2:4].any()  # nothing comes in at the ends
    assert torch.equal(after[:, :, 4:], before[:, :, 4:])


def test_clips_do_not_leak_into_each_other():
    fused, _ = pair(TINY, "tsm")
    both = clips()
    with torch.no_grad():
        alone = torch.cat([fused(both[:1]), fused(both[1:])])
        torch.testing.assert_close(fused(both), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "densenet121", "torchvision/vgg11"])
def test_tsm_names_the_families_it_is_there_for(name):
    with pytest.raises(ModelError, match="'tsm' works with ResNet, ResNeXt, RegNet, MobileNet"):
        build_backbone(name, weights="none", size=64, fusion="tsm")


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8])
@pytest.mark.parametrize("name", [TINY, "test_vit", "test_efficientnet", "torchvision/swin_t"])
@pytest.mark.parametrize("fusion", ["early", "slow"])
def test_a_clip_that_stands_still_gives_the_features_of_its_frame(name, fusion, num_frames):
    if fusion == "slow" and num_frames == 1:
        return
    if name.startswith("torchvision") and num_frames != 2:
        return  # large
    fused, plain = pair(name, fusion, num_frames=num_frames)
    frames = clips(num_frames, still=True)
    with torch.no_grad():
        expected = plain(frames[:, :1])
        got = fused(frames)
    assert got.shape[1] == fused.steps(num_frames)
    torch.testing.assert_close(got, expected.expand_as(got), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fusion", ["early", "slow"])
def test_a_moving_clip_does_not_give_the_mean_of_its_frames(fusion):
    fused, plain = pair(TINY, fusion)
    assert not torch.allclose(mean_of(fused, clips()), mean_of(plain, clips()), rtol=1e-2)


def test_slow_fusion_halves_the_frames_until_one_is_left():
    for num_frames, merges in ((2, 1), (3, 2), (4, 2), (8, 3), (64, 4)):
        fused, _ = pair(TINY, "slow", num_frames=num_frames)
        assert len(fused.merges) == merges  # four places between five stages
        with torch.no_grad():
            assert fused(clips(num_frames)).shape[1] == fused.steps(num_frames) == -(-num_frames // 2**merges)
            assert fused(clips(7)).shape[1] == fused.steps(7)


def test_slow_fusion_needs_two_frames():
    with pytest.raises(ModelError, match="'slow' needs clips of two frames or more"):
        build_backbone(TINY, weights="none", num_frames=1, fusion="slow")


def test_early_fusion_takes_the_number_of_frames_it_was_built_for():
    fused, _ = pair(TINY, "early")
    with pytest.raises(ModelError, match="built for clips of 4 frames and got 5"):
        fused(clips(5))


def test_early_fusion_refuses_a_first_layer_that_normalises_its_weights():
    with pytest.raises(ModelError, match="'early' needs a backbone that begins with a plain convolution"):
        build_backbone("test_nfnet", weights="none", fusion="early")


def grey(frame_3HW):
    red, green, blue = frame_3HW.double()
    return 0.299 * red + 0.587 * green + 0.114 * blue


@pytest.mark.parametrize("num_frames", [1, 2, 3, 6, 7, 8])
def test_the_channels_of_a_grey_stack_are_three_successive_frames_in_grey(num_frames):
    fused, _ = pair("test_vit", "grey_stack", num_frames=num_frames)  # its mean and standard deviation are 0.5
    frames = clips(num_frames)
    pictures = fused.pictures(frames) * fused.std[0] + fused.mean[0]
    assert len(pictures) == 2 * fused.steps(num_frames) == 2 * -(-num_frames // 3)
    for row, picture in enumerate(pictures.unflatten(0, (2, -1)).flatten(1, 2)):
        for step, channel in enumerate(picture):
            expected = grey(frames[row, min(step, num_frames - 1)])
            torch.testing.assert_close(channel, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [TINY, "test_vit"])
def test_a_clip_that_stands_still_gives_the_features_of_its_frame_in_grey(name):
    fused, plain = pair(name, "grey_stack", num_frames=5)
    frames = clips(5, still=True)
    in_grey = stack_grey_frames(frames[:, :3].double()).round().to(torch.uint8)
    assert torch.equal(in_grey[:, 0, 0], in_grey[:, 0, 2])
    with torch.no_grad():
        expected = plain(in_grey)
        torch.testing.assert_close(fused(frames), expected.expand(-1, 2, -1), rtol=0.02, atol=0.02)


def test_grey_stacks_tell_a_clip_from_its_reverse():
    fused, plain = pair(TINY, "grey_stack", num_frames=3)
    forward, backward = clips(3), clips(3).flip(1)
    torch.testing.assert_close(mean_of(plain, forward), mean_of(plain, backward))
    assert not torch.allclose(mean_of(fused, forward), mean_of(fused, backward), rtol=1e-2)


@pytest.mark.parametrize("num_frames", [1, 2, 6, 7, 8])
def test_two_streams_are_the_features_of_middle_frames_and_of_grey_stacks(num_frames):
    both, plain = pair(TINY, "two_stream", num_frames=num_frames)
    stacked, _ = pair(TINY, "grey_stack", num_frames=num_frames)
    frames, steps = clips(num_frames), -(-num_frames // 3)
    middles = [min(3 * step + 1, num_frames - 1) for step in range(steps)]
    with torch.no_grad():
        expected = torch.cat([plain(frames[:, middles]), stacked(frames)], 2)
        torch.testing.assert_close(both(frames), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (2, both.steps(num_frames), both.width)


@pytest.mark.parametrize("fusion", ["early", "slow", "tsm", "grey_stack", "two_stream"])
def test_a_video_backbone_has_no_fusion(fusion):
    with pytest.raises(ModelError, match=f"{fusion}': a video backbone mixes frames itself"):
        build_backbone("torchvision/r3d_18", weights="none", size=32, fusion=fusion)


def train_step(model):
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=0.1, weight_decay=0.1), lr=0.1)
    model.train()
    frames = clips(size=model.size)
    torch.nn.functional.cross_entropy(model(frames)["label"], torch.tensor([0, 1])).backward()
    optimizer.step()


def snapshot(model):
    return {name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("fusion", ["early", "slow", "tsm", "grey_stack", "two_stream"])
def test_a_fused_model_freezes_and_a_copy_of_it_is_its_own(fusion):
    torch.manual_seed(0)
    settings = Model(backbone=TINY, weights="none", fusion=fusion)
    model = build_from_settings(settings, ["a", "b"], num_frames=4, size=32)
    new = ["temporal", "head"] if fusion == "slow" else ["head"]
    assert ft.set_trainable(model, "head") == new
    before = snapshot(model)
    train_step(model)
    after = snapshot(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for stage in new for name in model.stages[stage].parameters}

    twin = copy.deepcopy(model).eval()
    frames = clips(size=32)
    with torch.no_grad():
        expected = model.eval()(frames)["label"]
        model(clips(3, size=32) if fusion != "early" else frames)  # the original's own count of frames
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(twin(frames)["label"], expected)


@pytest.mark.parametrize("name", [TINY, "tinynet_e", "test_vit", "torchvision/swin_t"])
def test_drop_path_drops_in_learning_stages_and_not_in_frozen_ones(name):
    size = 32 if name.startswith("torchvision") else 64
    model = build_from_settings(
        Model(backbone=name, weights="none", drop_path=0.5), ["a", "b"], num_frames=4, size=size
    ).train()
    enliven(model)
    frames = clips(size=size)
    ft.set_trainable(model, "head")
    with torch.no_grad():
        frozen = model.backbone(frames)
        assert torch.equal(frozen, model.eval().backbone(frames))
        ft.set_trainable(model, "all")
        model.train()
        assert not torch.equal(model.backbone(frames), frozen)


@pytest.mark.parametrize("name", ["torchvision/convnext_tiny", "torchvision/efficientnet_b0", "test_convnext"])
def test_without_drop_path_nothing_is_dropped_whatever_the_library_thinks_best(name):
    backbone = build_backbone(name, weights="none", size=64).train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm | torch.nn.Dropout):
            module.eval()
    with torch.no_grad():
        assert torch.equal(backbone(clips()), backbone(clips()))


@pytest.mark.parametrize("name", ["torchvision/vgg11", "torchvision/resnet18", "densenet121", "vgg11"])
def test_drop_path_is_refused_where_there_is_none(name):
    with pytest.raises(ModelError, match=r"model.drop_path is 0.1, and this backbone has no residual paths"):
        build_backbone(name, weights="none", drop_path=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["early", "slow", "tsm", "grey_stack", "two_stream"])
def test_a_trained_model_is_loaded_with_its_fusion(fusion, clip_folder, tmp_path):
    manifest = ft.Manifest.from_folder(clip_folder)
    settings = Model(backbone=TINY, weights="none", fusion=fusion)
    model = build_from_settings(settings, manifest.classes, num_frames=4, size=32)
    phases, train = [Phase(unfreeze="all", epochs=1)], Train(batch_size=4, precision="fp32", device="cpu")
    run = ft.fit(model, manifest, phases, clip=Clip(num_frames=4), train=train, out=tmp_path / "run", quiet=True)
    frames = clips(size=32)
    with torch.no_grad():
        assert torch.equal(ft.load(run)(frames)["label"], model.eval()(frames)["label"])
