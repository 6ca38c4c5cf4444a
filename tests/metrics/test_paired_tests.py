"""Whether one classifier is better than another: against worked cases, SciPy, and models that are equally good."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from finetune.metrics.paired_tests import format_points, format_verdict, holm, mcnemar, paired_test


def rows(*, both=0, first=0, other=0, neither=0):
    """Whether the first and the other were right, on so many rows of each kind."""
    counts = (both, first, other, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_a_case_worked_by_hand():
    found = paired_test(*rows(both=80, first=2, other=10, neither=8), groups=None)
    assert (found.num_rows, found.num_units, found.only_first, found.only_other) == (100, 100, 2, 10)
    assert found.difference == pytest.approx(0.08)
    assert found.mcnemar_p == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # 12 coins: 0, 1 or 2 heads, or as few tails
    assert found.verdict == "other"
    assert format_verdict(found, first="A", other="B", unit="clip") == "B is better by 8.0 points"


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_twice_the_tail_of_a_fair_coin(only_first, only_other):
    tail = binom.cdf(min(only_first, only_other), only_first + only_other, 0.5)
    assert mcnemar(only_first, only_other) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(only_first, only_other) == mcnemar(only_other, only_first)


def test_identical_answers_differ_by_nothing():
    right = np.arange(60) % 7 > 0
    found = paired_test(right, right, groups=np.repeat(np.arange(10), 6))
    assert (found.difference, found.mcnemar_p, found.verdict) == (0.0, 1.0, "none")
    assert found.interval == pytest.approx((-0.1, 0.1), abs=0.01)  # 3 of 30 clips that are as good as independent
    assert format_verdict(found, first="A", other="B", unit="group") == "no evidence of a difference"


def test_the_two_change_places_with_the_sign():
    first, other = rows(both=60, first=14, other=2, neither=4)
    one, turned = paired_test(first, other, groups=None), paired_test(other, first, groups=None)
    assert (one.verdict, turned.verdict) == ("first", "other")
    assert one.difference == -turned.difference == -0.15
    assert one.interval == pytest.approx((-turned.interval[1], -turned.interval[0]))
    assert format_verdict(one, first="A", other="B", unit="clip") == "A is better by 15.0 points"


def test_a_gain_in_one_group_alone_is_no_evidence_whatever_mcnemar_says():
    first, other = rows(both=90, other=12, neither=18)
    groups = np.repeat(np.arange(10), 12)
    groups[(other & ~first).nonzero()] = 10
    found = paired_test(first, other, groups=groups)
    assert found.mcnemar_p < 0.001
    assert found.verdict == "none"
    assert found.disagrees(found.mcnemar_p)
    assert paired_test(first, other, groups=None).verdict == "other"


@pytest.mark.parametrize(("units", "verdict"), [(1, "1 group is"), (2, "2 groups are"), (5, "5 groups are")])
def test_with_few_groups_nothing_is_settled_however_large_the_difference(units, verdict):
    first, other = np.zeros(60, bool), np.ones(60, bool)
    found = paired_test(first, other, groups=np.arange(60) % units)
    assert found.verdict == "unsettled"
    assert not found.disagrees(found.mcnemar_p)
    assert format_verdict(found, first="A", other="B", unit="group") == f"no verdict: {verdict} too few"
    assert paired_test(first, other, groups=np.arange(60) % 6).verdict == "other"


def test_of_equally_good_models_one_is_called_better_5_times_of_100_at_most():
    rng, called = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(15), 8)
    for _ in range(300):
        both, lean = rng.random(120) < 0.85, rng.normal(0.5, 0.2, 15)[groups]  # a group leans to one of them
        differ, to_other = rng.random(120) < 0.1, rng.random(120) < lean
        first, other = np.where(differ, ~to_other, both), np.where(differ, to_other, both)
        called += paired_test(first, other, groups=groups).verdict != "none"
    assert 0 < called / 300 <= 0.07


def test_holm_on_his_kind_of_case():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values):
    adjusted = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[index] for index in order] == sorted(adjusted)


def test_points_have_a_sign_where_asked_for_and_nothing_is_never_negative():
    assert format_points(0.01) == "1.0 point"
    assert format_points(-0.0254, signed=True) == "\u22122.5 points"
    assert format_points(0.2, signed=True) == "+20.0 points"
    assert format_points(-0.0001, signed=True) == "0.0 points"
