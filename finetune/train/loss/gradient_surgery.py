"""Where tasks pull shared weights in different directions: weights of their gradients, from the Gramian of these.

Each method's result is the plain sum of the gradients where they are equal: what its paper writes as a mean is
multiplied by the number of tasks.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor

from finetune.video.augment import seeded

if TYPE_CHECKING:
    from torchjd.linalg import DualConeProjector

CAGRAD_C = 0.4  # CAGrad's c: how far from the mean gradient, as a share of its length; the paper's for NYU-v2
EPS = 1e-8  # beside the longest gradient's square, which is 1


def gradient_weights(name: str, losses_M: Tensor, gramian_MM: Tensor, *, draw: int) -> Tensor:
    """Weights (M,) of the tasks' gradients; `draw` seeds what is random, and torch's own generator stays as it was.

    A task whose loss is not finite, or whose gradient is zero, is not there for the others; its own weight is 1, and of
    no matter. All weigh 1 where a gradient of the others is not finite, or fewer than two are left.
    """
    weights_M = torch.ones_like(losses_M)
    known_M = losses_M.isfinite() & (gramian_MM.diagonal() != 0)
    gramian_KK = gramian_MM[known_M][:, known_M]
    if len(gramian_KK) < 2 or not gramian_KK.isfinite().all():
        return weights_M
    with seeded(draw):  # the longest gradient has length 1: TorchJD takes short ones for none
        weights_K = GRADIENT_METHODS[name](gramian_KK / gramian_KK.diagonal().max())
    if weights_K.isfinite().all():
        weights_M[known_M] = weights_K.to(weights_M)
    return weights_M


def pcgrad(gramian_KK: Tensor) -> Tensor:
    """The sum of the gradients, each without its parts against the others, taken in random order: arXiv:2001.06782."""
    from torchjd.aggregation import PCGradWeighting

    return PCGradWeighting()(gramian_KK)


def cagrad(gramian_KK: Tensor) -> Tensor:
    """Of the directions near the mean gradient, that which lowers most the loss it lowers least: arXiv:2110.14048.

    Near is within `CAGRAD_C` of the mean's length. Where tasks agree the direction is 1 + `CAGRAD_C` times the mean, so
    it is divided by that.
    """
    gramian = gramian_KK.numpy()
    tasks = len(gramian)
    radius = CAGRAD_C * np.sqrt(max(gramian.mean(), 0))
    shares = _cagrad_dual(gramian, radius)
    weights = 1 / tasks + radius / _combined_norm(gramian, shares) * shares
    return torch.from_numpy(weights * tasks / (1 + CAGRAD_C))


def _cagrad_dual(gramian: np.ndarray, radius: float) -> np.ndarray:
    """CAGrad's dual: shares of the tasks. As the authors, with SciPy: TorchJD would need cvxpy and all its solvers."""
    mean = gramian.mean(1)

    def gained(shares: np.ndarray) -> tuple[float, np.ndarray]:
        length = _combined_norm(gramian, shares)
        return shares @ mean + radius * length, mean + radius / length * (gramian @ shares)

    found = minimize(
        gained,
        np.full(len(gramian), 1 / len(gramian)),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(gramian),
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12},
    )
    return found.x


def _combined_norm(gramian: np.ndarray, shares: np.ndarray) -> float:
    """Of the gradients' sum, rounded off near 0: there, where shares of the tasks cancel, it would have no gradient."""
    return float(np.sqrt(max(shares @ gramian @ shares, 0) + EPS))


def aligned_mtl(gramian_KK: Tensor) -> Tensor:
    """The sum of gradients that were made orthogonal and as long as their shortest direction: Aligned-MTL, CVPR 2023.

    In single precision, as gradients were: TorchJD leaves out directions below the precision of its numbers, and the
    noise between two parallel gradients would else be their shortest direction.
    """
    from torchjd.aggregation import AlignedMTLWeighting

    return len(gramian_KK) * AlignedMTLWeighting()(gramian_KK.float())


def upgrad(gramian_KK: Tensor) -> Tensor:
    """The sum of the gradients, each projected to where no loss rises: arXiv:2406.16232."""
    from torchjd.aggregation import UPGradWeighting

    return len(gramian_KK) * UPGradWeighting(projector=cast("DualConeProjector", _project_to_dual_cone))(gramian_KK)


def _project_to_dual_cone(weights_KK: Tensor, gramian_KK: Tensor) -> Tensor:
    """For each row u, the v >= u with the shortest gradient: least squares in v - u, which is not negative.

    It is solved for gradients of length 1, so that a short one counts as much as a long one. TorchJD's own needs two
    more packages and adds 1e-4 to the Gramian, beside which a gradient of a hundredth of the longest is nothing.
    """
    lengths_K = gramian_KK.diagonal().sqrt()
    squares_K, axes_KK = torch.linalg.eigh(gramian_KK / lengths_K / lengths_K[:, None])
    root = ((squares_K.clamp_min(0) + EPS).sqrt() * axes_KK).T.numpy()
    rows = [row + nnls(root, -root @ row, maxiter=100 * len(root))[0] for row in (weights_KK * lengths_K).numpy()]
    return torch.from_numpy(np.stack(rows)) / lengths_K


GRADIENT_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "pcgrad": pcgrad,
    "cagrad": cagrad,
    "aligned_mtl": aligned_mtl,
    "upgrad": upgrad,
}
NEED_TORCHJD = GRADIENT_METHODS.keys() - {"cagrad"}
