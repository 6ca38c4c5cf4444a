import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.train.optim.l2_sp import L2SPPenalty


def build(what):
    torch.manual_seed(0)
    model = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32)
    ft.set_trainable(model, what)
    return model, ft.param_groups(model, lr=0.1, weight_decay=0.3)


def test_the_penalty_is_half_the_strength_times_the_squared_distance():
    model, groups = build("layer4")
    anchor = L2SPPenalty()
    anchor.start_phase(0.5, groups)
    assert anchor.penalty().item() == 0
    parameters = dict(model.named_parameters())
    own = [parameters[name] for name in model.stages["layer4"].parameters]
    with torch.no_grad():
        for parameter in [*own, *model.heads.parameters()]:
            parameter.add_(2.0)
    count = sum(parameter.numel() for parameter in own)  # the head is new and has no start to go back to
    assert anchor.penalty().item() == pytest.approx(0.5 / 2 * 4 * count, rel=1e-5)
    anchor.penalty().backward()
    torch.testing.assert_close(own[0].grad, torch.full_like(own[0], 0.5 * 2.0))


def test_the_pull_takes_the_place_of_weight_decay_in_the_backbone():
    _, groups = build("layer4")
    L2SPPenalty().start_phase(0.5, groups)
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert decays["layer4/decay"] == 0
    assert decays["head/decay"] == 0.3


def test_a_later_phase_is_held_to_the_first_start():
    model, groups = build("layer4")
    anchor = L2SPPenalty()
    anchor.start_phase(1.0, groups)
    parameter = dict(model.named_parameters())[model.stages["layer4"].parameters[0]]
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    ft.set_trainable(model, "all")
    anchor.start_phase(1.0, ft.param_groups(model, lr=0.1))
    assert torch.equal(anchor.start[parameter], start)
    assert anchor.penalty().item() == pytest.approx(parameter.numel() / 2)


def test_without_a_strength_there_is_no_penalty_and_weight_decay_stays():
    _, groups = build("all")
    anchor = L2SPPenalty()
    anchor.start_phase(0.0, groups)
    assert anchor.penalty() == 0
    assert {group["weight_decay"] for group in groups if group["name"].endswith("/decay")} == {0.3}
