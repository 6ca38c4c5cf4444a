"""LoRA as a phase like any other: what learns, what stays, what is left after it."""

import copy

import pytest
import torch
from grey import TINY
from safetensors.torch import load_file

import finetune as ft
from finetune.errors import ModelError, RecipeError
from finetune.model import lora
from finetune.model.lora import add_lora, merge_lora, merged_state_dict

pytest.importorskip("peft")


def build(name=TINY, size=32):
    torch.manual_seed(0)
    return ft.build_model(name, ["a", "b"], weights="none", num_frames=2, size=size, temporal="gru")


def learn(model, what="lora(r=2)", steps=3):
    add_lora(model, what, seed=0)
    learning = ft.set_trainable(model, what)
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=0.1), momentum=0.9)
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        loss = model(clips(model))["label"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return learning


def clips(model):
    return torch.randint(0, 255, (2, 2, 3, model.size, model.size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "size"), [(TINY, 32), ("test_vit", 160), ("test_convnext", 64), ("test_efficientnet", 64)]
)
def test_matrices_learn_beside_weights_that_do_not(name, size):
    model = build(name, size)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = learn(model)
    after = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith("backbone."))
    matrices = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
    assert matrices
    assert all(matrix.grad is not None for matrix in matrices)  # each takes part
    assert set(learning) >= {"temporal", "head"}
    assert len(learning) > 3


def test_at_the_start_nothing_is_changed_and_merging_gives_what_was_learnt():
    model = build().eval()
    names, seen = set(model.state_dict()), clips(model)
    before = model(seen)["label"]
    add_lora(model, "lora(r=2)", seed=0)
    torch.testing.assert_close(model.eval()(seen)["label"], before)
    merge_lora(model)
    learn(model)
    learnt, plain = model.eval()(seen)["label"], merged_state_dict(model)
    merge_lora(model)
    assert set(model.state_dict()) == set(plain) == names
    torch.testing.assert_close(model.eval()(seen)["label"], learnt, rtol=1e-4, atol=1e-5)
    assert all(torch.allclose(plain[name], value) for name, value in model.state_dict().items())
    assert not torch.allclose(before, learnt, atol=1e-2)


def test_stages_are_the_same_before_and_after():
    model = build()
    before = copy.deepcopy(model.stages)
    add_lora(model, "lora(r=2)", seed=0)
    assert list(model.stages) == list(before)
    assert any(".lora_A" in name for name in model.stages["layer2"].parameters)
    merge_lora(model)
    assert model.stages == before


def test_without_lora_in_a_phase_nothing_happens():
    model = build()
    before = set(model.state_dict())
    add_lora(model, "layer4", seed=0)
    assert set(model.state_dict()) == before == set(merged_state_dict(model))


@pytest.mark.slow
def test_a_run_with_a_lora_phase_leaves_a_plain_model(clip_folder, tmp_path):
    manifest = ft.Manifest.from_folder(clip_folder)
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    start = copy.deepcopy(model.state_dict())
    phases = (ft.Phase(unfreeze="lora(r=2)", epochs=1, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=1))
    run = ft.fit(
        model, manifest, phases, clip=ft.Clip(num_frames=2), train=ft.Train(ema=0.9), out=tmp_path / "run", quiet=True
    )
    saved = load_file(run / "checkpoints/last/model.safetensors")
    assert set(saved) == set(start)
    changed = {name for name in saved if not torch.equal(saved[name], start[name])}
    early = {name for name in changed if name.startswith("backbone.") and ".layer4." not in name}
    assert early
    assert all(saved[name].ndim == 4 for name in early)  # convolutions, and no batch norm
    ft.load(run)


def test_without_peft_it_is_said_how_to_install_it(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'finetune-video\[lora\]'"):
        lora.check_lora("lora(r=8)")
    model = build()
    with pytest.raises(RecipeError, match=r"phases.0.unfreeze: lora needs the package peft"):
        ft.fit(model, ft.Manifest.from_folder(clip_folder), [ft.Phase(unfreeze="lora(r=8)")], out=tmp_path, quiet=True)
