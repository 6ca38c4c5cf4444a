"""Weighting rules of several tasks: one table of what each rule promises, then what is particular to a rule."""

import io
import math
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np
import pytest
import torch

from finetune.errors import RecipeError
from finetune.train.loss.gradient_surgery import CAGRAD_C
from finetune.train.loss.task_weighting import (
    DWA_TEMPERATURE,
    FAMO_DECAY,
    GRADNORM_ALPHA,
    LEARNING_RATE,
    MAX_LOG_VARIANCE,
    WEIGHTINGS,
    adam_start,
    adam_step,
    build_weighting,
)

NAN = math.nan


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def weights(rule, *losses, gramian=None, draw=0):
    return rule.weights(numbers(*losses), gramian, draw=draw).numpy()


def orthogonal(*norms):
    """The Gramian of orthogonal gradients with these norms."""
    return torch.diag(numbers(*norms) ** 2)


OPPOSED = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)  # of (1, 0) and (-1, 1), at 135 degrees
CLASHING = torch.tensor([[1.0, -2.0], [-2.0, 4.0]], dtype=torch.float64)  # of (1, 0) and (-2, 0)


def softmax(*logits):
    powers = np.exp(logits)
    return powers / powers.sum()


class Promise(NamedTuple):
    """What a rule promises, and an example of its published formula for two tasks.

    The example: what the rule saw, in order, as (method, losses or losses and Gramian); then losses, Gramian, and the
    weights that they give.
    """

    example: tuple
    sums_to_the_number_of_tasks: bool = False
    ignores_the_scale_of_losses: bool = True
    treats_tasks_alike: bool = True  # the order in which tasks are given does not matter
    leaves_out_absent_tasks: bool = True  # the others get the weights that they would have without it


def gradnorm_saw(*steps):
    return tuple(("weights", losses, gramian) for losses, gramian in steps)


PROMISES = {
    "fixed": Promise(((), (5.0, 0.1), None, [1, 1]), sums_to_the_number_of_tasks=True),
    # the gradient of exp(-s) L + s at s = 0 is 1 - L, and Adam's first step is one learning rate against it
    "uncertainty": Promise(
        ((("after_step", (4.0, 0.25)),), (4.0, 0.25), None, np.exp([-LEARNING_RATE, LEARNING_RATE])),
        ignores_the_scale_of_losses=False,
    ),
    # losses fell to 1/2 and to 9/10
    "dwa": Promise(
        (
            (("after_epoch", (4.0, 10.0)), ("after_epoch", (2.0, 9.0))),
            *((1.0, 1.0), None, 2 * softmax(0.5 / DWA_TEMPERATURE, 0.9 / DWA_TEMPERATURE)),
        ),
        sums_to_the_number_of_tasks=True,
        leaves_out_absent_tasks=False,
    ),
    # the softmax of normal draws
    "random": Promise(
        (
            *((), (1.0, 1.0), None),
            2 * softmax(*torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()),
        ),
        sums_to_the_number_of_tasks=True,
        treats_tasks_alike=False,
        leaves_out_absent_tasks=False,
    ),
    # z moves from the loss that fell to the one that rose; losses are equal, so weights are 2 z
    "famo": Promise(
        (
            (("after_step", (4.0, 1.0), (2.0, 1.1)),),
            *((3.0, 3.0), None, 2 * softmax(-LEARNING_RATE, LEARNING_RATE)),
        ),
        sums_to_the_number_of_tasks=True,
    ),
    # The mean norm is 2; losses are at 1/2 and 3/2 of their start, so targets are 2 * 0.5 ** 1.5 = 0.71 and
    # 2 * 1.5 ** 1.5 = 3.67: the first gradient, of norm 1, is too long, the second, of norm 3, too short.
    "gradnorm": Promise(
        (
            gradnorm_saw(((2.0, 2.0), orthogonal(1, 1)), ((1.0, 3.0), orthogonal(1, 3))),
            *((1.0, 3.0), orthogonal(1, 3), 2 * softmax(-LEARNING_RATE * 1 / 2, LEARNING_RATE * 3 / 2)),
        ),
        sums_to_the_number_of_tasks=True,
    ),
    # the first without its part against the second: g1 + g2 / 2; the second without its part: g2 + g1
    "pcgrad": Promise(((), (1.0, 1.0), OPPOSED, [2, 1.5]), treats_tasks_alike=False),
    # the mean is (-1/2, 0); the first task is worst off, so half the radius of its direction is added
    "cagrad": Promise(((), (1.0, 1.0), CLASHING, np.array([1 + CAGRAD_C, 1]) / (1 + CAGRAD_C))),
    # made orthogonal and as long as the shortest
    "aligned_mtl": Promise(((), (1.0, 1.0), orthogonal(1, 100), [1, 0.01])),
    "upgrad": Promise(((), (1.0, 1.0), OPPOSED, [2, 1.5])),  # of two tasks both are projected alike
}


