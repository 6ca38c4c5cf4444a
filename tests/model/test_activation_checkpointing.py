"""Checkpointed and compiled backbones: the same numbers and the same freezing, with less memory or in less time."""

import json
import shutil

import pytest
import torch
from contract import clips_of, moved, slowly, snapshot
from grey import TINY
from torch import nn

import finetune as ft
from finetune.data.manifest import Manifest
from finetune.model.activation_checkpointing import trainable_blocks
from finetune.model.classifier import build_from_settings, build_model
from finetune.recipe.schema import Clip, Model, Phase, Train

FAMILIES = [
    TINY,
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "test_efficientnet_evos",
    "test_mambaout",
    "test_nfnet",
    "test_maxvit",
    "levit_128s",
    "mobilevit_xxs",
    "torchvision/densenet121",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "torchvision/googlenet",
    "torchvision/swin_t",
]


def built(name, **settings):
    torch.manual_seed(0)
    return build_from_settings(
        Model(backbone=name, weights="none", dropout=0, **settings), ["a", "b"], num_frames=4, size=64
    )


def after_backward(model, *, batch_norm="train", what="all"):
    """Gradients, buffers and the bytes kept for the backward pass, of one step."""
    ft.set_trainable(model, what, batch_norm=batch_norm)
    model.train()
    torch.manual_seed(1)
    kept = {}

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = nn.functional.cross_entropy(model(clips_of(model))["label"], torch.tensor([0, 1]))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers()), sum(size for at, size in kept.items() if at not in own)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_and_statistics_are_those_without_and_less_is_kept(name):
    model = built(name)
    gradients, buffers, kept = after_backward(model)
    other = built(name)
    other.checkpointing = True
    their_gradients, their_buffers, their_kept = after_backward(other)
    assert gradients.keys() == their_gradients.keys()
    for part, gradient in gradients.items():
        torch.testing.assert_close(their_gradients[part], gradient, rtol=1e-4, atol=1e-5, msg=part)
    for part, value in buffers.items():
        assert torch.equal(their_buffers[part], value), part
    assert their_kept < 0.75 * kept


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (TINY, {"fusion": "tsm"}),
        (TINY, {"fusion": "slow"}),
        (TINY, {"fusion": "grey_stack"}),
        (TINY, {"fusion": "two_stream"}),
        ("test_vit", {"drop_path": 0.5}),
        (TINY, {"drop_path": 0.5}),
    ],
)
def test_what_is_drawn_and_shifted_is_the_same_when_computed_again(name, settings):
    model, other = built(name, **settings), built(name, **settings)
    other.checkpointing = True
    gradients, theirs = after_backward(model)[0], after_backward(other)[0]
    for part, gradient in gradients.items():
        torch.testing.assert_close(theirs[part], gradient, rtol=1e-4, atol=1e-5, msg=part)


def test_a_clip_of_another_length_in_between_changes_nothing():
    gradients = []
    for in_between in (False, True):
        model = built(TINY, fusion="tsm").train()
        model.checkpointing = True
        logits = model(clips_of(model))["label"]
        if in_between:
            model(clips_of(model)[:, :3])
        logits.sum().backward()
        gradients.append(model.backbone.net.conv1[0].weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_only_learning_stages_are_computed_again_and_nothing_stays_changed():
    model = built(TINY)
    model.checkpointing = True
    ft.set_trainable(model, "layer3")
    blocks = trainable_blocks(model)
    assert blocks == [model.backbone.net.layer3, model.backbone.net.layer4]
    names = list(model.state_dict())
    model.train()(clips_of(model))
    assert list(model.state_dict()) == names
    assert not any("forward" in vars(module) for module in model.modules())


def test_without_a_gradient_nothing_is_checkpointed(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("checkpointed")

    monkeypatch.setattr("finetune.model.activation_checkpointing.checkpoint", refuse)
    model = built(TINY)
    model.checkpointing = True
    with torch.no_grad():
        model(clips_of(model))
    with pytest.raises(AssertionError, match="checkpointed"):
        model(clips_of(model))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own modules
@pytest.mark.parametrize("backend", ["aot_eager", *slowly([("inductor",)])])
def test_a_compiled_backbone_gives_the_same_and_freezes_the_same(backend):
    model = build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32)
    names, frames = list(model.state_dict()), clips_of(model)
    with torch.no_grad():
        expected = model.eval()(frames)["label"]
        model.backbone.net.compile(backend=backend)
        torch.testing.assert_close(model(frames)["label"], expected, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == names
    for what in ("layer4", "all", "head"):
        learning = ft.set_trainable(model, what, batch_norm="train")
        before = snapshot(model)
        optimizer = torch.optim.SGD(ft.param_groups(model, lr=0.1, weight_decay=0.1), lr=0.1)
        nn.functional.cross_entropy(model.train()(frames)["label"], torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert moved(model, before) == learning


@pytest.mark.slow
def test_a_run_gives_the_same_with_checkpointing(clip_folder, tmp_path):
    manifest = Manifest.from_folder(clip_folder)
    losses = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
        run = ft.fit(
            model,
            manifest,
            [Phase(unfreeze="all", epochs=1, batch_norm="train")],
            clip=Clip(num_frames=2),
            train=Train(batch_size=4, activation_checkpointing=checkpointing, precision="fp32", device="cpu"),
            out=tmp_path / str(checkpointing),
            quiet=True,
        )
        assert model.checkpointing == checkpointing
        losses.append(json.loads((run / "metrics.jsonl").read_text())["val_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_compiling_and_checkpointing_do_not_go_together():
    with pytest.raises(ft.RecipeError, match="compile and activation_checkpointing cannot be combined"):
        Train(compile=True, activation_checkpointing=True)
