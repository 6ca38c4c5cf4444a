"""The groups of an optimizer."""

import pytest
from grey import TINY

import finetune as ft
from finetune.errors import ModelError


def build(name=TINY, temporal="concat"):
    return ft.build_model(name, ["a", "b", "c"], weights="none", temporal=temporal, num_frames=2)


def test_param_groups_hold_what_learns_once_with_rates_that_fall_towards_the_input():
    model = build(temporal="gru")
    ft.set_trainable(model, "layer3")
    groups = ft.param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    by_name = {group["name"]: group for group in groups}
    assert {name: group["lr"] for name, group in by_name.items()} == {
        "layer3/decay": 0.25,
        "layer3/no_decay": 0.25,
        "layer4/decay": 0.5,
        "layer4/no_decay": 0.5,
        "temporal/decay": 1.0,
        "temporal/no_decay": 1.0,
        "head/decay": 1.0,
        "head/no_decay": 1.0,
    }
    held = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(p.ndim > 1 for p in by_name["layer3/decay"]["params"])
    assert by_name["layer3/decay"]["weight_decay"] == 0.1
    assert by_name["layer3/no_decay"]["weight_decay"] == 0


def rates(**settings):
    model = build()
    ft.set_trainable(model, "layer3")
    return {group["stage"]: group["lr"] for group in ft.param_groups(model, lr=1.0, **settings)}


def test_the_backbone_can_learn_at_a_share_of_the_rate():
    found = rates(backbone_lr_scale=0.1, layer_decay=0.5)
    assert found == pytest.approx({"layer3": 0.025, "layer4": 0.05, "temporal": 1.0, "head": 1.0})


def test_a_stage_can_have_a_rate_of_its_own():
    assert rates(stage_lr={"layer3": 7.0, "stem": 9.0}) == {"layer3": 7.0, "layer4": 1.0, "temporal": 1.0, "head": 1.0}


def test_a_rate_for_a_stage_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match=r"unknown stage 'layer33' \(nearest: layer3.*there are stem"):
        rates(stage_lr={"layer33": 1.0})


def test_positions_tokens_and_scales_have_no_weight_decay():
    model = build("test_vit", temporal="mean")
    ft.set_trainable(model, "all")
    groups = ft.param_groups(model, lr=1.0, weight_decay=0.1)
    plain = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in plain}
    assert {"backbone.net.pos_embed", "backbone.net.cls_token"} <= names
    assert not any(name.endswith("qkv.weight") for name in names)
