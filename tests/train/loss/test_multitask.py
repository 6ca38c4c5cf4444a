"""Losses of several tasks, worked by hand: rows without a label, weights, divisors, gradients compared, penalties."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import pytest
import torch
from tasked import TASKS, draw_clips, manifest_of, recipe_of
from torch.nn import functional as F

from finetune.data.labels import TargetLayout
from finetune.train.from_recipe import new_model
from finetune.train.loss.multitask import LOSS_EMA_DECAY, MultitaskObjective, StepContext
from finetune.train.loss.task_weighting import WEIGHTINGS

TWO = {"way": TASKS["way"], "box": TASKS["box"] | {"temporal": "mean", "spatial_pooling": "mean"}}
NUMBERS = {"one": {"kind": "regress", "columns": "shade"}, "other": {"kind": "regress", "columns": "shade"}}
BOXES = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.0, 0.2], [0.3, 0.1, -0.2, 0.4], [2.0, 0.0, 1.0, 0.0]])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture
def begin(data):
    """What weighs the losses of these tasks, and its model."""

    def build(tasks=TWO, **multitask):
        recipe = recipe_of(data, tasks, multitask={"normalize_losses": "none"} | multitask)
        manifest = manifest_of(recipe)
        torch.manual_seed(1)
        model = new_model(recipe, manifest).train()
        return MultitaskObjective(model, manifest, "cross_entropy", smoothing=0.0, reduce=lambda sums: sums)

    return build


def targets_of(objective, rows):
    """Of rows {task: target or None}."""
    layout = TargetLayout(objective.spec.outputs)
    return torch.from_numpy(
        np.stack([layout.vector({name: row.get(name) for name in objective.names}) for row in rows])
    )


def said_at_random(objective, rows, seed=0):
    generator, outputs = torch.Generator().manual_seed(seed), objective.spec.outputs
    return {
        name: torch.randn((rows, each.width), generator=generator).requires_grad_() for name, each in outputs.items()
    }


def step(objective, said, targets, *, size=None, draw=0, watched=False):
    """The loss of a step, in parts of so many clips, as training takes it; gradients are left in what was said."""
    objective.begin(targets, StepContext(draw, watched))
    total, size = 0.0, size or len(targets)
    for first in range(0, len(targets), size):
        part = slice(first, first + size)
        share = len(targets[part]) / len(targets)
        loss = share * objective.loss({name: each[part] for name, each in said.items()}, targets[part], share)
        loss.backward(retain_graph=True)
        total += float(loss.detach())
    objective.after_step([])
    return total


def gradients(said):
    return {name: each.grad.clone() for name, each in said.items()}


def one_box_of_four(objective):
    ways = [np.eye(2, dtype=np.float32)[number % 2] for number in range(4)]
    return targets_of(
        objective, [{"way": way, "box": BOXES[2] if number == 2 else None} for number, way in enumerate(ways)]
    )


def test_a_loss_is_the_mean_over_the_rows_that_have_the_label(begin):
    objective = begin()
    said, targets = said_at_random(objective, 4), one_box_of_four(objective)
    loss = step(objective, said, targets)
    own = F.smooth_l1_loss(said["box"][2:3], BOXES[2:3])
    of_ways = F.cross_entropy(said["way"], torch.tensor([0, 1, 0, 1]))
    assert loss == pytest.approx(float((of_ways + own).detach()), rel=1e-6)
    (expected,) = torch.autograd.grad(own, said["box"])
    assert torch.allclose(said["box"].grad, expected)
    assert torch.equal(said["box"].grad[[0, 1, 3]], torch.zeros(3, 4)) and expected[2].abs().min() > 0
    record = objective.after_epoch()
    assert record["tasks"]["box"]["train_loss"] == pytest.approx(float(own.detach()), rel=1e-6)
    assert record["weights"] == {"way": 1.0, "box": 1.0} and record["cosines"] == {}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_in_parts_a_step_is_what_it_is_as_a_whole(begin, size):
    whole, parted = begin(weighting="uncertainty"), begin(weighting="uncertainty")
    targets, one, other = one_box_of_four(whole), said_at_random(whole, 4), said_at_random(whole, 4)
    assert step(whole, one, targets) == pytest.approx(step(parted, other, targets, size=size), rel=1e-6)
    for name, gradient in gradients(one).items():
        assert torch.allclose(gradient, other[name].grad, atol=1e-7), name
    assert torch.allclose(whole.rule.state()["adam"], parted.rule.state()["adam"])


@pytest.mark.parametrize("normalize_losses", ["none", "initial", "running"])
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "famo", "dwa", "random"])
def test_a_batch_without_a_label_of_a_task_costs_it_nothing_and_teaches_nothing_of_it(
    begin, normalize_losses, weighting
):
    objective = begin(normalize_losses=normalize_losses, weighting=weighting)
    if weighting == "famo":
        objective.rule.after_step = lambda losses, after: type(objective.rule).after_step(
            objective.rule, losses, losses
        )
    step(objective, said_at_random(objective, 4), one_box_of_four(objective))
    before = objective.divisors.clone(), {name: each.clone() for name, each in objective.rule.state().items()}
    targets = targets_of(objective, [{"way": np.float32([1, 0])}, {"way": np.float32([0, 1])}])
    said = said_at_random(objective, 2, seed=1)
    loss = step(objective, said, targets)
    alone = float(F.cross_entropy(said["way"].detach(), torch.tensor([0, 1])))
    assert torch.equal(said["box"].grad, torch.zeros(2, 4))
    assert np.isfinite(loss) and loss > 0 and objective.divisors[1] == before[0][1]
    if normalize_losses == "none" and weighting in {"fixed", "famo", "dwa"}:
        assert loss == pytest.approx(alone, rel=1e-6)
    for name, each in objective.rule.state().items():
        assert np.array_equal(each[..., 1], before[1][name][..., 1], equal_nan=True), name
    assert objective.epoch.counts.tolist() == [2, 1]


def test_losses_are_divided_by_the_first_or_by_a_running_mean(begin):
    ways = torch.tensor([0, 1, 0, 1])
    for normalize_losses in ("initial", "running"):
        objective = begin(normalize_losses=normalize_losses)
        targets, losses = one_box_of_four(objective), []
        for number in range(3):
            said = said_at_random(objective, 4, seed=number)
            losses.append(
                torch.stack([F.cross_entropy(said["way"], ways), F.smooth_l1_loss(said["box"][2], BOXES[2])]).detach()
            )
            divisor = losses[0]
            if normalize_losses == "running" and number == 2:
                divisor = LOSS_EMA_DECAY * losses[0] + (1 - LOSS_EMA_DECAY) * losses[1]
            found = step(objective, said, targets)
            assert found == pytest.approx(float((losses[-1] / divisor).sum()), rel=1e-5), (normalize_losses, number)


def test_a_task_that_first_comes_in_a_later_part_of_a_step_is_divided_by_what_it_was_there(begin):
    objective = begin(normalize_losses="initial")
    said, targets = said_at_random(objective, 4), one_box_of_four(objective)
    step(objective, said, targets, size=2)
    assert objective.divisors[1] == pytest.approx(float(F.smooth_l1_loss(said["box"][2].detach(), BOXES[2])), rel=1e-6)


def test_a_clip_that_stands_in_for_unreadable_ones_is_not_counted(begin):
    objective, handed = begin(), []
    objective.reduce = lambda sums: handed.append(sums.tolist()) or sums
    objective.begin(targets_of(objective, [{}]), StepContext(0, False, 2, is_dummy_batch=True))
    objective.begin(one_box_of_four(objective), StepContext(0, False, 2))
    assert handed == [[0, 0, 0], [4, 1, 4]]


def test_the_recipes_weights_are_factors(begin):
    objective = begin({"way": TWO["way"] | {"weight": 0.25}, "box": TWO["box"] | {"weight": 3.0}})
    said, targets = said_at_random(objective, 4), one_box_of_four(objective)
    own = 0.25 * F.cross_entropy(said["way"], torch.tensor([0, 1, 0, 1])) + 3 * F.smooth_l1_loss(
        said["box"][2], BOXES[2]
    )
    assert step(objective, said, targets) == pytest.approx(float(own.detach()), rel=1e-6)
    assert objective.after_epoch()["weights"] == {"way": 0.25, "box": 3.0}


CLIPS = torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WANTED = torch.tensor([[[1.0], [2.0], [-1.0], [0.5]], [[-20.0], [-10.0], [5.0], [10.0]]])


def numbers_of(objective, wanted=WANTED):
    return targets_of(
        objective, [dict(zip(objective.names, each, strict=False)) for each in wanted.transpose(0, 1).numpy()]
    )


def own_losses(said, wanted=WANTED):
    return [F.mse_loss(said[name], each) for name, each in zip(("one", "other"), wanted, strict=True)]


def gradients_of(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(each) if gradient is None else gradient
        for (name, each), gradient in zip(model.named_parameters(), found, strict=True)
    }


def products(losses, place):
    """Of the gradients at one tensor (2, 2)."""
    rows = [torch.autograd.grad(loss, place, retain_graph=True)[0].flatten().double() for loss in losses]
    return torch.stack(rows) @ torch.stack(rows).T


READING = {
    "what is pooled": {},
    "the last stage": {"one": {"temporal": "gru"}},
    "an earlier stage": {"one": {"feature_stage": "layer2"}},
    "two stages": {
        "one": {"feature_stage": "layer2"},
        "other": {"feature_stage": "layer3", "spatial_pooling": "keypoints"},
    },
}


def reading(which):
    return {name: task | READING[which].get(name, {}) for name, task in NUMBERS.items()}


@pytest.fixture
def place_of():
    """The tensor at which the gradients of tasks that read so are compared, by a hook of the test's own."""
    found = {}

    def watch(model, which):
        module = model.backbone.net.layer2[-1] if "stage" in which and which != "the last stage" else None
        if module is not None:
            module.register_forward_hook(lambda *call: found.update(place=call[-1]))
        elif which == "the last stage":
            over = model.backbone.over_time
            model.backbone.over_time = lambda *given: found.setdefault("place", over(*given))
        else:
            model.temporal.register_forward_hook(lambda *call: found.update(place=call[-1]))
        return lambda: found["place"]

    return watch