def those_that(promise):
    return [name for name, promises in PROMISES.items() if getattr(promises, promise)]


@pytest.fixture(autouse=True)
def torchjd(request):
    if "without_torchjd" not in request.node.name:
        pytest.importorskip("torchjd")


def drawn_step(step, *, absent=None):
    """Losses, losses after, and a Gramian of a made-up step of three tasks, of which one may be absent."""
    random = np.random.default_rng(step)
    losses, gradients = random.uniform(0.1, 3, 3), random.normal(size=(3, 4)) * [[1], [10], [100]]
    if absent is not None:
        losses[absent], gradients[absent] = NAN, 0
    return numbers(*losses), numbers(*losses * random.uniform(0.8, 1.1, 3)), torch.tensor(gradients @ gradients.T)


def take(rule, steps, *, absent=None, scale=1.0, order=(0, 1, 2)):
    """The weights of these steps; every fifth ends an epoch. Losses may be scaled, and tasks reordered."""
    order, weights_of_steps = list(order), []
    for step in steps:
        losses, after, gramian = drawn_step(step, absent=absent)
        losses, after, gramian = scale * losses[order], scale * after[order], gramian[order][:, order]
        weights_of_steps.append(rule.weights(losses, gramian if rule.wants_gradients else None, draw=step))
        rule.after_step(losses, after if rule.wants_losses_after else None)
        if step % 5 == 4:
            rule.after_epoch(losses)
    return torch.stack(weights_of_steps)


def test_the_table_has_every_rule():
    assert list(PROMISES) == list(WEIGHTINGS)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_those_of_the_published_formula(name):
    history, losses, gramian, expected = PROMISES[name].example
    rule = build_weighting(name, 2)
    for method, *arguments in history:
        if method == "weights":
            rule.weights(numbers(*arguments[0]), arguments[1], draw=0)
        elif method == "after_step":
            before, *after = (numbers(*values) for values in arguments)
            rule.after_step(before, after[0] if after else None)
        else:
            rule.after_epoch(numbers(*arguments[0]))
    assert weights(rule, *losses, gramian=gramian) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_tasks_between_which_there_is_no_difference_weigh_1(name):
    if name == "random":
        return  # in the mean, see below
    rule = build_weighting(name, 3)
    for _ in range(5):
        found = weights(rule, 1.0, 1.0, 1.0, gramian=torch.full((3, 3), 4.0, dtype=torch.float64))
        rule.after_step(numbers(1, 1, 1), numbers(1, 1, 1))
        rule.after_epoch(numbers(1, 1, 1))
        assert found == pytest.approx([1, 1, 1], abs=1e-4)


@pytest.mark.parametrize("name", those_that("sums_to_the_number_of_tasks"))
def test_weights_sum_to_the_number_of_tasks(name):
    assert take(build_weighting(name, 3), range(20)).sum(1).numpy() == pytest.approx(np.full(20, 3.0))


