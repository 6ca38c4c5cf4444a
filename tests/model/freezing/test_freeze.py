"""Contract 1: a freeze is a freeze, for parameters and buffers, whatever .train() says."""

import pytest
import torch
from contract import moved, snapshot
from grey import TINY
from timm.layers import EvoNorm2dB0
from torch import nn

import finetune as ft
from finetune.errors import ModelError
from finetune.model.classifier import build_model
from finetune.model.freezing.freeze import has_running_stats, trainable_stages

FAMILIES = [
    TINY,
    "test_vit",
    "test_efficientnet",
    "test_convnext",
    "test_byobnet",
    "test_nfnet",
    "mobilenetv3_small_050",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v3_small",
    "torchvision/resnet18",
]


def build(name=TINY, *, temporal="concat", size=None):
    torch.manual_seed(0)
    return build_model(name, ["a", "b", "c"], weights="none", temporal=temporal, num_frames=2, size=size)


def train_steps(model, *, steps=3, lr=0.05):
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=lr, weight_decay=0.1), lr=lr, momentum=0.9)
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        clips = torch.randint(0, 255, (3, 2, 3, model.size, model.size), dtype=torch.uint8)
        loss = nn.functional.cross_entropy(model(clips)["label"], torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_cover_every_parameter_and_buffer_once(name):
    model = build(name, temporal="gru")
    parts = [part for stage in model.stages.values() for part in (*stage.parameters, *stage.buffers)]
    assert sorted(parts) == sorted(snapshot(model))
    assert next(iter(model.stages)) == "stem"
    assert list(model.stages)[-2:] == ["temporal", "head"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_frozen_stages_stay_bit_identical_and_all_others_learn(name, batch_norm):
    model = build(name, size=64)
    middle = list(model.stages)[len(model.stages) // 2]
    for what in ("head", middle, "all"):
        learning = ft.set_trainable(model, what, batch_norm=batch_norm)
        before = snapshot(model)
        train_steps(model)
        assert moved(model, before) == learning == trainable_stages(model)


def test_a_list_is_surgical():
    model = build()
    before_names = ft.set_trainable(model, ["layer2", "head"])
    before = snapshot(model)
    train_steps(model)
    assert moved(model, before) == before_names == ["layer2", "head"]


def test_calling_train_undoes_no_freeze():
    model = build()
    ft.set_trainable(model, "layer4", batch_norm="train")
    model.train()
    model.backbone.train()
    model.backbone.net.layer1.train()  # what a user's own loop may do
    before = snapshot(model)
    model(torch.randint(0, 255, (2, 2, 3, 64, 64), dtype=torch.uint8))
    assert moved(model, before) == ["layer4"]  # its batch norm, and nothing else
    assert not any(module.training for module in model.backbone.net.layer1.modules())
    assert all(module.training for module in model.backbone.net.layer4.modules())


def test_frozen_stages_give_the_same_in_training_and_evaluation():
    model = build()
    ft.set_trainable(model, "head")
    clips = torch.randint(0, 255, (2, 2, 3, 64, 64), dtype=torch.uint8)
    torch.manual_seed(0)
    trained = model.train().backbone(clips)
    assert torch.equal(trained, model.eval().backbone(clips))
    assert not trained.requires_grad  # nothing is kept for a backward pass


def test_batch_norm_modes_move_the_statistics_they_name():
    def statistics(model):
        return {name: b.clone() for name, b in model.named_buffers() if name.endswith("running_mean")}

    changed = {}
    for mode in ("frozen", "partial", "train"):
        model = build()
        ft.set_trainable(model, "all", batch_norm=mode)
        before = statistics(model)
        train_steps(model, steps=1)
        after = statistics(model)
        changed[mode] = [name for name in before if not torch.equal(before[name], after[name])]
        all_names = list(before)
    assert changed == {"frozen": [], "partial": all_names[:1], "train": all_names}


def test_partial_leaves_the_first_batch_norm_frozen_with_its_stage():
    model = build()
    ft.set_trainable(model, "layer4", batch_norm="partial")
    before = snapshot(model)
    train_steps(model, steps=1)
    after = snapshot(model)
    assert all(torch.equal(before[name], after[name]) for name in before if name.endswith("running_var"))


@pytest.mark.parametrize("what", ["layer5", ["layr4"], ["all"], "last(9)", "first(2)", ""])
def test_an_unknown_stage_names_those_there_are(what):
    with pytest.raises(ModelError, match="unknown stage .*there are stem, layer1, layer2"):
        ft.set_trainable(build(), what)


def test_a_pattern_lets_single_parameters_learn():
    model = build()
    learning = ft.set_trainable(model, ["match(bias$)", "head"])
    before = snapshot(model)
    train_steps(model)
    now = snapshot(model)
    changed = {name for name in before if not torch.equal(before[name], now[name])}
    assert changed <= {name for name in before if name.endswith(".bias")} | set(model.stages["head"].parameters)
    assert all(not changed.isdisjoint(stage.parameters) for stage in model.stages.values())
    assert set(model.stages["head"].parameters) <= changed
    assert learning == list(model.stages)


def test_batch_norm_with_a_frozen_scale_keeps_its_statistics():
    model = build()
    ft.set_trainable(model, "match(^layer.*conv)", batch_norm="train")
    before = snapshot(model)
    train_steps(model, steps=1)
    now = snapshot(model)
    assert all(torch.equal(before[name], now[name]) for name in before if "running" in name)
    ft.set_trainable(model, "all", batch_norm="train")
    train_steps(model, steps=1)
    now = snapshot(model)
    assert not any(torch.equal(before[name], now[name]) for name in before if "running" in name)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm, EvoNorm2dB0])
def test_every_kind_of_layer_with_running_statistics_is_held(norm):
    assert has_running_stats(norm(4))
    assert not has_running_stats(nn.LayerNorm(4))


def test_nothing_to_learn_is_refused():
    with pytest.raises(ModelError, match=r"\['temporal'\] selects no parameter of this model; its stages are stem"):
        ft.set_trainable(ft.build_model(TINY, ["a", "b"], weights="none", temporal="mean"), ["temporal"])


def test_frozen_stages_keep_no_activations():
    def kept_bytes(what):
        model = build(size=64)
        ft.set_trainable(model, what)
        model.train()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
            model(torch.randint(0, 255, (4, 2, 3, 64, 64), dtype=torch.uint8))
        return sum(kept)

    head, last, everything = kept_bytes(["head"]), kept_bytes("layer4"), kept_bytes("all")
    features = 4 * 2 * build().backbone.width * 4
    assert head <= 4 * features  # what the head alone needs
    assert head < last / 4 < everything / 8


def test_the_table_tells_what_learns_and_how():
    model = build(temporal="gru")
    ft.set_trainable(model, "layer4", batch_norm="partial")
    groups = ft.param_groups(model, lr=1e-2, layer_decay=0.5)
    lines = ft.describe(model, groups).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == ["stage", *model.stages, "total"]
    assert rows["stem"][1:] == ["frozen", "frozen"]
    assert rows["layer4"][1:] == ["all", "frozen", "0.005"]
    assert rows["head"][1:] == ["all", "none", "0.01"]
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad or not only) for only in (False, True)]
    assert rows["total"] == [f"{count:,}" for count in counts]
    ft.set_trainable(model, "all", batch_norm="partial")
    assert ft.describe(model).splitlines()[1].split()[2:] == ["all", "1", "of", "3"]  # the network's first
    assert ft.describe(model).splitlines()[2].split()[2:] == ["all", "frozen"]
