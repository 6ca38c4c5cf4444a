"""Two towers: the pretrained network twice, side by side, frozen and trained as one network is."""

import copy

import pytest
import torch
from contract import clips_of, moved, slowly, snapshot, train_steps
from grey import TINY
from torch import nn

import finetune as ft
from finetune.errors import ModelError
from finetune.evaluation.gradcam import grad_cam
from finetune.model.activation_checkpointing import trainable_blocks
from finetune.model.backbone.backbone import build_backbone
from finetune.model.backbone.towers import CrossStitch, TowerPair, tower_distance
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import has_running_stats
from finetune.model.freezing.stages import split_into_stages
from finetune.model.frozen_prefix import FEATURES, find_cut, forward_after_cut, forward_before_cut
from finetune.model.lora import add_lora, merge_lora, merged_state_dict
from finetune.recipe.schema import Model

FAMILIES = [
    (TINY, 64),
    ("test_vit", 64),
    ("test_efficientnet", 64),
    ("test_convnext", 64),
    ("regnety_002", 64),
    ("mobilenetv3_small_050", 64),
    ("torchvision/resnet18", 64),
    ("torchvision/mobilenet_v3_small", 64),
    ("torchvision/vit_b_32", 64),
]
MORE = [
    ("densenet121", 64),
    ("levit_128s", 224),
    ("maxvit_pico_rw_256", 256),
    ("swin_tiny_patch4_window7_224", 112),
    ("torchvision/convnext_tiny", 64),
    ("torchvision/efficientnet_b0", 64),
    ("torchvision/googlenet", 64),
    ("torchvision/regnet_y_400mf", 64),
    ("torchvision/swin_t", 64),
    ("torchvision/swin3d_t", 32),
]
CUTS = [
    ("resnet18", "layer3", 64),
    ("resnet18", ["layer2"], 64),
    ("mobilenetv3_small_050", "last(2)", 64),
    ("mobilenetv2_100", "blocks.5", 64),
    ("convnext_atto", "stages.2", 64),
    ("vit_tiny_patch16_224", "blocks.9", 64),
    ("torchvision/resnet18", "layer4", 64),
    ("torchvision/r3d_18", "layer3", 32),
]


class Both(nn.Module):
    """Features of two towers (B, 2, T', D) as one vector a clip, in which each tower counts otherwise."""

    def forward(self, features):
        return features[:, 0].mean(1) + 2 * features[:, 1].mean(1)


def backbone_of(name=TINY, size=64, *, sharing="hard", num_frames=2):
    torch.manual_seed(0)
    return build_backbone(name, weights="none", size=size, num_frames=num_frames, sharing=sharing)


def model_of(name=TINY, size=64, *, sharing="cross_stitch", num_frames=2):
    """A classifier on what both towers give."""
    backbone = backbone_of(name, size, sharing=sharing, num_frames=num_frames)
    settings = Model(backbone=name, weights="none", dropout=0)
    model = VideoClassifier(backbone, classes=("a", "b"), settings=settings, num_frames=num_frames)
    model.add_module("temporal", Both())
    model.stages = split_into_stages(model, model.stage_of_parameters())
    return model.train()


def units(module):
    return [unit for unit in module.modules() if isinstance(unit, CrossStitch)]


