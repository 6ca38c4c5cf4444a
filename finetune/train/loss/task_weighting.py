"""Weights of several tasks in a training step, computed from the tasks' losses or from their gradients.

All rules have one interface, `TaskWeighting`, and one scale: M tasks that a rule cannot tell apart get weight 1 each,
as with `fixed`, so that a learning rate means the same with every rule. Weights of `dwa`, `famo`, `gradnorm` and
`random` always sum to M; `uncertainty` may weight all tasks more as their losses fall, which is its purpose.

A loss of NaN or infinity marks a task that no row of the batch has a label for. No rule learns from it, and the other
tasks are weighted as if it did not exist; its own weight is finite and has no effect.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from finetune.errors import RecipeError
from finetune.train.loss.gradient_surgery import GRADIENT_METHODS, NEED_TORCHJD, gradient_weights

LEARNING_RATE = 0.025  # of the state that rules learn, per step: as in GradNorm's paper and FAMO's code
MAX_LOG_VARIANCE = 6.0  # bounds the absolute value of log variances: weights of `uncertainty` stay within 1/403 and 403
DWA_TEMPERATURE = 2.0  # higher values give more even weights
FAMO_DECAY = 1e-3  # weight decay of FAMO's logits, towards even weights
GRADNORM_ALPHA = 1.5  # how strongly GradNorm favours tasks that learn slowly; 0 asks for equal gradient norms
EPS = 1e-8  # lower bound of losses in divisions and logarithms


class TaskWeighting:
    """The interface of all rules, and itself the rule `fixed`, whose weights are always 1.

    Losses (M,), Gramians (M, M) of the tasks' gradients and weights (M,) are detached, float64, on the CPU, and summed
    over all processes, so that all processes compute the same weights. `memory` is all that a rule keeps between
    steps.
    """

    wants_gradients = False  # whether `weights` needs the Gramian
    wants_losses_after = False  # whether `after_step` needs the losses of the same clips after the update
    weighs_gradients = False  # whether weights apply only to the gradients at shared activations, heads having weight 1

    def __init__(self, tasks: int) -> None:
        self.memory: dict[str, Tensor] = {}

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        """Weights (M,) of this step; called once per step. `draw` seeds what is random."""
        return torch.ones_like(losses_M)

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        """Learn from the losses (M,) before and after a step."""

    def after_epoch(self, losses_M: Tensor) -> None:
        """Learn from the mean losses (M,) of an epoch."""

    def state(self) -> dict[str, Tensor]:
        """A copy of the memory, for a checkpoint."""
        return {name: value.clone() for name, value in self.memory.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a copy that `state` returned."""
        self.memory = {name: value.clone() for name, value in state.items()}


def build_weighting(name: str, tasks: int) -> TaskWeighting:
    """A rule by its name. Raises RecipeError where it needs a package that is not installed."""
    if name in NEED_TORCHJD and find_spec("torchjd") is None:
        others = ", ".join(rule for rule in WEIGHTINGS if rule not in NEED_TORCHJD)
        raise RecipeError(
            f"multitask.weighting: {name} needs the package torchjd: pip install 'finetune-video[mtl]'; "
            f"without it: {others}"
        )
    return WEIGHTINGS[name](tasks)


class RandomWeighting(TaskWeighting):
    """Softmax of normal draws, new in each step: the baseline for what a rule gains by chance (arXiv:2111.10603)."""

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        generator = torch.Generator().manual_seed(draw)
        return len(losses_M) * torch.randn(len(losses_M), dtype=torch.float64, generator=generator).softmax(0)


