"""The linear probe: the same solution as scikit-learn's, its strength and freedom between frames cross-validated."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from finetune.model import linear_fit
from finetune.model.linear_fit import DEFAULT_STRENGTH, fit_linear


def rows(count=60, width=5, classes=3, seed=0, noise=1.0):
    """Vectors (N, D) around a centre for each class, and class numbers (N,)."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    vectors = generator.normal(size=(classes, width))[labels] + noise * generator.normal(size=(count, width))
    return torch.from_numpy(vectors), labels


def fit(vectors, labels, **settings):
    targets = F.one_hot(torch.from_numpy(labels)).double()
    weights = torch.ones(len(labels), dtype=torch.float64)
    defaults = {"units": np.arange(len(labels)), "independent": False, "weights_N": weights}
    return fit_linear(vectors, targets, **defaults | settings)


def probs(fitted, vectors):
    return F.linear(vectors, fitted.weight_KD, fitted.bias_K).softmax(1)


@pytest.mark.parametrize("width", [5, 200])  # fewer and more dimensions than rows
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_solution_is_that_of_scikit_learn(monkeypatch, width, strength):
    monkeypatch.setattr(linear_fit, "STRENGTHS", (strength,))
    vectors, labels = rows(width=width)
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(vectors.numpy(), labels)
    fitted = fit(vectors, labels)
    assert fitted.strength == strength
    np.testing.assert_allclose(probs(fitted, vectors), expected.predict_proba(vectors.numpy()), atol=2e-3)


def test_independent_classes_are_fitted_one_by_one(monkeypatch):
    monkeypatch.setattr(linear_fit, "STRENGTHS", (0.1,))
    vectors, _ = rows()
    targets = (vectors[:, :2] + vectors[:, 2:4] > 0).double()
    fitted = fit_linear(
        vectors, targets, units=np.arange(60), independent=True, weights_N=torch.ones(60, dtype=torch.float64)
    )
    found = F.linear(vectors, fitted.weight_KD, fitted.bias_K).sigmoid()
    for column in range(2):
        expected = LogisticRegression(C=0.1, tol=1e-8).fit(vectors.numpy(), targets[:, column].numpy())
        np.testing.assert_allclose(found[:, column], expected.predict_proba(vectors.numpy())[:, 1], atol=2e-3)


def test_a_row_of_weight_two_is_as_two_rows(monkeypatch):
    monkeypatch.setattr(linear_fit, "STRENGTHS", (1.0,))
    vectors, labels = rows(40)
    twice = torch.tensor([2.0] * 10 + [1.0] * 30, dtype=torch.float64)
    doubled = torch.cat([vectors[:10], vectors]), np.concatenate([labels[:10], labels])
    # The mean of the loss is over rows, so the penalty counts differently: |W|² / (2 C N).
    monkeypatch.setattr(linear_fit, "STRENGTHS", (50 / 40,))
    weighted = fit(vectors, labels, weights_N=twice * 40 / 50)
    monkeypatch.setattr(linear_fit, "STRENGTHS", (1.0,))
    repeated = fit(*doubled, units=np.arange(50))
    torch.testing.assert_close(weighted.weight_KD, repeated.weight_KD, atol=5e-3, rtol=0)


def test_noise_is_regularised_more_than_signal():
    noisy = fit(*rows(60, 200, noise=6.0))
    clear = fit(*rows(300, 3, noise=0.7))
    assert noisy.strength < clear.strength
    assert noisy.held_out_error > clear.held_out_error


def test_frames_share_weights_where_their_order_tells_nothing():
    vectors, labels = rows(48, 6, noise=1.5)
    generator = torch.Generator().manual_seed(0)
    frames = vectors[:, None] + 4 * torch.randn(48, 8, 6, generator=generator, dtype=torch.float64)
    fitted = fit(frames.flatten(1), labels, frames=8)
    assert fitted.frame_freedom < 1
    assert fitted.weight_KD.unflatten(1, (8, 6)).std(1).max() < fitted.weight_KD.abs().max()


def test_frames_have_their_own_weights_where_order_is_all():
    labels = np.arange(40) % 2
    signs = torch.from_numpy(1.0 - 2.0 * labels)
    rising = torch.linspace(-1, 1, 8, dtype=torch.float64)
    noise = 0.3 * torch.randn(40, 8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = signs[:, None, None] * rising[None, :, None] + noise
    fitted = fit(frames.flatten(1), labels, frames=8)
    assert fitted.frame_freedom > 0
    assert fitted.held_out_error == 0


def test_folds_keep_units_whole():
    labels, units = np.arange(60) % 3, np.repeat(np.arange(20), 3)
    for train, held_out in linear_fit._folds(F.one_hot(torch.from_numpy(labels)), units):
        assert not set(units[train]) & set(units[held_out])


def test_without_enough_units_the_strength_is_the_default():
    vectors, labels = rows(12)
    fitted = fit(vectors, labels, units=np.arange(12) % 2)
    assert (fitted.strength, fitted.held_out_error) == (DEFAULT_STRENGTH, None)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_any_few_rows_are_fitted(count, classes):
    vectors, labels = rows(count, classes=classes)
    targets = F.one_hot(torch.from_numpy(labels), 3).double()
    for independent in (False, True):
        weights = torch.ones(count, dtype=torch.float64)
        fitted = fit_linear(vectors, targets, units=np.arange(count), independent=independent, weights_N=weights)
        assert fitted.weight_KD.shape == (3, 5)
        assert fitted.weight_KD.isfinite().all() and fitted.bias_K.isfinite().all()
