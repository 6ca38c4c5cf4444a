"""Heads: logits of each task, and where their biases start."""

from typing import get_args

import pytest
import torch
from grey import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import finetune as ft
from finetune.errors import ModelError
from finetune.model.heads import HEADS, Heads, HeadShape
from finetune.recipe.schema import Model


def build(kind, tasks=None, *, width=6, dropout=0.0):
    torch.manual_seed(0)
    shapes = {task: HeadShape(width, outputs, kind) for task, outputs in (tasks or {"label": 3}).items()}
    return Heads(shapes, dropout=dropout)


def test_the_kinds_are_those_of_a_recipe():
    assert set(HEADS) == set(get_args(get_args(Model.model_fields["head"].annotation)[0]))


@pytest.mark.parametrize("kind", HEADS)
def test_each_task_has_logits_of_its_own(kind):
    heads = build(kind, {"label": 3, "place": 2})
    logits = heads(torch.randn(4, 6))
    assert {task: tuple(each.shape) for task, each in logits.items()} == {"label": (4, 3), "place": (4, 2)}
    logits["place"].square().sum().backward()
    reached = {name.partition(".")[0] for name, parameter in heads.named_parameters() if parameter.grad is not None}
    assert reached == {"place"}


@pytest.mark.parametrize("kind", HEADS)
@given(counts=st.lists(st.integers(0, 1000), min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_what_shows_nothing_gets_the_share_of_each_class(kind, counts):
    heads = build(kind, {"label": len(counts)})
    heads.init_bias_from_prior("label", counts)
    probs = heads(torch.zeros(1, 6))["label"].softmax(1)[0]
    prior = (torch.tensor(counts) + 1) / (sum(counts) + len(counts))
    torch.testing.assert_close(probs, prior)


def test_a_linear_head_without_weights_gives_the_prior_for_anything():
    heads = build("linear")
    heads.init_bias_from_prior("label", [0, 4, 3])
    torch.nn.init.zeros_(heads["label"][-1].weight)
    assert heads(torch.randn(5, 6))["label"].softmax(1)[4].tolist() == pytest.approx([0.1, 0.5, 0.4])


@pytest.mark.parametrize("kind", HEADS)
def test_a_model_starts_at_the_counts_it_is_given_and_only_its_bias_does(kind):
    models = []
    for counts in (None, [99, 9]):
        torch.manual_seed(0)
        models.append(
            ft.build_model(TINY, ["a", "b"], weights="none", head=kind, num_frames=2, size=32, class_counts=counts)
        )
    without, given_counts = (dict(model.named_parameters()) for model in models)
    bias = torch.tensor([100 / 110, 10 / 110]).log()
    changed = [name for name in without if not torch.equal(without[name], given_counts[name])]
    assert len(changed) == 1
    torch.testing.assert_close(given_counts[changed[0]].detach(), bias)


def test_counts_for_another_number_of_classes_are_refused():
    with pytest.raises(ModelError, match="class_counts has 3 numbers for 2 classes"):
        ft.build_model(TINY, ["a", "b"], weights="none", class_counts=[1, 2, 3])


@pytest.mark.parametrize("kind", HEADS)
def test_dropout_comes_before_the_head_and_only_in_training(kind):
    heads, vector = build(kind, dropout=0.5), torch.randn(4, 6)
    assert not torch.equal(heads(vector)["label"], heads(vector)["label"])
    heads.eval()
    assert torch.equal(heads(vector)["label"], heads(vector)["label"])


@given(factor=st.floats(0.01, 1000))
@settings(max_examples=20, deadline=None)
def test_a_cosine_head_looks_at_directions_alone(factor):
    heads, vector = build("cosine"), torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    wanted = heads(vector)["label"]
    torch.testing.assert_close(heads(factor * vector)["label"], wanted, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        heads["label"][-1].weight.mul_(factor)
    torch.testing.assert_close(heads(vector)["label"], wanted, rtol=1e-3, atol=1e-4)


def test_cosine_logits_are_ten_times_the_cosine_at_the_start():
    heads = build("cosine")
    with torch.no_grad():
        heads["label"][-1].weight.copy_(torch.eye(3, 6))
    vector = torch.tensor([[3.0, 4, 0, 0, 0, 0]])
    torch.testing.assert_close(heads(vector)["label"], torch.tensor([[6.0, 8, 0]]))


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_what_a_linear_one_can_and_an_mlp_what_it_cannot(kind):
    torch.manual_seed(0)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    labels = {"by side": torch.tensor([0, 0, 1, 1]), "crosswise": torch.tensor([0, 1, 1, 0])}
    right = {}
    for name, wanted in labels.items():
        heads = Heads({"label": HeadShape(2, 2, kind)}, dropout=0.0)
        optimizer = torch.optim.AdamW(heads.parameters(), lr=0.03)
        for _ in range(150):
            loss = torch.nn.functional.cross_entropy(heads(corners)["label"], wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right[name] = bool((heads(corners)["label"].argmax(1) == wanted).all())
    assert right == {"by side": True, "crosswise": kind == "mlp"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_a_trained_head_is_loaded_as_what_it_was(kind, clip_folder, tmp_path):
    manifest = ft.Manifest.from_folder(clip_folder)
    model = ft.build_model(TINY, manifest.classes, weights="none", head=kind, num_frames=2, size=32)
    clip, phases = ft.Clip(num_frames=2), [ft.Phase(unfreeze="head", epochs=1)]
    run = ft.fit(model, manifest, phases, clip=clip, out=tmp_path / "run", quiet=True)
    loaded, clips = ft.load(run), torch.randint(0, 255, (2, 2, 3, 32, 32), dtype=torch.uint8)
    assert loaded.settings.head == kind
    with torch.no_grad():
        assert torch.equal(loaded(clips)["label"], model(clips)["label"])
