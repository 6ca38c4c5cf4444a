"""Losses: worked by hand, equal to torch's where they coincide, and any form of target."""

import json
import math
from typing import get_args

import pytest
import torch
from grey import TINY
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import finetune as ft
from finetune.recipe.contrastive import CONTRASTIVE_LOSS
from finetune.recipe.schema import Augment, Train
from finetune.train.loss.losses import LOSSES, build_loss, class_balanced_weights, focal
from finetune.train.mixup import mix_clips

COUNTS = [50, 5, 500]
LABELS = torch.tensor([0, 2, 1, 2])
ONE_IN_FOUR = torch.tensor([[1.0, 3.0]]).log()  # probabilities 1/4 and 3/4


def logits(seed=0):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def shares(seed=0):
    return torch.rand(4, 3, generator=torch.Generator().manual_seed(seed)).softmax(1)


def loss_fn(name, *, counts=COUNTS, smoothing=0.0):
    return build_loss(name, class_counts=counts, label_smoothing=smoothing)


def test_the_names_are_those_of_a_recipe():
    names = set(get_args(get_args(Train.model_fields["loss"].annotation)[0]))
    assert set(LOSSES) == names - {CONTRASTIVE_LOSS}  # cross entropy and a term of its own, see build_objective


def test_cross_entropy_is_torchs_to_the_bit():
    for smoothing in (0.0, 0.1):
        for targets in (LABELS, F.one_hot(LABELS, 3).float(), shares()):
            wanted = F.cross_entropy(logits(), targets, label_smoothing=smoothing)
            assert torch.equal(loss_fn("cross_entropy", smoothing=smoothing)(logits(), targets), wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LABELS, F.one_hot(LABELS, 3).float(), shares()], ids=["labels", "sure", "mixed"])
def test_focal_with_gamma_0_is_cross_entropy(targets, smoothing):
    wanted = F.cross_entropy(logits(), targets, label_smoothing=smoothing)
    torch.testing.assert_close(focal(logits(), targets, smoothing=smoothing, gamma=0.0), wanted)


def test_focal_by_hand():
    found = loss_fn("focal")(ONE_IN_FOUR, torch.tensor([0])), loss_fn("focal")(ONE_IN_FOUR, torch.tensor([1]))
    assert [float(each) for each in found] == pytest.approx([9 / 16 * math.log(4), 1 / 16 * math.log(4 / 3)])
    mixed = loss_fn("focal")(ONE_IN_FOUR, torch.tensor([[0.5, 0.5]]))
    assert float(mixed) == pytest.approx((9 / 16 * math.log(4) + 1 / 16 * math.log(4 / 3)) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LABELS, F.one_hot(LABELS, 3).float(), shares()], ids=["labels", "sure", "mixed"])
def test_class_balanced_with_equal_counts_is_cross_entropy(targets, smoothing):
    found = loss_fn("class_balanced", counts=[7, 7, 7], smoothing=smoothing)(logits(), targets)
    torch.testing.assert_close(found, F.cross_entropy(logits(), targets, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_balanced_is_torchs_weighted_sum_over_the_number_of_clips(smoothing):
    weights = class_balanced_weights(COUNTS).float()
    wanted = F.cross_entropy(logits(), LABELS, weight=weights, label_smoothing=smoothing, reduction="sum") / 4
    torch.testing.assert_close(loss_fn("class_balanced", smoothing=smoothing)(logits(), LABELS), wanted)


def test_balanced_weights_by_hand():
    # effective numbers at beta 0.999 of 1 and 2 clips: 1 and 1.999
    assert class_balanced_weights([1, 2]).tolist() == pytest.approx([2 * 1.999 / 2.999, 2 / 2.999])
    assert class_balanced_weights([4, 4, 4]).tolist() == pytest.approx([1, 1, 1])
    # by a thousand clips the effective number stops growing: of 10⁵ and 10⁶ it is the same
    assert class_balanced_weights([10**5, 10**6]).tolist() == pytest.approx([1, 1])


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20))
def test_balanced_weights_have_a_mean_of_1_and_rarer_classes_no_less(counts):
    weights = class_balanced_weights(counts)
    assert weights.mean().item() == pytest.approx(1)
    rarest_first = weights[torch.tensor(counts).argsort()]
    assert (rarest_first.diff() <= 1e-9).all()


def test_in_a_batch_of_one_a_rare_class_counts_more():
    rare, common = (loss_fn("class_balanced")(torch.zeros(1, 3), torch.tensor([label])) for label in (1, 2))
    assert rare > 5 * common


