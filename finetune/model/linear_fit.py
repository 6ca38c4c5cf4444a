"""Fit one linear layer to fixed vectors: regularised softmax or logistic regression, its strength cross-validated.

Axes in names: N rows, D dimensions, K outputs, R coordinates of the space that the rows span.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.runtime.threads import limit_threads

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn: the inverse of the regularisation
DEFAULT_STRENGTH = 0.1  # where the rows cannot be divided into folds
# How much weights may differ between frames: 1 as much as they like, 0 not at all, as if frames were averaged.
FRAME_FREEDOMS = (0.0, 0.1, 0.3, 1.0)
INNER_FOLDS = 3
MAX_ROWS_TO_CHOOSE = 2000  # on which strengths are compared
MAX_ITERATIONS = 100
SMALL_PROBLEM = 1e7  # multiplications of an iteration, below which one thread is fastest


class LinearFit(NamedTuple):
    """A linear layer, weight (K, D) and bias (K,), its regularisation, and its error on held-out rows.

    The error is the share of rows whose class is wrong, or the loss of independent classes; None where the rows could
    not be divided into folds.
    """

    weight_KD: Tensor
    bias_K: Tensor
    strength: float
    frame_freedom: float
    held_out_error: float | None


def fit_linear(
    vectors_ND: Tensor, targets_NK: Tensor, *, units: np.ndarray, independent: bool, frames: int = 1, weights_N: Tensor
) -> LinearFit:
    """The linear layer with the lowest regularised loss on standardised vectors (N, D), by L-BFGS.

    Targets (N, K) are class probabilities, or 0 and 1 of `independent` classes. The loss is the mean over rows with
    weights (N,), plus |W|² / (2 C N). C is chosen in folds of whole `units` (N,) by the held-out error; of
    equals the most regularised, whose logits are smallest. Where a vector is that of several `frames`, concatenated, so
    is how much weights may differ between frames: between a regression on the mean of frames and one on all in order.
    """
    frame_freedoms = FRAME_FREEDOMS if frames > 1 else (1.0,)
    loss = _binary_loss if independent else F.cross_entropy
    problem = _Problem(vectors_ND, targets_NK, weights_N, loss)
    small = len(vectors_ND) * min(vectors_ND.shape) * targets_NK.shape[1] < SMALL_PROBLEM
    with limit_threads(small=small):
        folds = _folds(targets_NK, units)
        errors = {
            (strength, freedom): error
            for freedom in frame_freedoms
            for strength, error in _held_out_errors(problem.with_freedom(freedom, frames), folds)
        }
        strength, freedom = min(errors, key=lambda setting: errors[setting]) if errors else (DEFAULT_STRENGTH, 1.0)
        shrunk = problem.with_freedom(freedom, frames)
        coordinates_NR, basis_DR = _coordinates(shrunk.vectors_ND)
        weight_KR, bias_K = _solve(shrunk.with_vectors(coordinates_NR), strength)
        weight_KD = weight_KR if basis_DR is None else weight_KR @ basis_DR.T
    # The fit is of shrunk vectors S x, and (W S) x = W (S x), as S is symmetric.
    weight_KD = _toward_frame_mean(weight_KD, freedom, frames)
    return LinearFit(weight_KD, bias_K, strength, freedom, errors.get((strength, freedom)))


class _Problem(NamedTuple):
    """Rows to fit: vectors (N, D), targets (N, K), weights of rows (N,), and the loss of each row of logits (N, K)."""

    vectors_ND: Tensor
    targets_NK: Tensor
    weights_N: Tensor
    loss: Callable[..., Tensor]

    def with_vectors(self, vectors_ND: Tensor) -> "_Problem":
        return self._replace(vectors_ND=vectors_ND)

    def with_freedom(self, freedom: float, frames: int) -> "_Problem":
        return self.with_vectors(_toward_frame_mean(self.vectors_ND, freedom, frames))

    def at(self, rows: np.ndarray) -> "_Problem":
        index = torch.from_numpy(rows)
        vectors, targets, weights, loss = self
        return _Problem(vectors[index], targets[index], weights[index], loss)


def _toward_frame_mean(vectors_ND: Tensor, freedom: float, frames: int) -> Tensor:
    """Each frame's part of concatenated vectors (N, D), moved towards the mean over frames: m + √freedom (x - m)."""
    if frames == 1 or freedom == 1:
        return vectors_ND
    parts_NTD = vectors_ND.unflatten(1, (frames, -1))
    mean_N1D = parts_NTD.mean(1, keepdim=True)
    return (mean_N1D + freedom**0.5 * (parts_NTD - mean_N1D)).flatten(1)


