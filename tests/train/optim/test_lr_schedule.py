from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.train.optim.lr_schedule import DECAY_SHAPES, lr_factor

SHAPES = [*DECAY_SHAPES, "step"]


def rates(schedule, steps=100, warmup=0.0):
    return [lr_factor(step, steps, schedule=schedule, warmup=warmup) for step in range(steps)]


def test_the_rate_rises_and_then_falls_along_a_cosine():
    found = rates("cosine", 10, 0.2)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert all(later < sooner for sooner, later in pairwise(found[2:]))
    assert 0 < found[-1] < 0.1
    assert rates("constant", 4) == [1, 1, 1, 1]


def test_the_steps_are_where_tsn_has_them():
    found = rates("step")
    assert (found[39], found[40], found[79], found[80]) == pytest.approx((1, 0.1, 0.1, 0.01))


def test_the_slanted_triangle_is_that_of_its_paper():
    found = rates("slanted_triangular", 1000, 0.1)
    assert found[0] == pytest.approx(1 / 32, abs=0.02)
    assert found[100] == 1.0
    assert found[550] == pytest.approx((1 + 1 / 32) / 2)
    assert found[-1] == pytest.approx(1 / 32, abs=0.01)


def test_one_cycle_begins_at_a_25th_and_ends_near_zero():
    found = rates("one_cycle", 1000, 0.3)
    assert found[0] == pytest.approx(1 / 25, abs=0.01)
    assert max(found) == found[300] == 1.0
    assert found[-1] < 1e-3


@given(st.sampled_from(SHAPES), st.integers(1, 500), st.floats(0, 0.99))
def test_every_rate_is_above_zero_and_at_most_the_peak(schedule, steps, warmup):
    found = rates(schedule, steps, warmup)
    assert all(0 < rate <= 1 for rate in found)
    top = found.index(max(found))
    assert all(later <= sooner + 1e-12 for sooner, later in pairwise(found[top:]))
    assert schedule == "step" or all(later >= sooner for sooner, later in pairwise(found[: top + 1]))
