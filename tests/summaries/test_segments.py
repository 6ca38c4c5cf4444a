"""Segments by kernel change points, compared with all divisions and with another library."""

from itertools import combinations, islice, pairwise

import numpy as np
import pytest
from recorded import features_of

from finetune.summaries.segments import divisions, scatter, segment_borders, trace_back


def cost_of(features_ND, borders):
    return sum(((part - part.mean(0)) ** 2).sum() for part in (features_ND[a:b] for a, b in pairwise(borders)))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("shortest", [1, 2])
def test_divisions_cost_the_least_of_all(seed, shortest):
    rng = np.random.default_rng(seed)
    features_ND = rng.normal(size=(9, 3))
    befores = []
    for segments, (cost, before_M) in enumerate(islice(divisions(scatter(features_ND), shortest), 3), 1):
        befores.append(before_M)
        every = [
            (0, *changes, 9)
            for changes in combinations(range(1, 9), segments - 1)
            if min(np.diff((0, *changes, 9))) >= shortest
        ]
        assert cost == pytest.approx(min(cost_of(features_ND, borders) for borders in every))
        assert cost_of(features_ND, [0, *trace_back(befores), 9]) == pytest.approx(cost)


@pytest.mark.parametrize("seed", range(5))
def test_change_points_are_those_of_ruptures(seed):
    ruptures = pytest.importorskip("ruptures")
    rng = np.random.default_rng(seed)
    changes = int(rng.integers(1, 6))
    features_ND = np.concatenate([rng.normal(rng.normal(0, 2, 8), 1, (6, 8)) for _ in range(changes + 2)])
    befores = [before_M for _, before_M in islice(divisions(scatter(features_ND), 1), changes + 1)]
    kernel = ruptures.KernelCPD(kernel="linear", min_size=1).fit(features_ND).predict(n_bkps=changes)
    least_squares = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(features_ND).predict(n_bkps=changes)
    assert [*trace_back(befores), len(features_ND)] == kernel == least_squares


def test_segments_begin_where_the_recording_changes_and_at_shots():
    looks = [0] * 7 + [1] * 5 + [0] * 8
    assert segment_borders(features_of(looks), (), shortest=2) == [0, 7, 12, 20]
    assert segment_borders(features_of(looks), (4, 12), shortest=2) == [0, 4, 7, 12, 20]


@pytest.mark.parametrize("number", [1, 2, 3, 50])
def test_a_still_recording_is_one_segment(number):
    still = features_of([0] * number, noise=0)
    assert segment_borders(still, (), shortest=2) == [0, number]
    assert segment_borders(np.zeros_like(still), (), shortest=2) == [0, number]


def test_noise_alone_is_one_segment():
    assert segment_borders(features_of([0] * 80, noise=1), (), shortest=4) == [0, 80]


def test_a_long_shot_is_divided_in_blocks(monkeypatch):
    monkeypatch.setattr("finetune.summaries.segments.BLOCK", 30)
    looks = [0] * 40 + [1] * 30 + [2] * 10
    borders = segment_borders(features_of(looks), (), shortest=2)
    assert {0, 40, 70, 80} <= set(borders)
    assert max(np.diff(borders)) <= 30


def test_borders_rise_whatever_the_features():
    rng = np.random.default_rng(0)
    for _ in range(30):
        number = int(rng.integers(1, 40))
        shots = tuple(sorted(set(rng.integers(0, number + 1, 3).tolist()) - {0, number}))
        borders = segment_borders(features_of(rng.integers(0, 4, number).tolist(), seed=1), shots, shortest=2)
        assert borders[0] == 0
        assert borders[-1] == number
        assert (np.diff(borders) > 0).all()
        assert set(shots) <= set(borders)
