"""Weights of several tasks: each rule as its paper has it, worked by hand, and what all of them keep."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from finetune.errors import RecipeError
from finetune.train.loss.task_weighting import (
    DWA_TEMPERATURE,
    FAMO_DECAY,
    GRADNORM_ALPHA,
    MAX_LOG_VARIANCE,
    RATE,
    WEIGHTINGS,
    AdamVector,
    build_weighting,
)

NAN = math.nan


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def weights(rule, *losses, gramian=None, draw=0):
    return rule.weights(numbers(*losses), gramian, draw=draw).numpy()


def gramian_of(*lengths):
    """Of gradients that are orthogonal."""
    return torch.diag(numbers(*lengths) ** 2)


@pytest.fixture(params=WEIGHTINGS)
def name(request):
    pytest.importorskip("torchjd")
    return request.param


def drawn_step(step, *, absent=None):
    """Losses, losses after, and a Gramian of a made-up step of three tasks, of which one may be absent."""
    random = np.random.default_rng(step)
    losses, gradients = random.uniform(0.1, 3, 3), random.normal(size=(3, 4)) * [[1], [10], [100]]
    if absent is not None:
        losses[absent], gradients[absent] = NAN, 0
    return numbers(*losses), numbers(*losses * random.uniform(0.8, 1.1, 3)), torch.tensor(gradients @ gradients.T)


def take(rule, steps, *, absent=None):
    """The weights of these steps; every fifth ends an epoch."""
    found = []
    for step in steps:
        losses, after, gramian = drawn_step(step, absent=absent)
        found.append(rule.weights(losses, gramian if rule.wants_gradients else None, draw=step))
        rule.after_step(losses, after if rule.wants_losses_after else None)
        if step % 5 == 4:
            rule.after_epoch(losses)
    return torch.stack(found)


def test_a_rule_taken_up_again_gives_the_same_weights_to_the_bit(name):
    whole = take(build_weighting(name, 3), range(30))
    first, second, file = build_weighting(name, 3), build_weighting(name, 3), io.BytesIO()
    take(first, range(17))
    torch.save(first.state(), file)
    take(first, range(17, 20))  # what was saved does not move with it
    file.seek(0)
    second.restore(torch.load(file, weights_only=True))
    assert torch.equal(take(second, range(17, 30)), whole[17:])


def test_what_is_restored_is_not_moved_by_the_rule_that_took_it_up(name):
    rule = build_weighting(name, 3)
    take(rule, range(12))
    kept = rule.state()
    copies = {key: value.clone() for key, value in kept.items()}
    rule.restore(kept)
    take(rule, range(12, 20))
    assert all(torch.equal(kept[key], copies[key]) for key in kept)


def test_a_step_is_a_function_of_its_draw_and_leaves_torchs_generator_alone(name):
    before = torch.get_rng_state()
    one, other = take(build_weighting(name, 3), range(12)), take(build_weighting(name, 3), range(12))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_tasks_between_which_there_is_no_difference_weigh_1(name):
    if name == "random":
        return  # in the mean, see below
    rule = build_weighting(name, 3)
    for _ in range(5):
        found = weights(rule, 1.0, 1.0, 1.0, gramian=torch.full((3, 3), 4.0, dtype=torch.float64))
        rule.after_step(numbers(1, 1, 1), numbers(1, 1, 1))
        rule.after_epoch(numbers(1, 1, 1))
        assert found == pytest.approx([1, 1, 1], abs=1e-4)


@pytest.mark.parametrize("absent", [0, 2])
def test_a_task_that_is_always_absent_leaves_the_weights_finite(name, absent):
    assert take(build_weighting(name, 3), range(20), absent=absent).isfinite().all()


def test_a_task_that_was_absent_for_a_while_finds_the_rule_as_if_it_had_not_been_asked(name):
    """Two steps with one task alone: rules that compare tasks learn nothing, and forget nothing."""
    if name == "uncertainty":
        return  # learns about each task by itself
    rule = build_weighting(name, 3)
    take(rule, range(12))
    before = rule.state()
    for step in (13, 14):
        losses = numbers(NAN, 0.5, NAN)
        gramian = gramian_of(0, 1, 0)
        rule.weights(losses, gramian, draw=step)
        rule.after_step(losses, losses * 1.0)
    after = rule.state()
    for key in before:
        columns = before[key][..., [0, 2]], after[key][..., [0, 2]]
        assert torch.equal(*columns)


def test_absent_tasks_are_not_counted_in_the_weights_of_the_others(name):
    """What three tasks weigh, of which one never comes, is what two weigh."""
    if name in {"random", "dwa"}:
        return  # their weights are of all tasks, whoever comes
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
        with pytest.raises(RecipeError, match=rf"{name} needs the package torchjd: pip install 'finetune\[mtl\]'"):
            build_weighting(name, 2)
    assert weights(build_weighting("cagrad", 2), 1.0, 1.0, gramian=gramian_of(1, 1)) == pytest.approx([1, 1], abs=1e-4)


def test_fixed_weighs_1():
    assert weights(build_weighting("fixed", 3), 5.0, NAN, 0.1).tolist() == [1, 1, 1]


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
    found, wanted = AdamVector(3), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([wanted], lr=RATE)
    for step in range(50):
        wanted.grad = torch.tensor(np.random.default_rng(step).normal(size=3) * [1, 10, 0.01])
        found.step(wanted.grad)
        adam.step()
        torch.testing.assert_close(found.values_M, wanted.detach())


def test_what_has_no_gradient_does_not_move():
    found, other = AdamVector(2), AdamVector(2)
    for step in range(6):
        found.step(numbers(1.0 + step, NAN if step % 2 else 3.0 - step))
        if step % 2 == 0:
            other.step(numbers(0.0, 3.0 - step))
    assert found.values_M[1] == other.values_M[1]


def test_uncertainty_by_hand():
    """The gradient of exp(-s) L + s at s = 0 is 1 - L: Adam's first step is of one length, against it."""
    rule = build_weighting("uncertainty", 3)
    assert weights(rule, 4.0, 0.25, 1.0).tolist() == [1, 1, 1]
    rule.after_step(numbers(4.0, 0.25, 1.0), None)
    assert weights(rule, 4.0, 0.25, 1.0) == pytest.approx(np.exp([-RATE, RATE, 0]))


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
    powers = np.exp([-RATE, RATE])
    assert weights(rule, 3.0, 3.0) == pytest.approx(2 * powers / powers.sum())
    # a second step: gradients d = z (f - z f) + DECAY logits, where f is by how much log losses fell
    fallen, shares, logits = np.array([math.log(2), -math.log(1.1)]), np.array([0.5, 0.5]), np.zeros(2)
    first = shares * (fallen - shares @ fallen)
    logits, shares = np.array([-RATE, RATE]), powers / powers.sum()
    fallen = np.array([math.log(3 / 2.9), math.log(3 / 2.5)])
    second = shares * (fallen - shares @ fallen) + FAMO_DECAY * logits
    rule.after_step(numbers(3.0, 3.0), numbers(2.9, 2.5))
    mean, square = 0.1 * (0.9 * first + second) / (1 - 0.9**2), 0.001 * (0.999 * first**2 + second**2)
    logits = logits - RATE * mean / np.sqrt(square / (1 - 0.999**2))
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