@pytest.mark.parametrize("name", those_that("ignores_the_scale_of_losses"))
def test_weights_do_not_depend_on_the_unit_of_the_losses(name):
    plain, scaled = (take(build_weighting(name, 3), range(20), scale=scale) for scale in (1, 100))
    assert scaled.numpy() == pytest.approx(plain.numpy(), rel=1e-6)


@pytest.mark.parametrize("name", those_that("treats_tasks_alike"))
def test_weights_do_not_depend_on_the_order_of_tasks(name):
    plain = take(build_weighting(name, 3), range(12))
    for order in permutations(range(3)):
        found = take(build_weighting(name, 3), range(12), order=order)
        assert found.numpy() == pytest.approx(plain[:, list(order)].numpy(), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_rule_taken_up_again_gives_the_same_weights_to_the_bit(name):
    whole = take(build_weighting(name, 3), range(30))
    first, second, file = build_weighting(name, 3), build_weighting(name, 3), io.BytesIO()
    take(first, range(17))
    torch.save(first.state(), file)
    take(first, range(17, 20))  # what was saved does not move with it
    file.seek(0)
    second.restore(torch.load(file, weights_only=True))
    assert torch.equal(take(second, range(17, 30)), whole[17:])


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_what_is_restored_is_not_moved_by_the_rule_that_took_it_up(name):
    rule = build_weighting(name, 3)
    take(rule, range(12))
    kept = rule.state()
    copies = {key: value.clone() for key, value in kept.items()}
    rule.restore(kept)
    take(rule, range(12, 20))
    assert all(torch.equal(kept[key], copies[key]) for key in kept)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_step_is_a_function_of_its_draw_and_leaves_torchs_generator_alone(name):
    before = torch.get_rng_state()
    one, other = take(build_weighting(name, 3), range(12)), take(build_weighting(name, 3), range(12))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("absent", [0, 2])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_that_is_always_absent_leaves_the_weights_finite(name, absent):
    assert take(build_weighting(name, 3), range(20), absent=absent).isfinite().all()


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_that_was_absent_for_a_while_finds_the_rule_as_if_it_had_not_been_asked(name):
    """Two steps with one task alone: the rule keeps what it had learned about the others."""
    rule = build_weighting(name, 3)
    take(rule, range(12))
    before = rule.state()
    for step in (13, 14):
        losses = numbers(NAN, 0.5, NAN)
        rule.weights(losses, orthogonal(0, 1, 0), draw=step)
        rule.after_step(losses, losses * 1.0)
    after = rule.state()
    for key in before:
        columns = before[key][..., [0, 2]], after[key][..., [0, 2]]
        assert torch.equal(*columns)


@pytest.mark.parametrize("name", those_that("leaves_out_absent_tasks"))
def test_absent_tasks_are_not_counted_in_the_weights_of_the_others(name):
    """What three tasks weigh, of which one never comes, is what two weigh."""
    three, two = build_weighting(name, 3), build_weighting(name, 2)
    for step in range(20):
        losses, after, gramian = drawn_step(step, absent=2)
        found = three.weights(losses, gramian, draw=step)[:2]
        wanted = two.weights(losses[:2], gramian[:2, :2], draw=step)
        if name != "pcgrad":  # its order of tasks is drawn; of two it does not matter
            assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-6)
        three.after_step(losses, after)
        two.after_step(losses[:2], after[:2])


def test_without_torchjd_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr("finetune.train.loss.task_weighting.find_spec", lambda package: None)
    for name in ("pcgrad", "aligned_mtl", "upgrad"):
        with pytest.raises(
            RecipeError, match=rf"{name} needs the package torchjd: pip install 'finetune-video\[mtl\]'"
        ):
            build_weighting(name, 2)
    assert weights(build_weighting("cagrad", 2), 1.0, 1.0, gramian=orthogonal(1, 1)) == pytest.approx([1, 1], abs=1e-4)


