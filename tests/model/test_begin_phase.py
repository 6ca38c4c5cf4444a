"""Whatever the phases and the architecture: after each phase exactly the named stages have changed."""

import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import finetune as ft
from finetune.train.optim.ema import Ema
from finetune.train.optim.optimizer import build_optimizer, transfer_optimizer_state

ARCHITECTURES = [
    "test_resnet",
    "test_vit",
    "test_efficientnet",
    "test_convnext",
    "test_byobnet",
    "mobilenetv3_small_050",
]
EXAMPLES = 100 if os.environ.get("FINETUNE_ALL") else 6


def build(name, temporal):
    torch.manual_seed(0)
    size = 160 if name == "test_vit" else 32
    return ft.build_model(name, ["a", "b", "c"], weights="none", temporal=temporal, num_frames=2, size=size)


@st.composite
def phase_lists(draw):
    """A model, and phases of it: what each trains, and the stages that it names, worked out by position."""
    model = build(draw(st.sampled_from(ARCHITECTURES)), draw(st.sampled_from(["mean", "concat", "gru"])))
    stages = list(model.stages)
    new = [name for name in stages if name in {"temporal", "head"}]
    depth = len(stages) - len(new)
    phases = []
    for _ in range(draw(st.integers(1, 4))):
        kind, first = (
            draw(st.sampled_from(["from", "last", "share", "some", "head", "all"])),
            draw(st.integers(0, depth)),
        )
        if kind == "from":
            what, named = stages[first], stages[first:] if first < depth else new
        elif kind == "last":
            what, named = f"last({depth - first})", stages[first:]
        elif kind == "share":
            what, named = (depth - first) / depth, stages[first:]
        elif kind == "some":
            named = sorted(draw(st.sets(st.sampled_from(stages), min_size=1)), key=stages.index)
            what = draw(st.permutations(named))
        else:
            what, named = kind, {"head": new, "all": stages}[kind]
        phases.append((what, named, draw(st.sampled_from(["frozen", "partial", "train"]))))
    return model, phases


def snapshot(model):
    return {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def changed_stages(model, before):
    now = snapshot(model)
    return [
        name
        for name, stage in model.stages.items()
        if not all(torch.equal(before[part], now[part]) for part in (*stage.parameters, *stage.buffers))
    ]


@given(phase_lists(), st.sampled_from(["sgd", "adamw", "lion"]))
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_exactly_the_named_stages_change_in_each_phase(model_and_phases, optimizer_name):
    model, phases = model_and_phases
    ema, optimizer_before = Ema(0.9), None
    for what, named, batch_norm in phases:
        assert ft.set_trainable(model, what, batch_norm=batch_norm) == named
        groups = ft.param_groups(model, lr=0.01, weight_decay=0.1)
        held = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
        optimizer = build_optimizer(optimizer_name, groups)
        if optimizer_before is not None:
            transfer_optimizer_state(optimizer_before, optimizer)
        optimizer_before = optimizer
        before = snapshot(model)
        model.train()
        ema.start_phase(model)
        for step in range(2):
            torch.manual_seed(step)
            clips = torch.randint(0, 255, (3, 2, 3, model.size, model.size), dtype=torch.uint8)
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(clips)["label"].float(), torch.tensor([0, 1, 2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
        assert changed_stages(model, before) == named
        with ema.averaged_weights(model):
            assert changed_stages(model, before) == named
