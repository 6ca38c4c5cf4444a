"""A standardised head computes what the plain one does, and is saved as one linear layer."""

import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.model.begin_phase import begin_phase
from finetune.model.standardized_head import (
    LR_WIDTH,
    can_be_standardized,
    first_linear,
    fold_standardization,
    folded_state,
    own_head_state,
    restore_head_state,
    standardize_head,
    wide_head_lr_scale,
)


def build(**settings):
    torch.manual_seed(0)
    defaults = {"weights": "none", "num_frames": 2, "size": 32, "dropout": 0.0}
    return ft.build_model(TINY, ["a", "b", "c"], **defaults | settings)


def statistics(model):
    generator = torch.Generator().manual_seed(1)
    width = first_linear(model).in_features
    return torch.randn(width, generator=generator), 0.1 + torch.rand(width, generator=generator)


def outputs(model):
    clips = torch.randint(0, 255, (3, 2, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        return model.eval()(clips)["label"]


@pytest.mark.parametrize("settings", [{}, {"temporal": "concat"}, {"head": "mlp", "temporal": "slope"}])
def test_standardising_changes_no_output_and_folding_neither(settings):
    model = build(**settings)
    before, names = outputs(model), set(model.state_dict())
    standardize_head(model, *statistics(model))
    torch.testing.assert_close(outputs(model), before, atol=1e-4, rtol=1e-4)
    assert set(folded_state(model.state_dict())) == names
    fold_standardization(model)
    torch.testing.assert_close(outputs(model), before, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == names


def test_a_trained_standardised_head_is_saved_as_the_linear_layer_it_is():
    model, plain = build(), build()
    standardize_head(model, *statistics(model))
    with torch.no_grad():
        first_linear(model).weight.normal_()
        first_linear(model).bias.normal_()
    plain.load_state_dict(folded_state(model.state_dict()))
    torch.testing.assert_close(outputs(plain), outputs(model), atol=1e-4, rtol=1e-4)


def test_its_state_comes_back_bit_for_bit():
    model, other = build(), build()
    standardize_head(model, *statistics(model))
    with torch.no_grad():
        first_linear(model).weight.normal_()
    restore_head_state(other, own_head_state(model))
    assert all(torch.equal(other.state_dict()[name], value) for name, value in own_head_state(model).items())
    assert own_head_state(build()) == {}


def test_dropout_drops_standardised_numbers():
    model = build(dropout=0.5)
    standardize_head(model, *statistics(model))
    dropout = model.heads["label"][0].train()
    dropped = dropout(dropout.mean[None] + 3 * dropout.std)
    assert set(dropped.round(decimals=3).flatten().tolist()) == {0.0, 6.0}


def test_every_parameter_and_buffer_has_a_stage_and_a_frozen_head_stays():
    model = build()
    standardize_head(model, *statistics(model))
    staged = [name for stage in model.stages.values() for name in (*stage.parameters, *stage.buffers)]
    named = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    assert sorted(staged) == sorted(named)
    ft.set_trainable(model, [next(iter(model.stages))])
    model.train()
    assert not model.heads["label"][0].training


@pytest.mark.parametrize(
    ("settings", "can"),
    [({}, True), ({"temporal": "concat"}, True), ({"temporal": "gru"}, False), ({"head": "cosine"}, False)],
)
def test_only_a_linear_layer_on_fixed_pooling_is_standardised(settings, can):
    assert can_be_standardized(build(**settings)) is can


def test_a_wide_head_learns_slower_unless_its_rate_is_given():
    model = build(temporal="concat", num_frames=2)
    assert wide_head_lr_scale(model) == 1.0
    wide = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=64, size=32, temporal="concat")
    width = first_linear(wide).in_features
    assert width > LR_WIDTH

    def rate(phase):
        return next(group["lr"] for group in begin_phase(wide, phase)[1] if group["name"] == "head/decay")

    assert rate(ft.Phase(unfreeze="head", lr=1.0)) == pytest.approx(LR_WIDTH / width)
    assert rate(ft.Phase(unfreeze="head", lr=1.0, stage_lr={"head": 0.5})) == 0.5