def test_random_weights_are_positive_sum_to_the_number_of_tasks_and_are_1_in_the_mean():
    rule = build_weighting("random", 3)
    found = np.stack([weights(rule, 1.0, 1.0, 1.0, draw=draw) for draw in range(4000)])
    assert found.sum(1) == pytest.approx(np.full(4000, 3.0))
    assert (found > 0).all()
    error = found.std(0) / math.sqrt(4000)
    assert (abs(found.mean(0) - 1) < 4 * error).all()
    odds = np.log(found[:, 0] / found[:, 1])  # of a softmax of normals: the difference of two
    assert odds.std() == pytest.approx(math.sqrt(2), rel=0.05)


def test_dwa_by_hand():
    rule = build_weighting("dwa", 2)
    assert weights(rule, 1.0, 1.0).tolist() == [1, 1]
    rule.after_epoch(numbers(4.0, 10.0))
    assert weights(rule, 1.0, 1.0).tolist() == [1, 1]
    rule.after_epoch(numbers(2.0, 9.0))  # to 1/2 and to 9/10
    powers = np.exp(np.array([0.5, 0.9]) / DWA_TEMPERATURE)
    assert weights(rule, 1.0, 1.0) == pytest.approx(2 * powers / powers.sum())
    rule.after_epoch(numbers(NAN, 9.0))  # an epoch without a row of the first: it keeps its ratio
    powers = np.exp(np.array([0.5, 1.0]) / DWA_TEMPERATURE)
    assert weights(rule, 1.0, 1.0) == pytest.approx(2 * powers / powers.sum())


def test_dwa_of_a_loss_that_was_0_is_finite():
    rule = build_weighting("dwa", 2)
    for losses in ((1.0, 0.0), (1.0, 0.0), (1.0, 2.0), (0.0, 0.0)):
        rule.after_epoch(numbers(*losses))
        assert np.isfinite(weights(rule, 1.0, 1.0)).all()


def test_what_is_learned_moves_as_torchs_adam_has_it():
    state, wanted = adam_start(3), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([wanted], lr=LEARNING_RATE)
    for step in range(50):
        wanted.grad = torch.tensor(np.random.default_rng(step).normal(size=3) * [1, 10, 0.01])
        state = adam_step(state, wanted.grad)
        adam.step()
        torch.testing.assert_close(state[0], wanted.detach())


def test_what_has_no_gradient_does_not_move():
    state, other = adam_start(2), adam_start(2)
    for step in range(6):
        state = adam_step(state, numbers(1.0 + step, NAN if step % 2 else 3.0 - step))
        if step % 2 == 0:
            other = adam_step(other, numbers(0.0, 3.0 - step))
    assert state[0, 1] == other[0, 1]


def test_uncertainty_comes_to_weigh_each_constant_loss_to_1_within_its_bounds():
    rule, losses = build_weighting("uncertainty", 4), (0.5, 2.0, 100.0, 1e9)
    for _ in range(2000):
        rule.after_step(numbers(*losses), None)
    found = weights(rule, *losses)
    assert np.log(found[:3]) == pytest.approx(-np.log(losses[:3]), abs=0.02)
    assert found[3] == pytest.approx(math.exp(-MAX_LOG_VARIANCE))


def test_uncertainty_holds_a_loss_of_0_within_its_bounds():
    rule = build_weighting("uncertainty", 1)
    for _ in range(1000):
        rule.after_step(numbers(0.0), None)
    assert weights(rule, 0.0) == pytest.approx([math.exp(MAX_LOG_VARIANCE)])