@pytest.mark.parametrize("which", READING)
def test_cosines_are_of_the_gradients_at_what_tasks_share(begin, place_of, which):
    objective = begin(reading(which))
    place = place_of(objective.model, which)
    said = objective.model(CLIPS)
    gramian = products(own_losses(said), place())
    step(objective, said, numbers_of(objective), watched=True)
    cosine = gramian[0, 1] / (gramian[0, 0] * gramian[1, 1]).sqrt()
    assert objective.after_epoch()["cosines"] == {"one | other": pytest.approx(float(cosine), abs=1e-5)}


@pytest.mark.parametrize("which", READING)
def test_pcgrad_weighs_the_gradients_of_what_is_shared_and_no_heads(begin, place_of, which):
    """Of two tasks that pull apart: g + h less the part of each that is against the other, from its paper."""
    pytest.importorskip("torchjd")
    objective = begin(reading(which), weighting="pcgrad")
    model, place = objective.model, place_of(objective.model, which)
    if which == "what is pooled":
        model.heads["other"].load_state_dict(
            {name: 1.2 * each for name, each in model.heads["one"].state_dict().items()}
        )
    said, wanted = model(CLIPS), WANTED
    if products(own_losses(said), place())[0, 1] > 0:
        wanted = torch.stack([WANTED[0], -WANTED[1]])
    losses = own_losses(said, wanted)
    gramian = products(losses, place())
    assert gramian[0, 1] < 0
    weights = 1 - gramian[0, 1].clamp_max(0) / gramian.diagonal()
    own = [gradients_of(loss, model) for loss in losses]
    model.zero_grad()
    step(objective, said, numbers_of(objective, wanted))
    assert objective.gates.tolist() == pytest.approx(weights.tolist(), rel=1e-4)
    for name, parameter in model.named_parameters():
        shared = name.startswith("backbone.net") and not after_the_place(name, which)
        factors = weights if shared else torch.ones(2)
        if name.startswith("backbone.net") and not shared:
            continue  # of one task alone, or of both by other shares
        expected = sum(float(factor) * each[name] for factor, each in zip(factors, own, strict=True))
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-6), name