class Uncertainty(TaskWeighting):
    """exp(-s) with a learned log variance s per task, which minimises the sum of exp(-s) L + s (arXiv:1705.07115).

    The minimum is at s = log L, where each weighted loss is 1. This is the paper's form for regression, times two so
    that weights start at 1. The form for classification has twice the weight for the same s; here losses have been
    divided by a reference value before, so one form serves all tasks, and the recipe's weights set their balance.
    """

    def __init__(self, tasks: int) -> None:
        self.memory = {"adam": adam_start(tasks)}

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        return (-self.memory["adam"][0]).exp()

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        adam_4M = self.memory["adam"]
        adam_4M = adam_step(adam_4M, 1 - (-adam_4M[0]).exp() * losses_M)
        adam_4M[0].clamp_(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        self.memory["adam"] = adam_4M


class DynamicWeightAverage(TaskWeighting):
    """Softmax of each loss's ratio from one epoch to the next, so that slow tasks count more (DWA, arXiv:1803.10704).

    Weights are 1 in the first two epochs. A task that had no row in an epoch keeps its last two losses.
    """

    def __init__(self, tasks: int) -> None:
        self.memory = {name: torch.full((tasks,), torch.nan, dtype=torch.float64) for name in ("last", "before")}

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        ratios_M = self.memory["last"].clamp_min(EPS) / self.memory["before"].clamp_min(EPS)
        return len(ratios_M) * (ratios_M.nan_to_num(1.0) / DWA_TEMPERATURE).softmax(0)

    def after_epoch(self, losses_M: Tensor) -> None:
        known_M, last_M = losses_M.isfinite(), self.memory["last"]
        self.memory["before"] = torch.where(known_M, last_M, self.memory["before"])
        self.memory["last"] = torch.where(known_M, losses_M, last_M)


class Famo(TaskWeighting):
    """Weights proportional to z / L, where the softmax z grows for tasks whose log loss fell least (arXiv:2306.03792).

    Logits of z learn with Adam, as in the authors' code. The lower bound of each loss is taken to be 0.
    """

    wants_losses_after = True

    def __init__(self, tasks: int) -> None:
        self.memory = {"adam": adam_start(tasks)}

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        known_M = losses_M.isfinite()
        weights_M = torch.ones_like(losses_M)
        shares_K = self.memory["adam"][0][known_M].softmax(0) / _positive(losses_M[known_M])
        weights_M[known_M] = len(shares_K) * shares_K / shares_K.sum()
        return weights_M

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        assert losses_after_M is not None
        known_M = losses_M.isfinite() & losses_after_M.isfinite()
        logits_K = self.memory["adam"][0][known_M]
        shares_K = logits_K.softmax(0)
        decrease_K = _positive(losses_M[known_M]).log() - _positive(losses_after_M[known_M]).log()
        gradient_M = torch.full_like(losses_M, torch.nan)
        gradient_M[known_M] = shares_K * (decrease_K - (shares_K * decrease_K).sum()) + FAMO_DECAY * logits_K
        self.memory["adam"] = adam_step(self.memory["adam"], gradient_M)


class GradNorm(TaskWeighting):
    """Learned weights that make gradient norms equal, but larger for tasks whose loss lags behind (arXiv:1711.02257).

    A step lowers the paper's sum of |norm - target|, as a function of the log weights, divided by the mean norm. So
    weights stay positive, and the step size does not depend on the scale of gradients. The weights' sum stays M.
    """

    wants_gradients = True

    def __init__(self, tasks: int) -> None:
        self.memory = {
            "weights": torch.ones(tasks, dtype=torch.float64),
            "first": torch.full((tasks,), torch.nan, dtype=torch.float64),
        }

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        assert gramian_MM is not None
        weights_M = self.memory["weights"].clone()
        self._learn(losses_M, gramian_MM.diagonal().sqrt())
        return weights_M

    def _learn(self, losses_M: Tensor, norms_M: Tensor) -> None:
        first_M = self.memory["first"]
        first_M = torch.where(first_M.isnan() & losses_M.isfinite(), losses_M, first_M)
        self.memory["first"] = first_M
        known_M = losses_M.isfinite() & norms_M.isfinite() & (norms_M > 0)
        if known_M.sum() < 2:
            return
        weights_K = self.memory["weights"][known_M]
        weighted_K = weights_K * norms_M[known_M]
        progress_K = _positive(losses_M[known_M]) / _positive(first_M[known_M])
        target_K = weighted_K.mean() * (progress_K / progress_K.mean()) ** GRADNORM_ALPHA
        step_K = -LEARNING_RATE * (weighted_K - target_K).sign() * weighted_K / weighted_K.mean()
        moved_K = weights_K * step_K.exp()
        self.memory["weights"][known_M] = moved_K * weights_K.sum() / moved_K.sum()


class GradientSurgery(TaskWeighting):
    """Weights of the tasks' gradients by one of the methods in gradient_surgery.py."""

    wants_gradients = weighs_gradients = True

    def __init__(self, tasks: int, *, method: str) -> None:
        super().__init__(tasks)
        self.method = method

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        assert gramian_MM is not None
        return gradient_weights(self.method, losses_M, gramian_MM, draw=draw)


WEIGHTINGS: dict[str, Callable[[int], TaskWeighting]] = {
    "fixed": TaskWeighting,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "random": RandomWeighting,
    "famo": Famo,
    "gradnorm": GradNorm,
    **{name: partial(GradientSurgery, method=name) for name in GRADIENT_METHODS},
}


def adam_start(tasks: int) -> Tensor:
    """Adam's state (4, M) of one number per task: values, first moments, second moments, steps.

    torch.optim.Adam cannot skip single entries of a tensor, and its state is not plain tensors.
    """
    return torch.zeros(4, tasks, dtype=torch.float64)


def adam_step(adam_4M: Tensor, gradient_M: Tensor) -> Tensor:
    """Adam's state (4, M) after one step down the gradient (M,); unchanged where a task's gradient is not finite."""
    values_M, means_M, squares_M, steps_M = adam_4M
    steps_M = steps_M + 1
    means_M = means_M.lerp(gradient_M, 0.1)
    squares_M = squares_M.lerp(gradient_M**2, 0.001)
    scale_M = (squares_M / (1 - 0.999**steps_M)).sqrt() + EPS
    values_M = values_M - LEARNING_RATE * means_M / (1 - 0.9**steps_M) / scale_M
    return torch.where(gradient_M.isfinite(), torch.stack([values_M, means_M, squares_M, steps_M]), adam_4M)


def _positive(losses_K: Tensor) -> Tensor:
    return losses_K.clamp_min(0) + EPS
