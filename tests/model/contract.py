"""What every backbone has to keep, whatever its architecture."""

import torch
from torch import nn

import finetune as ft
from finetune.model.freeze import learning_stages
from finetune.model.model import build_model


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
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=lr, weight_decay=0.1), lr=lr, momentum=0.9)
    model.train()
    for step in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(clips_of(model, seed=step))["label"]
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()


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
    train_steps(model, steps)
    assert all(value.isfinite().all() for value in model.parameters())
    assert moved(model, before) == learning == learning_stages(model)

    ft.set_trainable(model, "head")
    model.train()
    trained = features(model)
    model.eval()
    torch.testing.assert_close(trained, features(model), rtol=0, atol=0)

    ft.set_trainable(model, "all", batch_norm="train")
    before = snapshot(model)
    train_steps(model, 1)
    still = [
        part
        for stage in model.stages.values()
        for part in stage.parameters
        if torch.equal(before[part], dict(model.named_parameters())[part])
    ]
    assert not still or moved(model, before) == list(model.stages), still

    saved = {key: value.clone() for key, value in model.state_dict().items()}
    result = features(model.eval())
    model.load_state_dict(start)
    assert not torch.equal(features(model), result)
    model.load_state_dict(saved)
    torch.testing.assert_close(features(model), result, rtol=0, atol=0)
    model.load_state_dict(start)
    return model
