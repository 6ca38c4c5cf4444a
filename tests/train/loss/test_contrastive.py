"""The supervised contrastive loss, and the gradient of a step that is computed in parts."""

from concurrent.futures import ThreadPoolExecutor
from math import exp, log
from threading import Barrier

import pytest
import torch
from grey import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

import finetune as ft
from finetune.errors import RecipeError
from finetune.model.classifier import EMBEDDING
from finetune.recipe.schema import Recipe
from finetune.train.loss.contrastive import ContrastiveObjective, supervised_contrastive
from finetune.train.loss.losses import build_loss
from finetune.train.loss.multitask import StepContext
from finetune.train.phase import build_setup, start_phase
from finetune.train.step import StepNumbers, train_step


def loss_by_loops(embeddings, classes, temperature):
    """L_out as the paper writes it, for each anchor i with positives p among all others a."""
    unit = [row / row.norm() for row in embeddings.double()]
    of_anchors = []
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        positives = [p for p in others if classes[p] == classes[i]]
        if positives:
            total = sum(exp(float(unit[i] @ unit[a]) / temperature) for a in others)
            terms = [log(exp(float(unit[i] @ unit[p]) / temperature) / total) for p in positives]
            of_anchors.append(-sum(terms) / len(positives))
    return sum(of_anchors) / len(of_anchors) if of_anchors else 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.sampled_from([0.07, 0.1, 1.0]), st.integers(0, 999))
def test_the_loss_is_that_of_the_paper(classes, temperature, seed):
    embeddings = torch.randn(len(classes), 5, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    loss = supervised_contrastive(embeddings, torch.tensor(classes), temperature=temperature)
    assert loss.item() == pytest.approx(loss_by_loops(embeddings.detach(), classes, temperature), rel=1e-4, abs=1e-5)
    loss.backward()
    assert embeddings.grad.isfinite().all()
    again = supervised_contrastive(3 * embeddings, torch.tensor(classes), temperature=temperature)
    assert again.item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5), "lengths have no effect"


def test_the_loss_is_that_of_pytorch_metric_learning():
    library = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, classes = torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 4
    theirs = library.SupConLoss(temperature=0.1)(embeddings, classes)
    assert supervised_contrastive(embeddings, classes, temperature=0.1).item() == pytest.approx(theirs.item(), rel=1e-5)


def objective_of(reduce=lambda values: values):
    loss = build_loss("cross_entropy", class_counts=[1, 1], label_smoothing=0.0)
    return ContrastiveObjective(loss, lambda rows, of: supervised_contrastive(rows, of, temperature=0.1), reduce)


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1, 1, 5)])
def test_the_gradient_does_not_depend_on_the_parts_of_a_step(sizes):
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(7, 5, generator=generator)
    classes = torch.tensor([0, 1, 2, 0, 1, 1, 2])
    whole = embeddings.clone().requires_grad_()
    expected = supervised_contrastive(whole, classes, temperature=0.1)
    expected.backward()
    leaf, objective, loss = embeddings.clone().requires_grad_(), objective_of(), 0.0
    targets = F.one_hot(classes, 3).float()
    objective.begin(targets, StepContext(0, False))
    if len(sizes) > 1:
        objective.set_embeddings(embeddings, targets)
    logits = torch.zeros(7, 3)
    for part, labels, zeros in zip(leaf.split(sizes), targets.split(sizes), logits.split(sizes), strict=True):
        share = len(part) / 7
        part_loss = share * objective.loss({EMBEDDING: part, "label": zeros}, labels, share)
        part_loss.backward()
        loss += part_loss.item()
    assert torch.allclose(leaf.grad, whole.grad, atol=1e-6)
    assert loss == pytest.approx(expected.item() + log(3), rel=1e-5)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 6), (7, 0)])
def test_processes_have_the_gradient_of_one(sizes):
    """Each process in a thread; `reduce` waits for all. One may have no clip, and a black one in its place."""
    processes, barrier, values = len(sizes), Barrier(len(sizes), timeout=60), {}
    whole = torch.randn(7, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    classes = torch.tensor([0, 1, 2, 0, 1, 1, 2])
    supervised_contrastive(whole, classes, temperature=0.1).backward()

    def gradients(rank):
        def reduce(own):
            values[rank] = own
            barrier.wait()
            total = sum(values[other] for other in range(processes))
            barrier.wait()
            return total

        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        rows, targets = whole.detach()[own], F.one_hot(classes, 3)[own].float()
        if is_dummy := not sizes[rank]:
            rows, targets = torch.ones(1, 5), F.one_hot(torch.tensor([1]), 3).float()
        leaf, objective, weight = rows.clone().requires_grad_(), objective_of(reduce), sizes[rank] * processes / 7
        objective.begin(targets, StepContext(0, False, processes, is_dummy_batch=is_dummy, rank=rank))
        outputs = {EMBEDDING: leaf, "label": torch.zeros(len(leaf), 3)}
        (weight * objective.loss(outputs, targets, weight)).backward()
        return leaf.grad / processes  # processes average their gradients

    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(gradients, range(processes)))
    assert torch.allclose(
        torch.cat([part for part, size in zip(parts, sizes, strict=True) if size]), whole.grad, atol=1e-6
    )
    assert all(not part.any() for part, size in zip(parts, sizes, strict=True) if not size)