def _folds(targets_NK: Tensor, units: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out rows of each inner fold; none where units or classes are too few."""
    rows = np.arange(len(units))
    if len(rows) > MAX_ROWS_TO_CHOOSE:
        rows = np.random.default_rng(0).permutation(rows)[:MAX_ROWS_TO_CHOOSE]
    codes = np.unique(units[rows], return_inverse=True)[1]
    classes = targets_NK[torch.from_numpy(rows)].argmax(1).numpy()
    if len(np.unique(codes)) < INNER_FOLDS or np.bincount(classes).max() < INNER_FOLDS:
        return []
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    splitter = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        pairs = [(rows[train], rows[held_out]) for train, held_out in splitter.split(classes, classes, codes)]
    return [(train, held_out) for train, held_out in pairs if len(train) and len(held_out)]


def _held_out_errors(
    problem: _Problem, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[float, float]]:
    """Each strength with its error on the held-out rows of all folds, the most regularised first."""
    if not folds:
        return
    coordinates_NR, _ = _coordinates(problem.vectors_ND)
    problem = problem.with_vectors(coordinates_NR)
    starts: list[tuple[Tensor, Tensor] | None] = [None] * len(folds)
    for strength in STRENGTHS:
        total = 0.0
        for place, (train, held_out) in enumerate(folds):
            starts[place] = fitted = _solve(problem.at(train), strength, start=starts[place])
            total += _error(problem.at(held_out), *fitted) * len(held_out)
        yield strength, total / sum(len(held_out) for _, held_out in folds)


def _coordinates(vectors_ND: Tensor) -> tuple[Tensor, Tensor | None]:
    """Coordinates (N, R) of vectors in an orthonormal basis (D, R) of their span; themselves and None where D <= N.

    A regularised fit has no weights outside the span of its rows, so nothing is lost.
    """
    if vectors_ND.shape[1] <= len(vectors_ND):
        return vectors_ND, None
    values_N, vectors_NN = torch.linalg.eigh(vectors_ND @ vectors_ND.T)
    is_spanned = values_N > values_N[-1] * 1e-10
    basis_DR = vectors_ND.T @ (vectors_NN[:, is_spanned] / values_N[is_spanned].sqrt())
    return vectors_ND @ basis_DR, basis_DR


def _solve(problem: _Problem, strength: float, *, start: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Weight (K, R) and bias (K,) of the lowest regularised loss, found from a `start`, by default zeros."""
    vectors_NR, targets_NK = problem.vectors_ND, problem.targets_NK
    weight_KR, bias_K = start or (vectors_NR.new_zeros(targets_NK.shape[1], vectors_NR.shape[1]), None)
    bias_K = vectors_NR.new_zeros(targets_NK.shape[1]) if bias_K is None else bias_K
    weight_KR, bias_K = weight_KR.clone().requires_grad_(), bias_K.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight_KR, bias_K], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = weight_KR.square().sum() / (2 * strength * len(vectors_NR))
        loss = _weighted_loss(problem, weight_KR, bias_K) + penalty
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight_KR.detach(), bias_K.detach()


def _weighted_loss(problem: _Problem, weight_KR: Tensor, bias_K: Tensor) -> Tensor:
    """The weighted mean loss over rows, 0-dim."""
    losses_N = problem.loss(F.linear(problem.vectors_ND, weight_KR, bias_K), problem.targets_NK, reduction="none")
    return (losses_N * problem.weights_N).mean()


def _error(problem: _Problem, weight_KR: Tensor, bias_K: Tensor) -> float:
    """The weighted share of rows whose class is wrong, or the loss of independent classes."""
    if problem.loss is _binary_loss:
        return float(_weighted_loss(problem, weight_KR, bias_K))
    predicted_N = F.linear(problem.vectors_ND, weight_KR, bias_K).argmax(1)
    is_wrong_N = predicted_N != problem.targets_NK.argmax(1)
    return float((is_wrong_N * problem.weights_N).mean())


def _binary_loss(logits_NK: Tensor, targets_NK: Tensor, *, reduction: str) -> Tensor:
    """Binary cross entropy of each row (N,), summed over its K classes."""
    return F.binary_cross_entropy_with_logits(logits_NK, targets_NK, reduction=reduction).sum(1)
