"""What every backbone has to keep, whatever its architecture."""

import os
import warnings

import pytest
import torch
from torch import nn
from torchvision import models as tv

import finetune as ft
from finetune.model.classifier import build_model
from finetune.model.freezing.freeze import trainable_stages
from finetune.train.optim.ema import Ema


def slowly(cases):
    """Cases that take long, which run when FINETUNE_ALL is set."""
    skip = pytest.mark.skipif("FINETUNE_ALL" not in os.environ, reason="takes long; set FINETUNE_ALL=1")
    return [pytest.param(*case, marks=(pytest.mark.slow, skip)) for case in cases]


def clips_of(model, *, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, model.num_frames, 3, model.size, model.size)
    return torch.randint(0, 255, shape, dtype=torch.uint8, generator=generator)


def snapshot(model):
    return {name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def moved(model, before):
    """Stages with a parameter or buffer that is not bit-identical to before."""
    now = snapshot(model)
    return [
        name
        for name, stage in model.stages.items()
        if any(not torch.equal(before[part], now[part]) for part in (*stage.parameters, *stage.buffers))
    ]


def train_steps(model, steps, *, lr=0.01):
    """Steps with momentum, weight decay, mixed precision and averaged weights; what is averaged, to be looked at."""
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=lr, weight_decay=0.1), lr=lr, momentum=0.9)
    model.train()
    ema = Ema(0.9)
    ema.start_phase(model)
    for step in range(steps):
        # Convolutions in three dimensions take fifteen times as long in bfloat16 on a CPU.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not model.backbone.takes_clips):
            logits = model(clips_of(model, seed=step))["label"]
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
    return ema


def features(model):
    with torch.no_grad():
        return model.backbone(clips_of(model))


def keeps_the_contract(name, *, size, num_frames=2, steps=5):
    """Build, freeze, train, unfreeze, save and load a backbone; the model, with weights as when it was built."""
    torch.manual_seed(0)
    model = build_model(name, ["a", "b"], weights="none", num_frames=num_frames, size=size)
    start = {key: value.clone() for key, value in model.state_dict().items()}

    parts = [part for stage in model.stages.values() for part in (*stage.parameters, *stage.buffers)]
    assert sorted(parts) == sorted(snapshot(model))
    stages = list(model.stages)
    assert stages[0] == "stem" and stages[-1] == "head" and len(stages) > 3

    learning = ft.set_trainable(model, stages[len(stages) // 2], batch_norm="train")
    before = snapshot(model)
    ema = train_steps(model, steps)
    assert all(value.isfinite().all() for value in model.parameters())
    assert moved(model, before) == learning == trainable_stages(model)
    with ema.averaged_weights(model):
        assert moved(model, before) == learning

    ft.set_trainable(model, "head")
    model.train()
    trained = features(model)
    model.eval()
    torch.testing.assert_close(trained, features(model), rtol=0, atol=0)

    ft.set_trainable(model, "all", batch_norm="train")
    before = snapshot(model)
    train_steps(model, 1)
    assert moved(model, before) == list(model.stages)

    saved = {key: value.clone() for key, value in model.state_dict().items()}
    result = features(model.eval())
    model.load_state_dict(start)
    assert not torch.equal(features(model), result)
    model.load_state_dict(saved)
    torch.testing.assert_close(features(model), result, rtol=0, atol=0)
    model.load_state_dict(start)
    return model


def torchvisions_own(model, architecture):
    """What enters the classifier of torchvision's own network with the model's weights, pooled: (N, D)."""
    options = {"image_size": model.size} if architecture.startswith("vit_") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of two models' initialisation
        net = tv.get_model(architecture, weights=None, **options).eval()
    if architecture.startswith("mvit"):
        ours, theirs = model.backbone.net.pos_encoding, net.pos_encoding
        theirs.spatial_size = (model.size // 4, model.size // 4)
        theirs.temporal_size = model.num_frames // 2
        theirs.spatial_pos, theirs.temporal_pos = ours.spatial_pos, ours.temporal_pos
    net.load_state_dict(model.backbone.net.state_dict(), strict=False)
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)]
    entered = []
    layers[-1].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    preset = tv.get_model_weights(architecture).DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    pictures = (clips_of(model) / 255 - mean) / std
    with torch.no_grad():
        net(pictures.transpose(1, 2) if model.backbone.takes_clips else pictures.flatten(0, 1))
    return entered[0].flatten(2).mean(2) if entered[0].ndim > 2 else entered[0]
