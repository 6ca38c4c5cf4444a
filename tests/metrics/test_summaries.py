"""Coverage of events, and rank correlation with people."""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from finetune.metrics.summaries import (
    event_coverage,
    mean_correlation,
    people_correlation,
    rank_correlation,
    shown_shares,
    stretched,
)


def test_the_share_of_an_event_that_parts_show():
    events, parts = [(0, 2), (3, 5), (8, 9), (4, 4)], [(1, 3.5), (4.5, 6)]
    assert shown_shares(events, parts).tolist() == pytest.approx([0.5, 0.5, 0, 0])
    assert shown_shares([], parts).tolist() == []
    assert shown_shares(events, []).tolist() == [0, 0, 0, 0]


def test_events_count_as_covered_from_half_on():
    result = event_coverage([np.array([0.5, 0.49, 0]), np.empty(0), np.array([1.0])])
    assert (result["events"], result["recordings"], result["half"], result["any"]) == (4, 2, 0.5, 0.75)
    low, high = result["half_ci"]
    assert 0 <= low < 0.5 < high <= 1
    assert event_coverage([np.empty(0)])["half"] is None


def test_correlations_are_those_of_scipy_averaged_over_people():
    rng = np.random.default_rng(0)
    scores_N, people_PN = rng.random(50), rng.integers(1, 6, (4, 50))
    found = rank_correlation(scores_N, people_PN)
    assert found.kendall == pytest.approx(np.mean([kendalltau(scores_N, person).statistic for person in people_PN]))
    assert found.spearman == pytest.approx(np.mean([spearmanr(scores_N, person).statistic for person in people_PN]))


def test_people_are_compared_with_each_other():
    person = np.array([1, 2, 3, 4, 5])
    assert people_correlation(np.array([person, person])) == pytest.approx((1, 1))
    assert people_correlation(np.array([person, person[::-1]])) == pytest.approx((-1, -1))
    assert np.isnan(people_correlation(np.array([person]))).all()


def test_a_person_whose_scores_do_not_vary_is_left_out():
    scores_N = np.arange(5.0)
    assert rank_correlation(scores_N, np.array([[1, 1, 1, 1, 1], [1, 2, 3, 4, 5]])).kendall == pytest.approx(1)
    assert np.isnan(rank_correlation(scores_N, np.ones((2, 5)))).all()
    assert mean_correlation([rank_correlation(scores_N, np.ones((2, 5)))])["kendall"] is None


def test_scores_are_stretched_to_another_number_of_moments():
    assert stretched([1, 2, 3], 6).tolist() == [1, 1, 2, 2, 3, 3]
    assert stretched([1, 2, 3, 4], 2).tolist() == [2, 4]
    assert stretched([5], 3).tolist() == [5, 5, 5]
