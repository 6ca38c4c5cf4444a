"""Features taken where stages end, while a network runs as it does: of which module, and what is refused."""

import copy

import pytest
import torch
from contract import clips_of
from multitask_models import tasked
from torch import nn

from finetune.errors import ModelError
from finetune.model.classifier import build_model
from finetune.model.freezing.freeze import set_trainable
from finetune.model.frozen_prefix import find_cut, forward_before_cut
from finetune.model.multitask.feature_taps import FeatureTaps, StageEnd, choose_stage, find_stage_ends
from finetune.model.multitask.task_readers import to_feature_maps
from finetune.recipe.tasks import Task

# Of each network some stages, the modules that end them, and the shape of what one picture of 64 pixels gives there.
NETWORKS = {
    "test_resnet": {
        "stem": ("bn1", (32, 32, 32)),
        "layer2": ("layer2", (48, 8, 8)),
        "layer4": ("layer4", (96, 2, 2)),
    },
    "mobilenetv3_small_050": {
        "stem": ("bn1", (16, 32, 32)),
        "blocks.3": ("blocks.3", (24, 4, 4)),
        "blocks.5": ("blocks.5", (288, 2, 2)),
    },
    "test_vit": {
        "stem": ("patch_embed", (64, 4, 4)),
        "blocks.2": ("blocks.2", (64, 4, 4)),
        "blocks.5": ("norm", (64, 4, 4)),
    },
    "test_convnext": {
        "stem": ("stem", (24, 16, 16)),
        "stages.1": ("stages.1", (32, 8, 8)),
        "stages.3": ("stages.3", (64, 2, 2)),
    },
}
CASES = [(name, stage, *found) for name, stages in NETWORKS.items() for stage, found in stages.items()]


@pytest.mark.parametrize(("name", "stage", "module", "shape"), CASES)
def test_what_is_taken_is_what_the_module_that_ends_the_stage_gives(name, stage, module, shape):
    model = tasked(
        {"it": Task(kind="classify", feature_stage=stage), "box": Task(kind="box", feature_stage=stage)}, backbone=name
    ).eval()
    assert {tap.module for tap in model.sharing.tap_of.values()} == {module}
    assert {tap.shape for tap in model.sharing.tap_of.values()} == {(4, *shape)}
    by_hand = []
    handle = model.backbone.net.get_submodule(module).register_forward_hook(lambda *call: by_hand.append(call[2]))
    clips = clips_of(model)
    said = model(clips)
    handle.remove()
    assert len(by_hand) == 1 and torch.equal(model.sharing.taps.taken[stage], by_hand[0])
    maps = to_feature_maps(by_hand[0], clips=2, takes_clips=False)
    assert maps.shape == (2, 4, *shape)
    torch.testing.assert_close(said["it"], model.heads["it"](maps.mean((1, 3, 4))))


@pytest.mark.parametrize(
    ("name", "stage", "place"),
    [("test_convnext", "stages.2", 2), ("test_vit", "blocks.3", 3), ("test_resnet", "layer3", 3)],
)
@torch.no_grad()
def test_what_is_taken_is_what_timm_gives_for_that_place(name, stage, place):
    model = tasked({"it": Task(kind="classify", feature_stage=stage)}, backbone=name).eval()
    clips = clips_of(model)
    model(clips)
    maps = to_feature_maps(model.sharing.taps.taken[stage], clips=2, takes_clips=False)
    pictures = model.backbone.pictures(clips)
    (wanted,) = model.backbone.net.forward_intermediates(pictures, indices=[place], intermediates_only=True)
    torch.testing.assert_close(maps.flatten(0, 1), wanted)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_network_that_is_tapped_gives_what_it_gave(name):
    tasks = {"one": Task(kind="classify"), "box": Task(kind="box")}
    tapped = tasked(tasks, backbone=name).eval()
    torch.manual_seed(0)
    plain = build_model(name, ["a", "b"], weights="none", num_frames=4, size=64).eval()
    clips = clips_of(plain)
    assert torch.equal(tapped.backbone(clips), plain.backbone(clips))


@pytest.mark.slow
def test_video_networks_are_tapped_too():
    model = tasked(
        {"box": Task(kind="box", feature_stage="layer2")}, backbone="torchvision/r3d_18", size=32, num_frames=4
    )
    tap = model.sharing.tap_of["box"]
    assert (tap.stage, tap.module, tap.shape) == ("layer2", "layer2", (2, 128, 8, 8))
    assert model.eval()(clips_of(model))["box"].shape == (2, 4)


