"""A network that is run in two parts is the network."""

import pytest
import torch
from contract import clips_of, slowly
from torch import nn

import finetune as ft
from finetune.errors import ModelError
from finetune.model import frozen_prefix as cutting
from finetune.model.classifier import build_from_settings, build_model
from finetune.model.frozen_prefix import FEATURES, find_cut, forward_after_cut, forward_before_cut

FAMILIES = [
    ("resnet18", "layer3", 64),
    ("convnext_atto", "stages.2", 64),
    ("efficientnet_b0", "blocks.4", 64),
    ("mobilenetv2_100", "blocks.5", 64),
    ("mobilenetv3_small_050", "last(2)", 64),
    ("regnety_002", "s3", 64),
    ("vit_tiny_patch16_224", "blocks.9", 64),
    ("swin_tiny_patch4_window7_224", "layers.2", 112),
    ("torchvision/resnet18", "layer4", 64),
    ("torchvision/swin_t", "features.5", 64),
    ("torchvision/r3d_18", "layer3", 32),
    ("torchvision/squeezenet1_1", "last(2)", 64),
]
MORE = [
    ("eva02_tiny_patch14_224", "blocks.9", 56),
    ("densenet121", "features.denseblock4", 64),
    ("levit_128s", "stages.2", 224),
    ("maxvit_pico_rw_256", "stages.3", 256),
    ("nfnet_l0", "stages.2", 64),
    ("torchvision/vit_b_16", "encoder.layers.encoder_layer_9", 64),
    ("torchvision/convnext_tiny", "features.6", 64),
    ("torchvision/googlenet", "inception5a", 96),
    ("torchvision/densenet121", "features.norm5", 64),
    ("torchvision/maxvit_t", "blocks.3", 224),
    ("torchvision/vgg11", "classifier", 64),
]


def model_at(name, stage, size, **settings):
    torch.manual_seed(0)
    model = build_model(name, ["a", "b"], weights="none", num_frames=2, size=size, **settings)
    ft.set_trainable(model, stage)
    return model.train()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage", "size"), [*FAMILIES, *slowly(MORE)])
def test_the_rest_of_a_network_gives_what_the_whole_gives_and_learns_the_same(name, stage, size):
    model = model_at(name, stage, size)
    cut = find_cut(model, 2)
    assert cut is not None and cut.entry != FEATURES
    model.eval()
    clips = clips_of(model)
    whole = model(clips)["label"]
    whole.sum().backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    model.train().eval()  # LeViT keeps a part of its graph in evaluation mode
    entering = forward_before_cut(model, clips, cut)
    assert tuple(entering.shape[1:]) == cut.item and not entering.requires_grad
    parted = model(entering, cut)["label"]
    parted.sum().backward()
    assert torch.equal(whole, parted)
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert found.keys() == gradients.keys()
    assert all(torch.equal(found[name], gradients[name]) for name in found)


def test_of_a_wholly_frozen_backbone_its_features_enter():
    model = model_at("resnet18", "head", 64)
    cut = find_cut(model, 2)
    assert cut.entry == FEATURES and cut.item == (2, 512)
    clips = clips_of(model)
    assert torch.equal(forward_before_cut(model, clips, cut), model.backbone(clips))


def test_nothing_enters_where_the_first_stage_learns():
    assert find_cut(model_at("resnet18", "all", 64), 2) is None
    assert find_cut(model_at("resnet18", ["stem"], 64), 2) is None


def test_a_single_stage_in_the_middle_is_cut_before_it():
    cut = find_cut(model_at("resnet18", ["layer2"], 64), 2)
    assert cut.entry == "layer2" and cut.item == (2, 16, 16, 64)


def test_frames_that_meet_inside_are_cut_too_but_for_those_that_learn_to_merge():
    clips = clips_of(model := model_at("resnet18", "layer3", 64, dropout=0.0))
    assert find_cut(model, 2) is not None
    settings = ft.Model(backbone="resnet18", weights="none", fusion="tsm")
    for fusion, rows in (("tsm", 2), ("grey_stack", 1), ("two_stream", 2)):
        mixing = settings.model_copy(update={"fusion": fusion})
        mixed = build_from_settings(mixing, ["a", "b"], num_frames=2, size=64)
        ft.set_trainable(mixed, "layer3")
        mixed.eval()
        cut = find_cut(mixed, 2)
        assert cut.item[0] == rows
        assert torch.equal(mixed(clips)["label"], mixed(forward_before_cut(mixed, clips, cut), cut)["label"])
    merging = build_from_settings(settings.model_copy(update={"fusion": "slow"}), ["a", "b"], num_frames=2, size=64)
    ft.set_trainable(merging, "head")
    assert find_cut(merging, 2) is None


@pytest.mark.parametrize("stage", ["layer1", "layer3", "all"])
def test_finding_a_cut_moves_nothing(stage):
    model = model_at("resnet18", "layer3", 64)
    ft.set_trainable(model, stage, batch_norm="train")
    model.train()
    before_it = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    find_cut(model, 2)
    assert all(torch.equal(value, before_it[name]) for name, value in model.state_dict().items())
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert torch.equal(state, torch.get_rng_state())
    assert all(each.grad is None for each in model.parameters())


def test_a_network_that_cannot_be_run_in_parts_is_refused():
    with pytest.raises(ModelError, match=r"cannot be run from .* onwards: |computes something else when it is run"):
        find_cut(model_at("xcit_nano_12_p16_224", "blocks.8", 64), 2)
    with pytest.raises(ModelError, match="passes a list to blocks.1 and cannot be cut there"):
        find_cut(model_at("crossvit_tiny_240", "blocks.1", 240), 2)


def test_a_part_that_reaches_around_the_cut_is_noticed(monkeypatch):
    model = model_at("resnet18", "layer3", 64)

    class Around(nn.Module):
        """The stem's pictures are added behind layer3, past the cut."""

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, pictures):
            stem = self.net.maxpool(self.net.act1(self.net.bn1(self.net.conv1(pictures))))
            deep = self.net.layer3(self.net.layer2(self.net.layer1(stem)))
            deep = deep + stem.mean((1, 2, 3), keepdim=True)
            return self.net.global_pool(self.net.layer4(deep))

    around = Around(model.backbone.net)
    monkeypatch.setattr(model.backbone.net, "forward", lambda pictures: around(pictures))
    with pytest.raises(ModelError, match="from layer3 on"):
        find_cut(model, 2)


def test_frozen_modules_are_not_run_for_the_rest():
    model = model_at("resnet18", "layer4", 64)
    cut = find_cut(model, 2)
    entering = forward_before_cut(model, clips_of(model), cut)
    ran = []
    for name, module in model.backbone.net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs, name=name: ran.append((name, len(inputs[0]))))
    forward_after_cut(model, entering, cut)
    assert {name for name, pictures in ran if pictures} == {name for name, _ in ran if name.startswith("layer4")}
    assert not [name for name, _ in ran if name.startswith(("layer1", "layer2", "layer3"))]
    assert cutting.find_cut(model, 2) == cut
