"""Weights of gradients that disagree: each method as its paper has it, worked by hand, and what it promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.train.loss.gradient_surgery import CAGRAD_C, GRADIENT_METHODS, gradient_weights

pytest.importorskip("torchjd")

OPPOSED = [[1.0, 0.0], [-1.0, 1.0]]  # at 135 degrees
CLASHING = [[1.0, 0.0], [-2.0, 0.0]]
LONG_AND_SHORT = [[1.0, 0.0], [0.0, 100.0]]
HALF = 1 / (1 + CAGRAD_C)


def weigh(name, gradients, *, losses=None, draw=0):
    gradients = torch.tensor(np.array(gradients), dtype=torch.float64)
    losses = torch.ones(len(gradients), dtype=torch.float64) if losses is None else torch.tensor(losses).double()
    return gradient_weights(name, losses, gradients @ gradients.T, draw=draw).numpy()


def any_gradients(*, tasks=(2, 5), longest=2.0):
    """Gradients (M, D) of lengths that differ by up to 10 to the power of twice `longest`; now and then two opposed."""

    def made(seed, opposed):
        random = np.random.default_rng(seed)
        size = random.integers(tasks[0], tasks[1] + 1), random.integers(1, 7)
        gradients = random.normal(size=size) * 10 ** random.uniform(-longest, longest, (size[0], 1))
        if opposed:
            gradients[1] = -gradients[0] * random.random()
        return gradients

    return st.builds(made, st.integers(0, 2**32), st.booleans())


@pytest.mark.parametrize(
    ("name", "gradients", "wanted"),
    [
        # the first without its part against the second: g1 + g2 / 2; the second without its part: g2 + g1
        ("pcgrad", OPPOSED, [2, 1.5]),
        ("pcgrad", LONG_AND_SHORT, [1, 1]),
        ("upgrad", OPPOSED, [2, 1.5]),  # of two tasks both are projected alike
        ("upgrad", LONG_AND_SHORT, [1, 1]),
        # the mean gradient is (-1/2, 0); the first task is worst off, so RADIUS / 2 of its direction is added
        ("cagrad", CLASHING, [2 * HALF * (1 / 2 + CAGRAD_C / 2), 2 * HALF / 2]),
        # made orthogonal and as long as the shortest
        ("aligned_mtl", LONG_AND_SHORT, [1, 0.01]),
        ("aligned_mtl", [[3.0, 0.0], [0.0, 3.0]], [1, 1]),
    ],
)
def test_by_hand(name, gradients, wanted):
    assert weigh(name, gradients) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_equal_gradients_are_summed(name, tasks):
    assert weigh(name, [[3.0, 4.0]] * tasks) == pytest.approx([1] * tasks, abs=1e-4)


@pytest.mark.parametrize("name", ["pcgrad", "upgrad"])
@given(gradients=any_gradients())
@settings(max_examples=50, deadline=None)
def test_gradients_that_agree_are_summed(name, gradients):
    assert weigh(name, np.abs(gradients)) == pytest.approx(np.ones(len(gradients)))


@given(gradients=any_gradients(tasks=(2, 2)))
@settings(max_examples=100, deadline=None)
def test_pcgrad_of_two_tasks_raises_neither_loss(gradients):
    assert_none_rises(gradients, weigh("pcgrad", gradients))


@given(gradients=any_gradients(tasks=(2, 7)))
@settings(max_examples=200, deadline=None)
def test_upgrad_raises_no_loss(gradients):
    assert_none_rises(gradients, weigh("upgrad", gradients))


def assert_none_rises(gradients, weights):
    along = gradients @ (weights @ gradients)
    lengths = np.linalg.norm(gradients, axis=1)
    assert (along >= -1e-6 * lengths * (weights * lengths).max()).all()


@given(gradients=any_gradients(tasks=(2, 7)))
@settings(max_examples=50, deadline=None)
def test_upgrad_is_each_gradient_plus_the_least_that_ends_its_conflicts(gradients):
    if len(gradients) > gradients.shape[1]:
        return  # weights are not unique
    from scipy.optimize import minimize

    wanted = 0
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    for gradient in gradients:  # the nearest direction that raises no loss, found without the dual
        size = np.linalg.norm(gradient)
        near = minimize(
            lambda at, to=gradient / size: ((at - to) ** 2).sum(),
            np.zeros(len(gradient)),
            constraints={"type": "ineq", "fun": lambda at: unit @ at},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        wanted = wanted + near.x * size
    longest = np.linalg.norm(gradients, axis=1).max()
    assert weigh("upgrad", gradients) @ gradients / longest == pytest.approx(wanted / longest, abs=1e-3)


@given(gradients=any_gradients(tasks=(2, 5), longest=1.0))
@settings(max_examples=50, deadline=None)
def test_cagrad_is_near_the_mean_and_no_direction_there_does_more_for_the_worst_task(gradients):
    mean = gradients.mean(0)
    found = weigh("cagrad", gradients) @ gradients * (1 + CAGRAD_C) / len(gradients)
    radius = CAGRAD_C * np.linalg.norm(mean)
    assert np.linalg.norm(found - mean) <= radius + 1e-9
    random = np.random.default_rng(0).normal(size=(2000, gradients.shape[1]))
    others = mean + radius * random / np.linalg.norm(random, axis=1, keepdims=True)
    best = (gradients @ others.T).min(0).max()
    longest = np.linalg.norm(gradients, axis=1).max()
    assert (gradients @ found).min() >= best - 1e-3 * longest * np.linalg.norm(mean)


def test_cagrad_with_no_radius_is_the_plain_sum(monkeypatch):
    monkeypatch.setattr("finetune.train.loss.gradient_surgery.CAGRAD_C", 0.0)
    assert weigh("cagrad", OPPOSED) == pytest.approx([1, 1])
    assert weigh("cagrad", CLASHING) == pytest.approx([1, 1])


def test_cagrad_spares_a_task_that_no_shared_step_can_help():
    """The first two clash head on, the third is across: the mean would raise the loss of the first."""
    gradients = np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    assert (gradients @ gradients.mean(0))[0] < -0.3
    found = weigh("cagrad", gradients) @ gradients
    assert gradients @ found == pytest.approx([0, 0, 3 * found[1]], abs=1e-3)
    assert found[1] > 0


@given(gradients=any_gradients(tasks=(2, 3), longest=0.3))
@settings(max_examples=50, deadline=None)
def test_aligned_mtl_sums_orthogonal_gradients_of_one_length(gradients):
    lengths = np.linalg.svd(gradients, compute_uv=False)
    if len(gradients) > gradients.shape[1] or lengths[-1] < 1e-2 * lengths[0]:
        return
    left, lengths, right = np.linalg.svd(gradients, full_matrices=False)
    wanted = (lengths[-1] * left @ right).sum(0)
    assert weigh("aligned_mtl", gradients) @ gradients == pytest.approx(wanted, abs=2e-3 * lengths[0])


def test_aligned_mtl_takes_the_noise_between_parallel_gradients_for_none():
    almost = [[1.0, 0.0], [1.0, 1e-5]]
    assert weigh("aligned_mtl", almost) == pytest.approx([1, 1], abs=1e-2)


def test_aligned_mtl_of_orthogonal_gradients_does_not_change_with_the_scale_of_the_longer():
    found = [weigh("aligned_mtl", [[1.0, 0.0], [0.0, scale]]) @ [[1.0, 0.0], [0.0, scale]] for scale in (1, 10, 1000)]
    assert found == [pytest.approx([1, 1], abs=1e-4)] * 3


@pytest.mark.parametrize("name", ["pcgrad", "upgrad"])
def test_the_gentle_loss_is_not_sacrificed_to_the_steep_one_as_in_their_sum(name):
    """Two bowls, one a hundred times as steep, from a point between their floors, in steps too short to overshoot."""
    scales, floors = np.array([[1.0], [100.0]]), np.array([[-1.0, 0.0], [1.0, 0.5]])

    def losses(at):
        return (scales * (at - floors) ** 2).sum(1) / 2

    def descended(weigh_them):
        at = np.array([-0.5, 1.0])
        for _ in range(300):
            gradients = scales * (at - floors)
            at = at - 1e-4 * weigh_them(gradients) @ gradients
        return losses(at)

    gentle, steep = losses(np.array([-0.5, 1.0]))
    assert descended(lambda gradients: np.ones(2))[0] > 2 * gentle
    after = descended(lambda gradients: weigh(name, gradients))
    assert after[0] < 1.01 * gentle
    assert after[1] < 0.5 * steep


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@given(gradients=any_gradients(), scale=st.sampled_from([1e-9, 1e-3, 1e6]))
@settings(max_examples=20, deadline=None)
def test_the_length_of_all_gradients_does_not_matter(name, gradients, scale):
    longest = np.linalg.norm(gradients, axis=1).max()
    found, scaled = (weigh(name, each) @ gradients / longest for each in (gradients, gradients * scale))
    assert found == pytest.approx(scaled, rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize("absent", ["loss", "gradient"])
def test_a_task_that_is_absent_changes_nothing_for_the_others(name, absent):
    losses = [1.0, torch.nan, 1.0] if absent == "loss" else [1.0, 1.0, 1.0]
    gradients = [OPPOSED[0], [0.0, 0.0] if absent == "gradient" else [5.0, -7.0], OPPOSED[1]]
    first, between, second = weigh(name, gradients, losses=losses)
    assert [first, second] == pytest.approx(weigh(name, OPPOSED).tolist())
    assert between == 1


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize(
    "gramian",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 0.0], [0.0, 0.0]],
        [[torch.nan, 0.0], [0.0, 1.0]],
        [[torch.inf, torch.inf], [torch.inf, torch.inf]],
        [[1.0, torch.nan], [torch.nan, 1.0]],
    ],
    ids=["zeros", "one", "nan", "inf", "nan between"],
)
def test_without_gradients_to_compare_all_weigh_1(name, gramian):
    found = gradient_weights(name, torch.ones(2).double(), torch.tensor(gramian).double(), draw=0)
    assert found.tolist() == [1, 1]


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@given(entries=st.lists(st.floats(-1, 1), min_size=16, max_size=16))
@settings(max_examples=50, deadline=None)
def test_a_gramian_that_rounding_spoiled_gives_finite_weights(name, entries):
    gramian = torch.tensor(entries, dtype=torch.float64).reshape(4, 4).tril()
    gramian = gramian + gramian.T
    gramian.diagonal().abs_()
    assert gradient_weights(name, torch.ones(4).double(), gramian, draw=0).isfinite().all()


def test_pcgrads_order_of_tasks_is_drawn_and_torchs_generator_is_left_alone():
    gradients = [[1.0, 0.0, 0.0], [-1.0, 0.4, 0.1], [-0.5, -1.0, 1.0], [-0.3, 0.2, -2.0]]
    before = torch.get_rng_state()
    found = [tuple(weigh("pcgrad", gradients, draw=draw)) for draw in (1, 1, 2, 3, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert len(set(found)) > 1
