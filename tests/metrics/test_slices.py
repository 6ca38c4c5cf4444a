"""Accuracy by a fact of the clips, by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.metrics.slices import MIN_SLICE_ROWS, accuracy_by_slice


def sliced(values, right=None, groups=None):
    values = np.array(values, dtype=float)
    found = accuracy_by_slice({"fact": values}, np.ones(len(values), bool) if right is None else right, groups)
    return [(part["low"], part["high"], part["rows"]) for each in found for part in each["parts"]]


def test_few_values_are_a_part_each():
    right = np.arange(24) % 8 < 6
    found = accuracy_by_slice({"rate": np.tile([25.0, 30.0], 12), "side": np.full(24, 240.0)}, right, None)
    (fact,) = found  # all sides are the same
    assert fact["fact"] == "rate"
    assert [(part["low"], part["high"], part["rows"]) for part in fact["parts"]] == [(25, 25, 12), (30, 30, 12)]
    for part, rest in zip(fact["parts"], (0, 1), strict=True):
        assert part["accuracy"] == right[rest::2].mean()
        assert part["accuracy_ci"][0] < part["accuracy"] < part["accuracy_ci"][1]


def test_many_values_are_thirds_of_the_rows():
    right = np.arange(30) >= 10
    found = accuracy_by_slice({"duration": np.arange(30.0)}, right, None)
    parts = found[0]["parts"]
    assert [(part["low"], part["high"], part["rows"]) for part in parts] == [(0, 9, 10), (10, 19, 10), (20, 29, 10)]
    assert [part["accuracy"] for part in parts] == [0, 1, 1]


def test_rows_of_which_a_fact_is_not_known_are_in_no_part():
    values = np.arange(40.0)
    values[::4] = np.nan
    parts = sliced(values)
    assert sum(rows for _, _, rows in parts) == 30
    assert (parts[0][0], parts[-1][1]) == (1, 39)
    assert sliced([np.nan] * 30) == []


@pytest.mark.parametrize("rows", [MIN_SLICE_ROWS - 1, MIN_SLICE_ROWS])
def test_nothing_is_said_of_few_rows(rows):
    assert bool(sliced(np.arange(rows))) is (rows >= MIN_SLICE_ROWS)
    known = np.append(np.arange(rows, dtype=float), [np.nan] * 20)
    assert bool(sliced(known)) is (rows >= MIN_SLICE_ROWS)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([*range(6), *[9] * 54], [(0, 5, 6), (9, 9, 54)]),  # most have the largest value
        ([*[1] * 54, *range(4, 10)], [(1, 1, 54), (4, 9, 6)]),  # or the smallest
        ([1, 2, *[5] * 56, 8, 9], [(1, 5, 58), (8, 9, 2)]),  # or one in the middle
    ],
)
def test_borders_that_are_equal_leave_two_parts(values, wanted):
    assert sliced(values) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=MIN_SLICE_ROWS, max_size=60))
def test_each_row_is_in_one_part_and_parts_do_not_overlap(values):
    values = np.array(values, dtype=float)
    parts = sliced(values)
    if len(np.unique(values)) == 1:
        assert parts == []
        return
    assert len(parts) >= 2
    assert sum(rows for _, _, rows in parts) == len(values)
    for (_, high, _), (low, _, _) in pairwise(parts):
        assert high < low
    for low, high, rows in parts:
        assert rows == ((values >= low) & (values <= high)).sum()


def test_an_interval_is_that_of_whole_groups():
    rng = np.random.default_rng(0)
    groups = np.arange(200) // 20
    right = rng.random(200) < np.repeat(rng.random(10), 20)
    widths = []
    for each in (None, groups):
        (found,) = accuracy_by_slice({"rate": np.tile([25.0, 30.0], 100)}, right, each)
        widths.append(np.diff(found["parts"][0]["accuracy_ci"])[0])
    assert widths[1] > widths[0]