def apart(model, *, seed=1):
    """The model, its second towers moved, so that each gives something else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if ".towers.1." in name:
                each += 0.1 * each.abs().mean() * torch.randn(each.shape, generator=generator)
    return model


def clips(*, size=64, num_frames=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, num_frames, 3, size, size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def make_identity(backbone):
    for unit in units(backbone):
        unit.change += torch.eye(2).unsqueeze(2) - unit.weights()


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["towers", "cross_stitch"])
@pytest.mark.parametrize(("name", "size"), [*FAMILIES, ("torchvision/r3d_18", 32), *slowly(MORE)])
@torch.no_grad()
def test_both_towers_begin_as_the_network_bit_for_bit(name, size, sharing):
    plain, both = backbone_of(name, size).eval(), backbone_of(name, size, sharing=sharing).eval()
    seen = clips(size=size)
    make_identity(both)
    whole, features = plain(seen), both(seen)
    assert features.shape == (len(seen), 2, *whole.shape[1:])
    assert torch.equal(features[:, 0], whole) and torch.equal(features[:, 1], whole)
    assert torch.equal(both.feature_map(seen), plain.feature_map(seen))


@pytest.mark.parametrize(("name", "size"), [*FAMILIES, *slowly(MORE)])
def test_stages_keep_their_names_and_each_but_the_last_ends_with_a_unit(name, size):
    plain, both = backbone_of(name, size), backbone_of(name, size, sharing="cross_stitch")
    stages = list(dict.fromkeys(plain.stage_of.values()))
    assert list(dict.fromkeys(both.stage_of.values())) == stages
    assert both.stage_of.keys() == {each for each, _ in both.net.named_parameters(remove_duplicate=False)}
    stitched = [stage for each, stage in both.stage_of.items() if each.endswith(".stitch.change")]
    assert sorted(stitched) == sorted(stages[:-1])
    count = {each: value.numel() for each, value in both.net.named_parameters() if ".stitch." not in each}
    assert sum(".towers.0." in each for each in count) == sum(".towers.1." in each for each in count)
    plainly = {each: value.numel() for each, value in plain.net.named_parameters()}
    shared = [each for each in count if ".towers." not in each]
    assert sum(count.values()) == 2 * sum(plainly.values()) - sum(plainly[each] for each in shared)


def test_class_tokens_and_positions_are_one_for_both():
    names = dict(backbone_of("test_vit", sharing="towers").net.named_parameters())
    assert {name for name in names if ".towers." not in name} == {"cls_token", "pos_embed"}


@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 5, 5), 1), ((3, 5, 4), 2), ((3, 5, 5, 4), 3)])
def test_a_unit_mixes_nine_tenths_and_one_tenth_and_each_channel_by_itself(shape, axis):
    unit, first, second = CrossStitch(4, axis), torch.randn(shape), torch.randn(shape)
    mixed = unit(first, second)
    torch.testing.assert_close(mixed[0], 0.9 * first + 0.1 * second)
    torch.testing.assert_close(mixed[1], 0.1 * first + 0.9 * second)
    with torch.no_grad():
        unit.change[0, 1, 2] += 1
    torch.testing.assert_close((unit(first, second)[0] - mixed[0]).movedim(axis, 0)[2], second.movedim(axis, 0)[2])
    changed = (unit(first, second)[0] - mixed[0]).movedim(axis, 0).flatten(1).abs().sum(1) > 0
    assert changed.tolist() == [False, False, True, False]
    assert torch.equal(unit(first, second)[1], mixed[1])


@pytest.mark.parametrize("sharing", ["towers", "cross_stitch"])
def test_only_a_stitch_lets_one_tower_learn_from_the_others_features(sharing):
    backbone = backbone_of(sharing=sharing)
    backbone(clips())[:, 0].sum().backward()
    gradients = {name: each.grad for name, each in backbone.net.named_parameters() if ".towers.1." in name}
    learnt = {backbone.stage_of[name] for name, each in gradients.items() if each is not None and each.abs().sum() > 0}
    stages = list(dict.fromkeys(backbone.stage_of.values()))
    assert learnt == (set() if sharing == "towers" else set(stages[:-1]))


def test_batch_norm_learns_the_statistics_of_its_own_towers_pictures():
    both, plain = backbone_of(sharing="towers").train(), backbone_of().train()
    louder = copy.deepcopy(plain)
    seen = clips()
    with torch.no_grad():
        both.net.conv1.towers[1][0].weight *= 2
        louder.net.conv1[0].weight *= 2
        features = both(seen)
        each = [plain(seen), louder(seen)]
    assert not torch.equal(*each)
    for tower, network in enumerate((plain, louder)):
        assert torch.equal(features[:, tower], each[tower])
        for name, norm in network.net.named_modules():
            if has_running_stats(norm):
                part, _, inner = name.partition(".")
                own = both.net.get_submodule(f"{part}.towers.{tower}" + (f".{inner}" if inner else ""))
                assert torch.equal(own.running_mean, norm.running_mean), name
                assert torch.equal(own.running_var, norm.running_var), name


def test_partial_batch_norm_moves_the_first_of_each_tower():
    model = model_of("resnet18")
    ft.set_trainable(model, "all", batch_norm="partial")
    model.train()
    moving = [name for name, each in model.named_modules() if has_running_stats(each) and each.training]
    assert moving == ["backbone.net.bn1.towers.0", "backbone.net.bn1.towers.1"]


@pytest.mark.parametrize("name", [TINY, "test_vit", "mobilenetv3_small_050"])
def test_what_is_frozen_stays_in_both_towers_and_what_learns_learns_in_both(name):
    model = model_of(name)
    stages = list(model.stages)
    learning = ft.set_trainable(model, stages[len(stages) // 2], batch_norm="train")
    begun = snapshot(model)
    ema = train_steps(model, 2)
    assert moved(model, begun) == learning
    with ema.averaged_weights(model):
        assert moved(model, begun) == learning
    now = snapshot(model)
    changed = {each for each in begun if not torch.equal(begun[each], now[each])}
    first, second = (
        {each.partition(part)[0] for each in changed if part in each} for part in (".towers.0", ".towers.1")
    )
    assert first == second
    assert any(".stitch." in each for each in changed)


def test_layer_decay_gives_a_unit_the_rate_of_the_stage_that_it_ends():
    model = model_of()
    groups = ft.param_groups(model, lr=1.0, layer_decay=0.5)
    rates = {id(each): group["lr"] for group in groups for each in group["params"]}
    wanted = {"stem": 1 / 32, "layer1": 1 / 16, "layer2": 1 / 8, "layer3": 1 / 4, "layer4": 1 / 2}
    for name, each in model.backbone.net.named_parameters():
        assert rates[id(each)] == wanted[model.backbone.stage_of[name]], name
    assert len(units(model)) == 4


def test_a_saved_state_is_loaded_again():
    model, seen = apart(model_of()).eval(), clips()
    other = model_of().eval()
    assert not torch.equal(model(seen)["label"], other(seen)["label"])
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(seen)["label"], other(seen)["label"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage", "size"), CUTS)
def test_the_rest_of_two_towers_gives_what_the_whole_gives_and_learns_the_same(name, stage, size):
    model = apart(model_of(name, size))
    ft.set_trainable(model, stage)
    cut = find_cut(model.train(), 2)
    assert (
        cut is not None and cut.entry != FEATURES and isinstance(model.backbone.net.get_submodule(cut.entry), TowerPair)
    )
    model.eval()
    seen = clips_of(model)
    whole = model(seen)["label"]
    whole.sum().backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    entering = forward_before_cut(model, seen, cut)
    assert tuple(entering.shape[1:]) == cut.item and not entering.requires_grad
    parted = model(entering, cut)["label"]
    parted.sum().backward()
    assert torch.equal(whole, parted)
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert found.keys() == gradients.keys()
    assert all(torch.equal(found[name], gradients[name]) for name in found)


def test_of_wholly_frozen_towers_the_features_of_both_enter_by_clip():
    model = apart(model_of("resnet18"))
    ft.set_trainable(model, "head")
    cut = find_cut(model, 2)
    assert cut.entry == FEATURES and cut.item == (2, 2, 512)
    seen = clips_of(model)
    kept, features = forward_before_cut(model.eval(), seen, cut), model.backbone(seen)
    assert torch.equal(kept[1], features[1]) and torch.equal(forward_after_cut(model, kept, cut), features)
    assert torch.equal(model(kept, cut)["label"], model(seen)["label"])


@pytest.mark.parametrize("name", [TINY, "test_vit"])
def test_checkpointed_towers_give_the_same_gradients(name):
    gradients = []
    for checkpointing in (False, True):
        model = apart(model_of(name))
        model.checkpointing = checkpointing
        ft.set_trainable(model, "all", batch_norm="train")
        model(clips_of(model))["label"].square().sum().backward()
        gradients.append({each: value.grad for each, value in model.named_parameters()})
    assert any(isinstance(block, TowerPair) for block in trainable_blocks(model))
    for each, value in gradients[0].items():
        assert torch.equal(value, gradients[1][each]), each


def test_the_distance_is_nothing_at_first_then_that_of_the_weights_that_learn():
    model = model_of()
    assert tower_distance(model).shape == () and tower_distance(model).item() == 0
    pair = model.backbone.net.layer4
    one, other = (next(tower.parameters()) for tower in pair.towers)
    with torch.no_grad():
        other += 0.5
    distance = tower_distance(model)
    assert distance.item() == pytest.approx(0.25 * one.numel())
    distance.backward()
    torch.testing.assert_close(one.grad, 2 * (one - other).detach())
    torch.testing.assert_close(other.grad, -one.grad)
    ft.set_trainable(model, ["layer3"])
    assert tower_distance(model).item() == 0
    assert tower_distance(nn.Linear(2, 2)).item() == 0


def test_the_heat_is_that_of_tower_0():
    class First(nn.Module):
        def forward(self, features):
            return features[:, 0].mean(1)

    model, plain = model_of(sharing="towers"), backbone_of()
    model.add_module("temporal", First())
    with torch.no_grad():
        for each in model.backbone.net.modules():
            if isinstance(each, TowerPair):
                for parameter in each.towers[1].parameters():
                    parameter.mul_(-1)
    alone = VideoClassifier(plain, classes=("a", "b"), settings=model.settings, num_frames=2)
    alone.heads.load_state_dict(model.heads.state_dict())
    seen = clips()[0]
    assert torch.equal(grad_cam(model, seen).heatmap_THW, grad_cam(alone, seen).heatmap_THW)


@pytest.mark.parametrize("name", [TINY, "test_vit"])
def test_low_rank_matrices_learn_in_both_towers_and_their_products_count_as_distance(name):
    pytest.importorskip("peft")
    model = model_of(name)
    names = set(model.state_dict())
    add_lora(model, "lora(r=2)", seed=0)
    ft.set_trainable(model, "lora(r=2)")
    assert tower_distance(model).item() == 0
    train_steps(model, 3, lr=0.1)
    apart_now = tower_distance(model)
    kept, seen, answers = merged_state_dict(model), clips_of(model), model.eval()(clips_of(model))["label"]
    assert kept.keys() == names
    merge_lora(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(seen)["label"], answers, rtol=1e-3, atol=1e-4)
    ft.set_trainable(model, "all")
    torch.testing.assert_close(tower_distance(model), apart_now, rtol=1e-3, atol=1e-8)
    assert apart_now > 0


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("crossvit_tiny_240", 240, "a CrossVit cannot be split into two towers: blocks.0 takes list, not one tensor"),
        ("xcit_nano_12_p16_224", 64, "patch_embed returns tuple, not one tensor"),
        ("eva02_tiny_patch14_224", 56, "blocks.0 takes more than one tensor"),
    ],
)
def test_a_network_whose_modules_hand_on_something_else_is_refused(name, size, reason):
    with pytest.raises(ModelError, match=reason):
        backbone_of(name, size, sharing="towers")


def test_frames_do_not_meet_inside_towers():
    with pytest.raises(ModelError, match=r"model.fusion 'tsm' does not work with multitask.sharing 'towers'; set it "):
        build_backbone(TINY, weights="none", size=64, fusion="tsm", sharing="towers")


def test_without_towers_there_is_one_network():
    backbone = backbone_of()
    assert backbone.num_towers == 1 and not any(isinstance(each, TowerPair) for each in backbone.modules())
    assert backbone(clips()).shape == (3, 2, backbone.width)
