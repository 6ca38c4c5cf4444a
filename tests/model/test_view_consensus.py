"""Consensus over views: by hand, in the model's forward, and in every command that answers for a video."""

import json
from typing import get_args

import pytest
import torch
from grey import TINY
from hypothesis import given
from hypothesis import strategies as st

import finetune as ft
from finetune.inference.forward import probabilities
from finetune.model.view_consensus import CONSENSUS_FUNCTIONS, CONSENSUS_LABELS, combine_views
from finetune.recipe.schema import Evaluate


def test_the_kinds_are_those_of_a_recipe():
    assert (
        set(CONSENSUS_FUNCTIONS)
        == set(CONSENSUS_LABELS)
        == set(get_args(Evaluate.model_fields["consensus"].annotation))
    )


def test_each_consensus_by_hand():
    logits = torch.tensor([[[0.9, 0.1, 0.0]], [[0.2, 0.2, 0.6]]]).log()
    assert combine_views(logits, "probs")[0].tolist() == pytest.approx([0.55, 0.15, 0.3])
    assert combine_views(logits, "max")[0].tolist() == pytest.approx([0.9 / 1.7, 0.2 / 1.7, 0.6 / 1.7])
    # the mean of logits is the geometric mean of probabilities: 3 : 1 : 1 of 9 : 1 : 1 and 1 : 1 : 1
    logits = torch.tensor([[[9.0, 1, 1]], [[1.0, 1, 1]]]).log()
    assert combine_views(logits, "logits")[0].tolist() == pytest.approx([0.6, 0.2, 0.2])


views = st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONSENSUS_FUNCTIONS)
@given(logits=views)
def test_a_consensus_is_a_distribution_and_does_not_depend_on_the_order_of_views(kind, logits):
    logits = torch.tensor(logits)[:, None]
    probs = combine_views(logits, kind)
    torch.testing.assert_close(probs.sum(1), torch.ones(1))
    torch.testing.assert_close(combine_views(logits.flip(0), kind), probs)


@pytest.mark.parametrize("kind", CONSENSUS_FUNCTIONS)
@given(logits=views)
def test_views_that_say_the_same_agree_on_it(kind, logits):
    one = torch.tensor(logits)[:1, None]
    torch.testing.assert_close(combine_views(one.expand(3, 1, 3), kind), one[0].softmax(1))
    torch.testing.assert_close(combine_views(one, kind), one[0].softmax(1))


@pytest.mark.parametrize("kind", CONSENSUS_FUNCTIONS)
def test_forward_over_views_gives_the_logarithm_of_what_evaluation_gives(kind):
    torch.manual_seed(0)
    model = ft.build_model(TINY, ["a", "b", "c"], weights="none", num_frames=2, size=32).eval()
    with torch.no_grad():
        model.heads["label"][-1].weight.mul_(100)  # views that differ
    model.consensus = kind
    clips = torch.randint(0, 255, (2, 3, 2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        together = model(clips)["label"]
        apart = torch.stack([model(clips[:, view])["label"] for view in range(3)])
    torch.testing.assert_close(together.exp(), combine_views(apart, kind))
    torch.testing.assert_close(probabilities(model, clips, precision="fp32"), combine_views(apart, kind))


@pytest.mark.parametrize("kind", CONSENSUS_FUNCTIONS)
def test_forward_over_views_that_are_quite_sure_stays_a_number_with_a_gradient(kind):
    model = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32)
    model.consensus = kind
    with torch.no_grad():
        model.heads["label"][-1].bias.copy_(torch.tensor([0.0, 500.0]))
    log_probs = model(torch.zeros(1, 2, 2, 3, 32, 32, dtype=torch.uint8))["label"]
    assert log_probs.isfinite().all()
    log_probs[0, 1].backward()
    assert all(each.grad.isfinite().all() for each in model.heads.parameters())


def test_views_are_computed_one_after_the_other():
    model = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32).eval()
    assert model.fits_one_thread  # measured by a clip of its own, before
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    probabilities(model, torch.zeros(2, 5, 2, 3, 32, 32, dtype=torch.uint8), precision="fp32")
    assert seen == [(2, 2, 3, 32, 32)] * 5


@pytest.mark.slow
def test_validation_evaluation_and_prediction_use_the_recipes_consensus(clip_folder, tmp_path):
    manifest = ft.Manifest.from_folder(clip_folder)
    clip, phases = ft.Clip(num_frames=2), [ft.Phase(unfreeze="all", epochs=1, lr=0.1, batch_norm="train")]
    losses, found = {}, {}
    for kind in CONSENSUS_FUNCTIONS:
        torch.manual_seed(0)
        model = ft.build_model(TINY, manifest.classes, weights="none", temporal="diff", num_frames=2, size=32)
        evaluate = ft.Evaluate(views=3, consensus=kind)
        train = ft.Train(head_start="random")  # a probe is so sure that all rules give 1.0
        run = ft.fit(
            model, manifest, phases, clip=clip, train=train, evaluate=evaluate, out=tmp_path / kind, quiet=True
        )
        losses[kind] = json.loads((run / "metrics.jsonl").read_text())["val_loss"]
        results = ft.evaluate(run)
        assert results["protocol"]["consensus"] == CONSENSUS_LABELS[kind]
        path = sorted((clip_folder / "test" / "dark ones").iterdir())[0]
        (prediction,) = ft.predict(run, [path])
        row = next(row for row in (run / "evaluation/predictions.csv").read_text().splitlines() if str(path) in row)
        assert f",{prediction.predicted},{prediction.probability}," in row
        found[kind] = prediction.probability
    assert len(set(losses.values())) == len(set(found.values())) == len(CONSENSUS_FUNCTIONS)
