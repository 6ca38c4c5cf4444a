"""Facility location: the greedy choice, compared with all choices."""

from itertools import combinations

import numpy as np
import pytest
from recorded import features_of

from finetune.summaries.choose import Pieces, build_pieces, choose_pieces, divide, rank_pieces


def random_pieces(rng, number):
    similarity_CC = rng.random((number, number)).astype(np.float32)
    similarity_CC = (similarity_CC + similarity_CC.T) / 2
    np.fill_diagonal(similarity_CC, 1)
    return Pieces(
        list(range(number + 1)),
        similarity_CC,
        rng.random(number).astype(np.float32),
        rng.random(number).astype(np.float32),
    )


def value_of(pieces, chosen):
    shown = [pieces.shown_by(piece) for piece in chosen]
    return float(pieces.weights_C @ np.max(shown, axis=0)) if chosen else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_keeps_the_budget_and_is_nearly_the_best(seed):
    rng = np.random.default_rng(seed)
    pieces, costs_C, budget = random_pieces(rng, 8), rng.uniform(0.5, 3, 8), 4.0
    chosen = choose_pieces(pieces, costs_C, budget)
    every = [few for size in range(9) for few in combinations(range(8), size) if costs_C[list(few)].sum() <= budget]
    assert len(set(chosen)) == len(chosen)
    assert costs_C[chosen].sum() <= budget
    assert value_of(pieces, chosen) >= 0.8 * max(value_of(pieces, few) for few in every)
    left = budget - costs_C[chosen].sum()
    assert all(costs_C[piece] > left for piece in set(range(8)) - set(chosen))


def test_lazy_greedy_takes_what_adds_most_in_each_step():
    rng = np.random.default_rng(3)
    pieces, costs_C = random_pieces(rng, 12), rng.uniform(0.5, 2, 12)
    chosen = []
    for piece in rank_pieces(pieces, costs_C):
        before = value_of(pieces, chosen)
        rest = set(range(12)) - set(chosen)
        gains = {other: (value_of(pieces, [*chosen, other]) - before) / costs_C[other] for other in rest}
        assert gains[piece] == pytest.approx(max(gains.values()), abs=1e-6)
        chosen.append(piece)
    assert sorted(chosen) == list(range(12))


def test_pieces_that_look_alike_are_shown_once():
    looks = [0] * 4 + [1] * 4 + [0] * 4 + [2] * 4 + [1] * 4
    pieces = build_pieces(features_of(looks), [0, 4, 8, 12, 16, 20])
    chosen = choose_pieces(pieces, np.full(5, 2.0), 6.0)
    assert {looks[4 * piece] for piece in chosen} == {0, 1, 2}


def test_what_is_already_shown_is_not_chosen_again():
    looks = [0] * 4 + [1] * 4 + [0] * 4
    pieces = build_pieces(features_of(looks), [0, 4, 8, 12])
    shown = pieces.similarity_CC[0]
    assert choose_pieces(pieces, np.full(3, 2.0), 2.0, shown=shown) == [1]
    assert choose_pieces(pieces, np.array([2.0, np.inf, 2.0]), 4.0, shown=shown) == [0, 2]


def test_long_segments_are_divided_evenly():
    assert divide([0, 3, 13], 4) == [0, 3, 6, 10, 13]
    assert divide([0, 1], 4) == [0, 1]
    assert divide([0, 6, 14], 4, shortest=4) == [0, 6, 10, 14]
    assert divide([0, 5], 1) == [0, 1, 2, 3, 4, 5]


def test_of_pieces_that_look_alike_the_most_active_is_chosen():
    features_ND = features_of([0] * 12, noise=0)
    features_ND[4:8:2] += 0.1
    assert choose_pieces(build_pieces(features_ND, [0, 4, 8, 12]), np.full(3, 2.0), 2.0) == [1]


def test_a_cut_is_no_activity():
    pieces = build_pieces(features_of([0] * 4 + [1] * 4 + [2] * 4, noise=0.01), [0, 4, 8, 12], (4, 8))
    assert pieces.activity_C.min() > 0.2
    assert build_pieces(features_of([0] * 4, noise=0), [0, 1, 4], (1,)).activity_C.tolist() == [1, 1]