class Net(nn.Module):
    """Parts that run in another order than they are named; the first of them twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
        self.first = nn.Linear(2, 2)
        self.act = nn.ReLU()
        self.pair = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.LSTM(2, 2)})

    def forward(self, values):
        middle = self.pair["a"](self.first(self.act(self.first(values))))
        return self.last(middle), self.pair["b"](middle)


def test_the_end_is_the_part_called_last_and_what_gives_no_tensor_ends_nothing():
    net = Net()
    stage_of = {name: name.split(".")[0] for name, _ in net.named_parameters()}
    order = []
    net.first.register_forward_hook(lambda *call: order.append(call[2].shape))
    ends = find_stage_ends(net, stage_of, lambda: net(torch.zeros(4, 2)))
    assert ends == {"first": ("first", (4, 2)), "last": ("last", (4, 3))}
    assert len(order) == 2 and not net.last._forward_hooks


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stage_that_is_not_there_is_named_with_the_nearest(name):
    stage = list(NETWORKS[name])[1]
    with pytest.raises(
        ModelError, match=rf"tasks.car.feature_stage: unknown stage '{stage}x' \(nearest: .*{stage}.*stem, "
    ):
        tasked({"car": Task(kind="box", feature_stage=f"{stage}x")}, backbone=name)


@pytest.mark.parametrize(("name", "stage"), [("mobilenetv3_small_050", "conv_head"), ("test_convnext", "head.norm")])
@pytest.mark.parametrize("kind", ["box", "classify"])
def test_a_stage_without_a_picture_is_refused_with_those_that_have_one(name, stage, kind):
    with pytest.raises(ModelError) as error:
        tasked({"car": Task(kind=kind, feature_stage=stage)}, backbone=name)
    assert str(error.value).startswith(
        f"tasks.car.feature_stage: stage {stage!r} returns no feature map; take one of stem, "
    )
    assert stage not in str(error.value).partition("take one of")[2]


@pytest.mark.parametrize("stage", ["temporal", "head"])
def test_what_is_new_is_no_stage_of_the_backbone(stage):
    with pytest.raises(ModelError, match=f"tasks.car.feature_stage: unknown stage '{stage}'"):
        tasked({"car": Task(kind="box", feature_stage=stage)})


def test_a_network_that_gives_no_pictures_at_all_is_refused():
    with pytest.raises(ModelError, match=r"tasks.car: no stage of this backbone returns a feature map"):
        choose_stage({"a": StageEnd("a", (2, 9)), "b": StageEnd("b", (2, 9, 1, 1))}, None, ["a", "b"], task="car")


@pytest.mark.slow
def test_tokens_of_a_clip_are_refused_with_the_task():
    with pytest.raises(
        ModelError, match=r"tasks.car: at '.*' the network returns a tensor \(.*no positions in the picture"
    ):
        tasked({"car": "box"}, backbone="torchvision/mvit_v1_b", size=64, num_frames=4)


@pytest.mark.parametrize(
    ("shape", "is_picture"),
    [
        ((8, 16, 4, 4), True),
        ((8, 4, 4, 16), True),
        ((8, 16, 1, 1), False),
        ((8, 1, 1, 16), False),
        ((1, 16, 2, 4, 4), True),
        ((1, 2, 4, 4, 16), True),
        ((1, 16, 2, 1, 1), False),
        ((1, 2, 1, 1, 16), False),
        ((8, 17, 16), True),
        ((8, 1, 16), False),
        ((8, 16), False),
    ],
)
def test_a_picture_has_more_than_one_place(shape, is_picture):
    ends = {"stem": StageEnd("stem", (2, 3, 4, 4)), "it": StageEnd("end", shape)}
    assert choose_stage(ends, None, ["stem", "it"], task="car") == ("it" if is_picture else "stem")


def test_a_copy_has_nothing_of_what_was_taken_and_takes_its_own():
    net, taps = nn.Sequential(nn.Linear(2, 2)), FeatureTaps()
    taps.attach(net, "it", "0")
    net(torch.ones(1, 2))
    taken = taps.taken["it"]
    copied, copied_taps = copy.deepcopy((net, taps))
    assert copied_taps.taken == {}
    copied(torch.zeros(3, 2))
    assert copied_taps.taken["it"].shape == (3, 2) and taps.taken["it"] is taken


def test_a_cut_before_all_that_tasks_read_takes_what_enters_and_nothing_else():
    model = tasked({"box": Task(kind="box", feature_stage="layer3"), "way": "classify"}, size=32)
    set_trainable(model, "layer3")
    model.eval()
    cut = find_cut(model, 4)
    assert cut is not None and not cut.taps and len(cut.item) == 4
    clips = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        entering = forward_before_cut(model, clips, cut)
        assert entering.shape == (2, *cut.item)
        whole, parted = model(clips), model(entering, cut)
    assert all(torch.allclose(whole[task], parted[task], atol=1e-5) for task in whole)
