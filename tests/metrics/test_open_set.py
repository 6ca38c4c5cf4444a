"""Telling unknown classes by scores: against pytorch-ood and scikit-learn, by hand, and the coverage of intervals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax
from pytorch_ood.metrics.functional import fpr_at_tpr
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from finetune.metrics.open_set import (
    MAX_QUANTILES,
    SCORES,
    acceptance_threshold,
    accepted_interval,
    accepted_unknown,
    auroc,
    auroc_interval,
    known_scores,
    score_open_set,
    score_quantiles,
)

LOGITS = st.integers(1, 6).flatmap(
    lambda classes: arrays(np.float32, (7, classes), elements=st.floats(-30, 30, width=32))
)
FEW_VALUES = st.lists(st.integers(-3, 3), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=float))


@given(LOGITS)
def test_scores_are_the_outlier_scores_of_pytorch_ood_with_the_other_sign(logits):
    detectors = {"energy": EnergyBased, "max_logit": MaxLogit, "max_probability": MaxSoftmax}
    scores = known_scores(logits)
    for name, detector in detectors.items():
        expected = -detector.score(torch.from_numpy(logits).double())
        np.testing.assert_allclose(scores[name], expected.numpy(), rtol=1e-9, atol=1e-12)


def test_scores_of_views_are_means_over_the_views():
    logits_NVK = np.random.default_rng(0).normal(size=(5, 3, 4))
    by_view = [known_scores(logits_NVK[:, view]) for view in range(3)]
    for name, values in known_scores(logits_NVK).items():
        np.testing.assert_allclose(values, np.mean([scores[name] for scores in by_view], axis=0))


def test_logits_too_large_for_an_exponential_have_finite_scores():
    scores = known_scores(np.array([[2000.0, -2000.0], [-2000.0, -2000.0]]))
    assert all(np.isfinite(values).all() for values in scores.values())
    np.testing.assert_allclose(scores["max_probability"], [1, 0.5])


@given(FEW_VALUES, FEW_VALUES)
def test_auroc_is_that_of_scikit_learn_also_with_ties(known, unknown):
    truth = np.repeat([1, 0], [len(known), len(unknown)])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])))


@given(FEW_VALUES, FEW_VALUES, st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]))
def test_accepted_share_is_that_of_pytorch_ood_with_known_clips_as_the_positive_ones(known, unknown, share):
    """Its own default counts the share of known clips rejected where 95 % of the unknown are: roles are swapped."""
    labels = torch.from_numpy(np.repeat([-1, 1], [len(known), len(unknown)]))
    expected = fpr_at_tpr(torch.from_numpy(np.concatenate([known, unknown])), labels, share)
    assert accepted_unknown(known, unknown, share) == pytest.approx(float(expected))


@given(FEW_VALUES, st.floats(0.01, 1))
def test_the_threshold_is_the_largest_that_accepts_the_share(known, share):
    threshold = acceptance_threshold(known, share)
    assert (known >= threshold).mean() >= share - 1e-9
    assert (known > threshold).mean() < share


def test_equal_scores_are_accepted_together():
    assert accepted_unknown(np.ones(20), np.ones(3)) == 1
    assert accepted_unknown(np.arange(20.0), np.array([0.5, 1.0, 1.5])) == pytest.approx(2 / 3)  # the threshold is 1


def test_many_scores_are_kept_as_quantiles():
    scores = np.random.default_rng(0).permutation(50_000).astype(float)
    quantiles = score_quantiles(scores)
    assert len(quantiles) == MAX_QUANTILES
    assert quantiles == sorted(quantiles)
    for share in (0.5, 0.9, 0.99):
        threshold = acceptance_threshold(np.array(quantiles), share)
        assert (scores >= threshold).mean() == pytest.approx(share, abs=1e-3)
    assert score_quantiles(np.array([2.0, 1.0])) == [1.0, 2.0]


def test_scores_that_separate_perfectly_have_intervals_that_say_how_little_few_clips_show():
    known, unknown = np.arange(100, 140.0), np.arange(8.0)
    result = score_open_set(dict.fromkeys(SCORES, known), dict.fromkeys(SCORES, unknown), None)["energy"]
    assert (result["auroc"], result["accepted"]) == (1, 0)
    assert 0.7 < result["auroc_ci"][0] < 0.9
    assert result["auroc_ci"][1] == 1
    assert result["accepted_ci"][0] == 0
    assert 0.2 < result["accepted_ci"][1] < 0.5


def test_clips_of_one_group_show_less_than_as_many_groups():
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(1, 1, 60), rng.normal(0, 1, 30)
    apart = np.arange(60), np.arange(30)
    together = np.arange(60) % 6, np.arange(30) % 6
    for interval in (auroc_interval, accepted_interval):
        (low, high), (low_few, high_few) = interval(known, unknown, apart), interval(known, unknown, together)
        assert high_few - low_few > high - low


def test_intervals_cover_the_true_values_of_normal_scores():
    rng, distance, covered = np.random.default_rng(0), 1.2, np.zeros(2)
    true = norm.cdf(distance / np.sqrt(2)), 1 - norm.cdf(distance + norm.ppf(0.05))
    groups = np.arange(60) % 12, np.arange(24) % 12
    for _ in range(100):
        shift = rng.normal(0, np.sqrt(0.2), 12)  # clips of a group correlate by 0.2
        known = distance + shift[groups[0]] + rng.normal(0, np.sqrt(0.8), 60)
        unknown = shift[groups[1]] + rng.normal(0, np.sqrt(0.8), 24)
        ends = auroc_interval(known, unknown, groups), accepted_interval(known, unknown, groups)
        covered += [low <= value <= high for value, (low, high) in zip(true, ends, strict=True)]
    assert covered.min() >= 92