def test_bce_by_hand_and_as_torch_has_it():
    even, sure = torch.zeros(1, 2), torch.tensor([[3.0, 1 / 3]]).log()  # sigmoid 3/4 and 1/4
    assert float(loss_fn("bce")(even, torch.tensor([1]))) == pytest.approx(math.log(2))
    assert float(loss_fn("bce")(sure, torch.tensor([0]))) == pytest.approx(math.log(4 / 3))
    both = torch.tensor([[1.0, 1.0]])  # there may be several, or none
    assert float(loss_fn("bce")(sure, both)) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert float(loss_fn("bce")(sure, 0 * both)) == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    several = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    wanted = F.binary_cross_entropy_with_logits(logits(), several)
    torch.testing.assert_close(loss_fn("bce")(logits(), several), wanted)


def test_bce_takes_a_class_without_regard_to_the_others():
    one = logits().requires_grad_()
    loss_fn("bce")(one, LABELS).backward()
    other = logits()
    other[:, 1:] += 5
    other.requires_grad_()
    loss_fn("bce")(other, LABELS).backward()
    assert torch.equal(one.grad[:, 0], other.grad[:, 0])


@pytest.mark.parametrize("name", LOSSES)
def test_labels_and_their_one_hot_form_are_the_same_target(name):
    for smoothing in (0.0, 0.2):
        loss = loss_fn(name, smoothing=smoothing)
        torch.testing.assert_close(loss(logits(), LABELS), loss(logits(), F.one_hot(LABELS, 3).float()))


@pytest.mark.parametrize("name", LOSSES)
def test_smoothing_is_a_target_spread_over_the_classes(name):
    smoothed = F.one_hot(LABELS, 3) * 0.7 + 0.1
    torch.testing.assert_close(loss_fn(name, smoothing=0.3)(logits(), LABELS), loss_fn(name)(logits(), smoothed))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "augment", [Augment(), Augment(mixup=1.0), Augment(cutmix=1.0)], ids=["none", "mixup", "cutmix"]
)
def test_every_loss_takes_what_mixing_gives_and_falls_along_its_gradient(name, augment):
    clips = torch.randint(0, 255, (4, 2, 3, 8, 8), dtype=torch.uint8)
    targets = torch.eye(3)[LABELS]
    if augment.mixup or augment.cutmix:
        _, targets = mix_clips(clips, targets, augment=augment, seed=1)
    loss, at = loss_fn(name, smoothing=0.1), logits().requires_grad_()
    value = loss(at, targets)
    value.backward()
    assert value.shape == ()
    assert loss(at.detach() - 0.1 * at.grad, targets) < value


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_logits_that_are_quite_sure_is_a_number_with_a_gradient(name):
    at = torch.tensor([[300.0, -300, 0], [-300, 300, 0]], requires_grad=True)
    value = loss_fn(name)(at, torch.tensor([0, 0]))
    value.backward()
    assert value.isfinite()
    assert at.grad.isfinite().all()
    assert at.grad[1, 0] < 0


@pytest.mark.slow
def test_training_uses_the_loss_of_the_recipe_and_the_counts_of_its_rows(clip_folder, tmp_path):
    manifest = ft.Manifest.from_folder(clip_folder)
    manifest = manifest.without(manifest.rows("train")[:3])  # one dark clip and four bright ones are left
    assert list(manifest.counts("train").values()) == [1, 4]
    found = {}
    for name in LOSSES:
        torch.manual_seed(0)
        model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, dropout=0)
        with torch.no_grad():
            model.heads["label"][-1].weight.zero_()
            model.heads["label"][-1].bias.zero_()
        run = ft.fit(
            model,
            manifest,
            [ft.Phase(unfreeze="head", epochs=1, lr=1e-9)],
            clip=ft.Clip(num_frames=2),
            train=ft.Train(loss=name, head_start="random"),
            out=tmp_path / name,
            quiet=True,
        )
        found[name] = json.loads((run / "metrics.jsonl").read_text())["train_loss"]
    dark, bright = class_balanced_weights([1, 4]).tolist()
    assert found == pytest.approx(
        {
            "cross_entropy": math.log(2),
            "focal": math.log(2) / 4,
            "class_balanced": (dark + 4 * bright) / 5 * math.log(2),
            "bce": math.log(2),
        },
        rel=1e-4,
    )