def after_the_place(name, which):
    return which == "two stages" and any(stage in name for stage in ("layer3", "layer4"))


def test_in_towers_gradients_are_compared_over_both(begin):
    """Tasks of two towers share nothing; those of one tower, the second too, are compared with each other."""
    tasks = NUMBERS | {"third": NUMBERS["one"]}
    objective = begin(tasks, sharing="towers")
    said = objective.model(CLIPS)
    rows = [{"one": one.numpy(), "other": two.numpy(), "third": two.numpy()} for one, two in zip(*WANTED, strict=True)]
    step(objective, said, targets_of(objective, rows), watched=True)
    cosines = objective.after_epoch()["cosines"]
    assert cosines["one | other"] == pytest.approx(0, abs=1e-12) == cosines["one | third"]
    assert abs(cosines["other | third"]) > 1e-3


def test_relation_pulls_like_parameters_of_tasks_together(begin):
    objective = begin(NUMBERS, soft_sharing_heads=0.1)
    one, other = (dict(objective.model.heads[name].named_parameters()) for name in NUMBERS)
    expected = 0.1 * sum((one[part] - other[part]).square().sum() for part in one)
    penalty = objective.penalty()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-6) and penalty.item() > 0
    penalty.backward()
    assert torch.allclose(one["1.weight"].grad, 0.2 * (one["1.weight"] - other["1.weight"]))
    assert begin(NUMBERS).penalty() == 0.0