def fit(manifest, out, **train):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, dropout=0.0)
    phases = [ft.Phase(unfreeze="layer4", epochs=2, lr=1e-2)]
    settings = {"precision": "fp32", "loss": "supervised_contrastive", "optimizer": "sgd", **train}
    return ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=2), train=ft.Train(**settings), out=out, quiet=True)


def weights_of(run):
    return load_file(run / "checkpoints/last/model.safetensors")


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


@pytest.fixture(scope="module")
def in_parts(manifest, tmp_path_factory):
    """A run whose steps of four clips are computed one clip at a time."""
    return fit(manifest, tmp_path_factory.mktemp("parts") / "run", batch_size=1, accumulate=4)


def step_of(manifest, *, batch_size, accumulate):
    """The loss and the gradients of one step on four clips."""
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, dropout=0.0)
    train = {"loss": "supervised_contrastive", "batch_size": batch_size, "accumulate": accumulate}
    recipe = Recipe(clip={"num_frames": 2, "size": 32}, train=train, phases=[{"unfreeze": "layer4"}])
    state = start_phase(build_setup(model, manifest, recipe, precision="fp32", is_trial=True), 0)
    state.wrapped.train()
    clips = torch.randint(0, 255, (4, 1, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    batch = {"clips": clips, "label": torch.tensor([0, 1, 1, 0])}
    result = train_step(state, batch, StepNumbers(1, 1, 1), lr_factor=1.0, keep_gradients=True)
    return result.loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (3, 2), (1, 4)])
def test_a_step_in_parts_has_the_gradient_of_one_batch(manifest, batch_size, accumulate):
    (loss, whole), (loss_of_parts, parts) = (
        step_of(manifest, batch_size=4, accumulate=1),
        step_of(manifest, batch_size=batch_size, accumulate=accumulate),
    )
    assert loss_of_parts == pytest.approx(loss, rel=1e-4)
    assert any("layer4" in name for name in whole) and whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, atol=1e-3 * gradient.abs().max()), name


@pytest.mark.slow
def test_stopped_inside_an_epoch_it_goes_on_as_if_it_had_not_been(manifest, in_parts, tmp_path, signal_at):
    signal_at(3)
    with pytest.raises(KeyboardInterrupt):
        fit(manifest, tmp_path / "run", batch_size=1, accumulate=4)
    resumed, unbroken = weights_of(ft.resume(tmp_path / "run", quiet=True)), weights_of(in_parts)
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)


def test_the_embedding_is_returned_only_when_it_is_asked_for():
    model = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32).eval()
    clips = torch.randint(0, 255, (4, 2, 3, 32, 32), dtype=torch.uint8)
    outputs = model(clips, None, True)
    assert set(model(clips)) == {"label"} < set(outputs)
    assert torch.equal(model.heads(outputs[EMBEDDING])["label"], model(clips)["label"])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"data": {"multilabel": True}}, "with data.multilabel a clip has several classes"),
        ({"augment": {"mixup": 0.2}}, "augment.mixup and cutmix blend clips of two classes"),
        ({"train": {"batch_size": 1}}, "train.batch_size is 1; use 16 or more"),
        ({"tasks": {"a": {"kind": "classify"}}}, "takes one task of classes, but there are tasks"),
    ],
)
def test_what_has_no_clips_of_one_class_is_refused(recipe, message):
    train = {"loss": "supervised_contrastive"} | recipe.get("train", {})
    with pytest.raises(RecipeError, match=message):
        Recipe(**(recipe | {"train": train}))


@pytest.mark.slow
def test_data_without_two_clips_of_a_class_are_refused(manifest, tmp_path):
    first = [row for row in manifest.rows("train") if manifest.path(row).stem != "0"]
    with pytest.raises(RecipeError, match="no class has two training clips to compare"):
        fit(manifest.without(first), tmp_path / "run")
