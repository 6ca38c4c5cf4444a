import copy

import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.train.optim.ema import Ema


def build(what="layer4", batch_norm="train"):
    torch.manual_seed(0)
    model = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32)
    ft.set_trainable(model, what, batch_norm=batch_norm)
    return model.train()


def shake(model):
    """A step of the weights, and of the statistics of batch norm."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    model(torch.randint(0, 255, (2, 2, 3, 32, 32), dtype=torch.uint8))


def test_the_average_is_that_of_the_formula():
    model, ema = build(), Ema(0.9)
    ema.start_phase(model)
    name, parameter = next((n, p) for n, p in model.named_parameters() if p.requires_grad)
    wanted = parameter.detach().clone()
    for step in range(1, 6):
        shake(model)
        ema.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * parameter.detach()
    torch.testing.assert_close(ema.average[name], wanted)


def test_what_is_frozen_is_the_same_to_the_bit_in_the_average():
    model, ema = build(), Ema(0.5)
    before = copy.deepcopy(model.state_dict())
    ema.start_phase(model)
    for _ in range(5):
        shake(model)
        ema.update(model)
    own = copy.deepcopy(model.state_dict())
    with ema.averaged_weights(model):
        averaged = copy.deepcopy(model.state_dict())
    frozen = {part for name in ("stem", "layer1", "layer3") for part in model.stages[name].parameters}
    frozen |= {part for name in ("stem", "layer1", "layer3") for part in model.stages[name].buffers}
    assert all(torch.equal(before[name], averaged[name]) for name in frozen & set(before))
    moved = {name for name in own if not torch.equal(own[name], averaged[name])}
    assert any(name.endswith("running_mean") for name in moved)
    assert moved.isdisjoint(frozen)


def test_the_model_has_its_own_weights_again_afterwards_also_after_an_error():
    model, ema = build(), Ema(0.5)
    ema.start_phase(model)
    shake(model)
    ema.update(model)
    own = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), ema.averaged_weights(model):
        raise KeyError
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


def test_a_new_phase_keeps_the_average_of_what_goes_on_and_drops_what_is_frozen():
    model, ema = build("layer4"), Ema(0.5)
    ema.start_phase(model)
    shake(model)
    ema.update(model)
    kept = {name: value.clone() for name, value in ema.average.items()}
    ft.set_trainable(model, ["layer3", "head"])
    ema.start_phase(model.train())
    assert all(torch.equal(kept[name], ema.average[name]) for name in model.stages["head"].parameters)
    assert set(ema.average) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(model.stages["layer4"].parameters).isdisjoint(ema.average)


def test_without_a_decay_nothing_is_kept():
    model, ema = build(), Ema(0.0)
    ema.start_phase(model)
    ema.update(model)
    own = copy.deepcopy(model.state_dict())
    with ema.averaged_weights(model):
        assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())
    assert not ema.average
