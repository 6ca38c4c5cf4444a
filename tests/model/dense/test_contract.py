"""Models with a pyramid keep the contract of freezing, whatever the backbone."""

import pytest
import torch
from contract import clips_of, features, moved, slowly, snapshot
from dense_models import SLOTS, dense_model
from families import TIMM, TIMM_SLOW, TORCHVISION, TORCHVISION_SLOW

import finetune as ft
from finetune.model.freezing.freeze import trainable_stages
from finetune.train.loss.dense import build_dense_loss
from finetune.train.optim.ema import Ema

SMALLEST = 64  # side of the pictures, for four levels
FAMILIES = [
    "test_resnet",
    "test_vit",
    "test_convnext",
    "mobilenetv3_small_050",
    "levit_128s",
    "torchvision/mobilenet_v2",
]
MORE = TIMM | TIMM_SLOW | {f"torchvision/{name}": size for name, size in (TORCHVISION | TORCHVISION_SLOW).items()}
REFUSED = {"pit_ti_224", "efficientvim_m1", "crossvit_9_240"}


def targets_of(model, clips):
    """Two objects in each frame, of which the second has no motion and one is ignored, and a mask of three classes."""
    objects = torch.zeros(clips, SLOTS, 8)
    objects[:, 0] = torch.tensor([1, 0, 0.3, 0.4, 0.3, 0.2, 0.01, -0.02])
    objects[:, 1] = torch.tensor([1, 2, 0.7, 0.6, 0.5, 0.6, torch.nan, torch.nan])
    objects[0, 1, 0] = -1
    mask = torch.arange(model.size**2).remainder(3).float()
    mask[:9] = 255
    return {"detect": objects.flatten(1), "track": objects.flatten(1), "segment": mask.expand(clips, -1)}


def losses_of(model, outputs):
    targets = targets_of(model, len(next(iter(outputs.values()))))
    return {
        name: build_dense_loss(model.heads[name], model.multitask_spec.tasks[name])(values.float(), targets[name]).sum()
        if name in targets
        else values.float().logsumexp(1).mean()
        for name, values in outputs.items()
    }


def train_steps(model, steps):
    """Steps with momentum, weight decay, mixed precision and averaged weights."""
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=0.01, weight_decay=0.1), lr=0.01, momentum=0.9)
    model.train()
    ema = Ema(0.9)
    ema.start_phase(model)
    for step in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(clips_of(model, seed=step))
        sum(losses_of(model, outputs).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
    return ema


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *slowly([name] for name in MORE if name not in {*FAMILIES, *REFUSED})])
def test_frozen_stages_stay_as_they_are_and_the_others_learn(name):
    model = dense_model(["track", "segment", "classify"], backbone=name, size=max(SMALLEST, MORE[name]), num_frames=2)
    parts = [part for stage in model.stages.values() for part in (*stage.parameters, *stage.buffers)]
    assert sorted(parts) == sorted(snapshot(model))
    stages = list(model.stages)
    learning = ft.set_trainable(model, stages[len(stages) // 2], batch_norm="train")
    assert learning[-2:] == ["pyramid", "head"]
    before = snapshot(model)
    ema = train_steps(model, 3)
    assert all(value.isfinite().all() for value in model.parameters())
    assert moved(model, before) == learning == trainable_stages(model)
    with ema.averaged_weights(model):
        assert moved(model, before) == learning

    ft.set_trainable(model, "head")
    model.train()
    trained, outputs = features(model), model(clips_of(model))
    assert not any(value.requires_grad for value in model.taps.taken.values()), "nothing goes back into frozen stages"
    assert all(output.requires_grad for output in outputs.values())
    model.eval()
    torch.testing.assert_close(trained, features(model), rtol=0, atol=0)

    ft.set_trainable(model, "all", batch_norm="train")
    before = snapshot(model)
    train_steps(model, 1)
    assert moved(model, before) == list(model.stages)


def test_a_frozen_pyramid_keeps_its_weights_while_the_head_learns():
    model = dense_model(["detect"])
    ft.set_trainable(model, ["head"])
    before = snapshot(model)
    train_steps(model, 1)
    assert moved(model, before) == ["head"]
