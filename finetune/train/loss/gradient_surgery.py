"""Weights of tasks whose gradients conflict at what they share, computed from the Gramian of the gradients.

A Gramian holds the inner products of M gradients, (M, M). The update direction is the weighted sum of the gradients.
All methods have one scale: equal gradients get weight 1 each, so where a paper writes a mean, it is multiplied by M.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from finetune.video.augment import seeded

if TYPE_CHECKING:
    from torchjd.linalg import DualConeProjector

CAGRAD_C = 0.4  # CAGrad's c, the radius around the mean gradient relative to its norm: the paper's value for NYU-v2
EPS = 1e-8  # relative to the largest squared norm, which is scaled to 1


def gradient_weights(name: str, losses_M: Tensor, gramian_MM: Tensor, *, draw: int) -> Tensor:
    """Weights (M,) of the tasks' gradients. `draw` seeds what is random; torch's global generator is left alone.

    Losses are (M,), the Gramian of the tasks' gradients is (M, M). Tasks whose loss is not finite or whose gradient is
    zero are ignored and get weight 1, which has no effect. All weights are 1 if fewer than two tasks remain, if one of
    their gradients is not finite, or if the method's eigenvalue decomposition does not converge.

    The methods take the Gramian (K, K) of the K remaining tasks and return weights (K,).
    """
    weights_M = torch.ones_like(losses_M)
    known_M = losses_M.isfinite() & ~(gramian_MM.diagonal().abs() < torch.finfo(torch.float64).tiny)
    gramian_KK = gramian_MM[known_M][:, known_M]
    if len(gramian_KK) < 2 or not gramian_KK.isfinite().all():
        return weights_M
    with seeded(draw):  # the largest norm is scaled to 1: TorchJD treats very short gradients as zero
        try:
            weights_K = GRADIENT_METHODS[name](gramian_KK / gramian_KK.diagonal().max())
        except torch.linalg.LinAlgError:
            return weights_M
    if weights_K.isfinite().all():
        weights_M[known_M] = weights_K.to(weights_M)
    return weights_M


def pcgrad(gramian_KK: Tensor) -> Tensor:
    """PCGrad: sum of the gradients, each projected off those it conflicts with, in random order (arXiv:2001.06782)."""
    from torchjd.aggregation import PCGradWeighting

    return PCGradWeighting()(gramian_KK)


def cagrad(gramian_KK: Tensor) -> Tensor:
    """CAGrad: the direction near the mean gradient that maximises the smallest decrease of a loss (arXiv:2110.14048).

    Near means within `CAGRAD_C` times the mean's norm. For equal gradients the direction is 1 + `CAGRAD_C` times the
    mean, so weights are divided by that.
    """
    gramian = gramian_KK.numpy()
    tasks = len(gramian)
    radius = CAGRAD_C * np.sqrt(max(gramian.mean(), 0))
    shares = _cagrad_dual(gramian, radius)
    weights = 1 / tasks + radius / _combined_norm(gramian, shares) * shares
    return torch.from_numpy(weights * tasks / (1 + CAGRAD_C))


def _cagrad_dual(gramian: np.ndarray, radius: float) -> np.ndarray:
    """The solution of CAGrad's dual problem, shares (M,) of the tasks that sum to 1.

    Solved with SciPy, as by the authors: TorchJD would need cvxpy and its solvers.
    """
    from scipy.optimize import minimize  # slow to import

    mean = gramian.mean(1)

    def dual_objective(shares: np.ndarray) -> tuple[float, np.ndarray]:
        length = _combined_norm(gramian, shares)
        return shares @ mean + radius * length, mean + radius / length * (gramian @ shares)

    solution = minimize(
        dual_objective,
        np.full(len(gramian), 1 / len(gramian)),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(gramian),
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12},
    )
    return solution.x


def _combined_norm(gramian: np.ndarray, shares: np.ndarray) -> float:
    """Norm of the weighted sum of gradients; EPS keeps it differentiable at 0, where the tasks cancel out."""
    return float(np.sqrt(max(shares @ gramian @ shares, 0) + EPS))


def aligned_mtl(gramian_KK: Tensor) -> Tensor:
    """Aligned-MTL: sum of gradients made orthogonal and scaled to the smallest singular value (arXiv:2305.19000).

    Computed in float32, the precision of the gradients: TorchJD drops singular values below the precision of the
    type, and in float64 the rounding noise between two parallel gradients would count as the smallest one.
    """
    from torchjd.aggregation import AlignedMTLWeighting

    return len(gramian_KK) * AlignedMTLWeighting()(gramian_KK.float())


def upgrad(gramian_KK: Tensor) -> Tensor:
    """UPGrad: sum of the gradients, each projected onto the directions that increase no loss (arXiv:2406.16232)."""
    from torchjd.aggregation import UPGradWeighting

    return len(gramian_KK) * UPGradWeighting(projector=cast("DualConeProjector", _project_to_dual_cone))(gramian_KK)


def _project_to_dual_cone(weights_KK: Tensor, gramian_KK: Tensor) -> Tensor:
    """For each row u (K,), the weights v >= u whose combined gradient is shortest: non-negative least squares in v - u.

    Solved for gradients of unit norm, so that short gradients count as much as long ones. TorchJD's own projection
    needs two more packages and adds 1e-4 to the Gramian, which drowns a gradient 100 times shorter than the longest.
    """
    from scipy.optimize import nnls

    norms_K = gramian_KK.diagonal().sqrt()
    eigenvalues_K, eigenvectors_KK = torch.linalg.eigh(gramian_KK / norms_K / norms_K[:, None])
    root = ((eigenvalues_K.clamp_min(0) + EPS).sqrt() * eigenvectors_KK).T.numpy()
    rows = [row + nnls(root, -root @ row, maxiter=100 * len(root))[0] for row in (weights_KK * norms_K).numpy()]
    return torch.from_numpy(np.stack(rows)) / norms_K


GRADIENT_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "pcgrad": pcgrad,
    "cagrad": cagrad,
    "aligned_mtl": aligned_mtl,
    "upgrad": upgrad,
}
NEED_TORCHJD = GRADIENT_METHODS.keys() - {"cagrad"}