def test_famo_by_hand():
    """z = (1/2, 1/2) at first, so weights are as 1 / L; then z moves from the loss that fell to the one that rose."""
    rule = build_weighting("famo", 2)
    assert weights(rule, 4.0, 1.0) == pytest.approx([2 * 0.2, 2 * 0.8])
    rule.after_step(numbers(4.0, 1.0), numbers(2.0, 1.1))
    powers = np.exp([-LEARNING_RATE, LEARNING_RATE])
    assert weights(rule, 3.0, 3.0) == pytest.approx(2 * powers / powers.sum())
    # a second step: gradients d = z (f - z f) + DECAY logits, where f is by how much log losses fell
    fallen, shares, logits = np.array([math.log(2), -math.log(1.1)]), np.array([0.5, 0.5]), np.zeros(2)
    first = shares * (fallen - shares @ fallen)
    logits, shares = np.array([-LEARNING_RATE, LEARNING_RATE]), powers / powers.sum()
    fallen = np.array([math.log(3 / 2.9), math.log(3 / 2.5)])
    second = shares * (fallen - shares @ fallen) + FAMO_DECAY * logits
    rule.after_step(numbers(3.0, 3.0), numbers(2.9, 2.5))
    mean, square = 0.1 * (0.9 * first + second) / (1 - 0.9**2), 0.001 * (0.999 * first**2 + second**2)
    logits = logits - LEARNING_RATE * mean / np.sqrt(square / (1 - 0.999**2))
    powers = np.exp(logits)
    assert weights(rule, 1.0, 1.0) == pytest.approx(2 * powers / powers.sum(), rel=1e-6)


def test_famo_of_a_loss_that_came_to_0_is_finite():
    rule = build_weighting("famo", 2)
    rule.after_step(numbers(1.0, 1.0), numbers(0.0, 1.0))
    assert np.isfinite(weights(rule, 0.0, 1.0)).all()


def test_famo_lowers_log_losses_alike_where_their_sum_lowers_the_steep_one_alone():
    """Two bowls, a hundred to one, whose floors lie apart."""

    def fallen(rule, steps=400):
        at, scales = np.array([1.0, 1.0]), np.array([1.0, 100.0])
        start = None
        for step in range(steps):
            losses = scales * at**2
            start = losses if step == steps // 2 else start
            at = at - 1e-3 * weights(rule, *losses) * 2 * scales * at
            rule.after_step(numbers(*losses), numbers(*scales * at**2))
        return np.log(start) - np.log(scales * at**2)

    slow, fast = fallen(build_weighting("fixed", 2))
    assert fast > 50 * slow
    one, other = fallen(build_weighting("famo", 2))
    assert one == pytest.approx(other, rel=0.1)
    assert one > 2 * slow / 100


def test_gradnorm_makes_gradients_equally_long_where_losses_fall_alike():
    rule = build_weighting("gradnorm", 3)
    for _ in range(500):
        found = weights(rule, 1.0, 5.0, 9.0, gramian=orthogonal(1, 100, 10))
    lengths = found * [1, 100, 10]
    assert lengths == pytest.approx(np.full(3, lengths.mean()), rel=2 * 3 * LEARNING_RATE)
    assert found.sum() == pytest.approx(3)
    assert (found > 0).all()


def test_gradnorm_gives_the_task_that_lags_a_longer_gradient():
    """Of losses at 1/2 and 1 of their start the second lags: 4/3 of the mean, and the mean length is 1."""
    rule = build_weighting("gradnorm", 2)
    weights(rule, 1.0, 1.0, gramian=orthogonal(1, 1))
    for _ in range(500):
        found = weights(rule, 0.5, 1.0, gramian=orthogonal(1, 1))
    assert found[1] == pytest.approx((4 / 3) ** GRADNORM_ALPHA, rel=2 * LEARNING_RATE)


@pytest.mark.parametrize("broken", [0.0, NAN, math.inf])
def test_gradnorm_learns_nothing_from_a_gramian_that_compares_no_two_tasks(broken):
    rule = build_weighting("gradnorm", 2)
    for _ in range(3):
        assert weights(rule, 1.0, 2.0, gramian=orthogonal(1, broken)).tolist() == [1, 1]


def test_a_rule_moves_in_small_steps():
    """No step of learning changes a weight by more than a few rates, so that no batch alone decides."""
    for name in ("uncertainty", "gradnorm"):
        found = take(build_weighting(name, 3), range(100))
        assert all((after / before).log().abs().max() < 5 * LEARNING_RATE for before, after in pairwise(found))