def test_structure_pulls_the_towers_together(begin):
    objective = begin(NUMBERS, sharing="towers", soft_sharing_towers=0.01)
    assert objective.penalty().item() == 0
    moved = next(each for name, each in objective.model.named_parameters() if ".towers.1." in name)
    with torch.no_grad():
        moved += 0.5
    assert objective.penalty().item() == pytest.approx(0.01 * 0.25 * moved.numel(), rel=1e-4)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_two_processes_weigh_as_one_that_has_all_clips(begin, weighting):
    pytest.importorskip("torchjd")
    alone = begin(NUMBERS, weighting=weighting)
    both = [begin(NUMBERS, weighting=weighting) for _ in range(2)]
    for objective in (alone, *both):
        objective.model.eval()  # no running statistics, which are of each process's own clips
    barrier, handed = Barrier(2), {}

    def reduce(process, sums):
        handed[process] = sums
        barrier.wait()
        total = handed[0] + handed[1]
        barrier.wait()
        return total

    def two_steps(objective, part, processes):
        clips, wanted = CLIPS[part], WANTED[:, part]
        for draw in range(2):
            targets = numbers_of(objective, wanted)
            objective.begin(targets, StepContext(draw, True, processes))
            objective.loss(objective.model(clips), targets, 1.0)
            with torch.no_grad():
                after = [(objective.model(clips), targets)] if objective.wants_losses_after else []
            objective.after_step(after)
        return objective.after_epoch()

    with ThreadPoolExecutor(2) as pool:
        for process, objective in enumerate(both):
            objective.reduce = partial(reduce, process)
        records = list(pool.map(two_steps, both, [slice(0, 2), slice(2, 4)], [2, 2]))
    expected = two_steps(alone, slice(0, 4), 1)
    assert records[0] == records[1]
    for name in NUMBERS:
        assert records[0]["weights"][name] == pytest.approx(expected["weights"][name], rel=1e-3)
    assert records[0]["cosines"] == pytest.approx(expected["cosines"], abs=1e-4)
    for name, value in alone.rule.state().items():
        assert torch.allclose(both[0].rule.state()[name], value, rtol=1e-3, equal_nan=True), name