def test_gradnorm_by_hand():
    """Lengths 1 and 3; the first loss is at a half of its start, the second at 3/2, so the second should be longer."""
    rule = build_weighting("gradnorm", 2)
    assert weights(rule, 2.0, 2.0, gramian=gramian_of(1, 1)).tolist() == [1, 1]
    assert weights(rule, 1.0, 3.0, gramian=gramian_of(1, 3)).tolist() == [1, 1]
    # the mean length is 2; targets 2 * 0.5 ** 1.5 = 0.71 and 2 * 1.5 ** 1.5 = 3.67: the first is too long
    assert GRADNORM_ALPHA == 1.5
    powers = np.exp([-RATE * 1 / 2, RATE * 3 / 2])
    assert weights(rule, 1.0, 3.0, gramian=gramian_of(1, 3)) == pytest.approx(2 * powers / powers.sum())


def test_gradnorm_makes_gradients_equally_long_where_losses_fall_alike():
    rule = build_weighting("gradnorm", 3)
    for _ in range(500):
        found = weights(rule, 1.0, 5.0, 9.0, gramian=gramian_of(1, 100, 10))
    lengths = found * [1, 100, 10]
    assert lengths == pytest.approx(np.full(3, lengths.mean()), rel=2 * 3 * RATE)
    assert found.sum() == pytest.approx(3)
    assert (found > 0).all()


def test_gradnorm_gives_the_task_that_lags_a_longer_gradient():
    """Of losses at 1/2 and 1 of their start the second lags: 4/3 of the mean, and the mean length is 1."""
    rule = build_weighting("gradnorm", 2)
    weights(rule, 1.0, 1.0, gramian=gramian_of(1, 1))
    for _ in range(500):
        found = weights(rule, 0.5, 1.0, gramian=gramian_of(1, 1))
    assert found[1] == pytest.approx((4 / 3) ** GRADNORM_ALPHA, rel=2 * RATE)


@pytest.mark.parametrize("broken", [0.0, NAN, math.inf])
def test_gradnorm_learns_nothing_from_a_gramian_that_compares_no_two_tasks(broken):
    rule = build_weighting("gradnorm", 2)
    for _ in range(3):
        assert weights(rule, 1.0, 2.0, gramian=gramian_of(1, broken)).tolist() == [1, 1]


def test_a_rule_moves_in_small_steps():
    """No step of learning changes a weight by more than a few rates, so that no batch alone decides."""
    for name in ("uncertainty", "gradnorm"):
        found = take(build_weighting(name, 3), range(100))
        assert all((after / before).log().abs().max() < 5 * RATE for before, after in pairwise(found))
