"""How much each of several tasks counts in a step: weights, from the losses or from the tasks' gradients.

Every rule has one scale: M tasks between which it sees no difference weigh 1 each, as with `fixed_weights`, so that a
learning rate means the same with any of them. `dwa`, `famo`, `gradnorm` and `random` keep a sum of M; `uncertainty` is
free to weigh all tasks more as their losses fall, which is its point.

A loss that is NaN or infinite is that of a task which no row of the batch has: no rule learns from it, and the others
are weighed as if that task were not there. Its own weight is finite and of no matter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from finetune.errors import RecipeError
from finetune.train.loss.gradient_surgery import GRADIENT_METHODS, NEED_TORCHJD, gradient_weights

RATE = 0.025  # of what a rule learns about the tasks, a step: that of GradNorm's paper and of FAMO's code
MAX_LOG_VARIANCE = 6.0  # of a log variance, either side of 0: weights of `uncertainty` stay between 1/403 and 403
DWA_TEMPERATURE = 2.0  # of DWA: higher is more even
FAMO_DECAY = 1e-3  # of FAMO's logits towards an even weighting
GRADNORM_ALPHA = 1.5  # of GradNorm: how much faster the tasks should learn that lag behind; 0 is equal gradients
EPS = 1e-8  # below it a loss is as good as 0


class TaskWeighting(Protocol):
    """What weighs the tasks of a run. Losses (M,) and Gramians (M, M) are detached, in float64, on the CPU."""

    wants_gradients: bool
    """Whether `weights` needs the Gramian of the tasks' gradients."""
    wants_losses_after: bool
    """Whether `after_step` needs the losses of the same clips after the update."""
    weighs_gradients: bool
    """Whether its weights are for the gradients at the shared activations alone, heads being weighted 1."""

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        """The weights (M,) of this step; it is called once a step. `draw` seeds whatever is random."""
        ...

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        """Learn from the losses of the step, and from those after it."""
        ...

    def after_epoch(self, losses_M: Tensor) -> None:
        """Learn from the mean losses of the epoch."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that has to be kept for a run to go on as if it had not stopped."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        ...


def build_weighting(name: str, tasks: int) -> TaskWeighting:
    """Raise RecipeError where the rule needs a package that is not installed."""
    if name in NEED_TORCHJD and find_spec("torchjd") is None:
        others = ", ".join(rule for rule in WEIGHTINGS if rule not in NEED_TORCHJD)
        raise RecipeError(
            f"multitask.weighting: {name} needs the package torchjd: pip install 'finetune[mtl]'; without it: {others}"
        )
    return WEIGHTINGS[name](tasks)


@dataclass
class StatelessWeighting:
    """Weights that hang on the step alone."""

    weigh: Callable[[Tensor, Tensor | None, int], Tensor]
    wants_gradients: bool = False
    wants_losses_after: bool = False
    weighs_gradients: bool = False

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        return self.weigh(losses_M, gramian_MM, draw)

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        pass

    def after_epoch(self, losses_M: Tensor) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        pass


def fixed_weights(losses_M: Tensor, gramian_MM: Tensor | None, draw: int) -> Tensor:
    """The weights of the recipe, and no others."""
    return torch.ones_like(losses_M)


def random_weights(losses_M: Tensor, gramian_MM: Tensor | None, draw: int) -> Tensor:
    """Softmax of normals, drawn anew each step: how much a rule gains by chance alone. Source: arXiv:2111.10603."""
    generator = torch.Generator().manual_seed(draw)
    return len(losses_M) * torch.randn(len(losses_M), dtype=torch.float64, generator=generator).softmax(0)


class Uncertainty:
    """exp(-s) for each task, where s, a log variance, is learned to lower the sum of exp(-s) L + s.

    It has its minimum at s = log L, where each weighted loss is 1. This is the paper's form for regression, times two
    so that weights start at 1. The one for classification weighs twice as much beside the same s; a rule that sees
    losses which have been divided by their first value takes one form for all, and the recipe's weights say the rest.
    Source: arXiv:1705.07115.
    """

    wants_gradients = wants_losses_after = weighs_gradients = False

    def __init__(self, tasks: int) -> None:
        self.log_variances = AdamVector(tasks)

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        return (-self.log_variances.values_M).exp()

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        self.log_variances.step(1 - (-self.log_variances.values_M).exp() * losses_M)
        self.log_variances.values_M.clamp_(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def after_epoch(self, losses_M: Tensor) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return self.log_variances.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.log_variances.restore(state)


class Dwa:
    """Softmax of how little each loss fell from one epoch to the next: 1 each in the first two epochs.

    A task that an epoch had no row of keeps its last two losses. Source: arXiv:1803.10704.
    """

    wants_gradients = wants_losses_after = weighs_gradients = False

    def __init__(self, tasks: int) -> None:
        self.last_M = torch.full((tasks,), torch.nan, dtype=torch.float64)
        self.before_M = self.last_M.clone()

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        ratios_M = self.last_M.clamp_min(EPS) / self.before_M.clamp_min(EPS)
        return len(ratios_M) * (ratios_M.nan_to_num(1.0) / DWA_TEMPERATURE).softmax(0)

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        pass

    def after_epoch(self, losses_M: Tensor) -> None:
        known_M = losses_M.isfinite()
        self.before_M = torch.where(known_M, self.last_M, self.before_M)
        self.last_M = torch.where(known_M, losses_M, self.last_M)

    def state(self) -> dict[str, Tensor]:
        return {"last": self.last_M.clone(), "before": self.before_M.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.last_M, self.before_M = state["last"].clone(), state["before"].clone()


class Famo:
    """Weights z / L, where z, a softmax, grows for the tasks whose log loss the last steps lowered least.

    Logits learn with Adam, as in the authors' code; the least that a loss can be is taken to be 0.
    Source: arXiv:2306.03792.
    """

    wants_gradients = weighs_gradients = False
    wants_losses_after = True

    def __init__(self, tasks: int) -> None:
        self.logits = AdamVector(tasks)

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        known_M = losses_M.isfinite()
        weights_M = torch.ones_like(losses_M)
        shares_K = self.logits.values_M[known_M].softmax(0) / _above(losses_M[known_M])
        weights_M[known_M] = len(shares_K) * shares_K / shares_K.sum()
        return weights_M

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        assert losses_after_M is not None
        known_M = losses_M.isfinite() & losses_after_M.isfinite()
        logits_K = self.logits.values_M[known_M]
        shares_K = logits_K.softmax(0)
        fallen_K = _above(losses_M[known_M]).log() - _above(losses_after_M[known_M]).log()
        gradient_M = torch.full_like(losses_M, torch.nan)
        gradient_M[known_M] = shares_K * (fallen_K - (shares_K * fallen_K).sum()) + FAMO_DECAY * logits_K
        self.logits.step(gradient_M)

    def after_epoch(self, losses_M: Tensor) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return self.logits.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.logits.restore(state)


class GradNorm:
    """Weights that learn to give each task a gradient as long as the others', and longer where its loss lags behind.

    A step lowers the paper's sum of |length - target|, seen as a function of the logs of the weights, over the mean
    length: so weights stay above 0, and the rate does not hang on how long gradients are. The weights' sum stays M.
    Source: arXiv:1711.02257.
    """

    wants_gradients = True
    wants_losses_after = weighs_gradients = False

    def __init__(self, tasks: int) -> None:
        self.weights_M = torch.ones(tasks, dtype=torch.float64)
        self.first_M = torch.full((tasks,), torch.nan, dtype=torch.float64)

    def weights(self, losses_M: Tensor, gramian_MM: Tensor | None, *, draw: int) -> Tensor:
        assert gramian_MM is not None
        weights_M = self.weights_M.clone()
        self._learn(losses_M, gramian_MM.diagonal().sqrt())
        return weights_M

    def _learn(self, losses_M: Tensor, lengths_M: Tensor) -> None:
        self.first_M = torch.where(self.first_M.isnan() & losses_M.isfinite(), losses_M, self.first_M)
        known_M = losses_M.isfinite() & lengths_M.isfinite() & (lengths_M > 0)
        if known_M.sum() < 2:
            return
        weights_K = self.weights_M[known_M]
        weighted_K = weights_K * lengths_M[known_M]
        left_K = _above(losses_M[known_M]) / _above(self.first_M[known_M])
        target_K = weighted_K.mean() * (left_K / left_K.mean()) ** GRADNORM_ALPHA
        moved_K = weights_K * (-RATE * (weighted_K - target_K).sign() * weighted_K / weighted_K.mean()).exp()
        self.weights_M[known_M] = moved_K * weights_K.sum() / moved_K.sum()

    def after_step(self, losses_M: Tensor, losses_after_M: Tensor | None) -> None:
        pass

    def after_epoch(self, losses_M: Tensor) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {"weights": self.weights_M.clone(), "first": self.first_M.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.weights_M, self.first_M = state["weights"].clone(), state["first"].clone()


class AdamVector:
    """A number for each task, which starts at 0 and moves by Adam.

    torch's own Adam has a state that is not plain tensors, and cannot leave out one number of a tensor.
    """

    def __init__(self, tasks: int) -> None:
        self.values_M, self.means_M, self.squares_M, self.steps_M = torch.zeros(4, tasks, dtype=torch.float64)

    def step(self, gradient_M: Tensor) -> None:
        """One step down the gradient; a task whose gradient is not finite is left as it is."""
        known_M = gradient_M.isfinite()
        steps_M = self.steps_M + 1
        means_M = self.means_M.lerp(gradient_M, 0.1)
        squares_M = self.squares_M.lerp(gradient_M**2, 0.001)
        scale_M = (squares_M / (1 - 0.999**steps_M)).sqrt() + EPS
        values_M = self.values_M - RATE * means_M / (1 - 0.9**steps_M) / scale_M
        found = {"values_M": values_M, "means_M": means_M, "squares_M": squares_M, "steps_M": steps_M}
        for name, moved_M in found.items():
            setattr(self, name, torch.where(known_M, moved_M, getattr(self, name)))

    def state(self) -> dict[str, Tensor]:
        return {"adam": torch.stack([self.values_M, self.means_M, self.squares_M, self.steps_M])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.values_M, self.means_M, self.squares_M, self.steps_M = state["adam"].clone()


def _above(losses_K: Tensor) -> Tensor:
    return losses_K.clamp_min(0) + EPS


def _gradient_weighting(name: str) -> Callable[[int], TaskWeighting]:
    def weigh(losses_M: Tensor, gramian_MM: Tensor | None, draw: int) -> Tensor:
        assert gramian_MM is not None
        return gradient_weights(name, losses_M, gramian_MM, draw=draw)

    return lambda tasks: StatelessWeighting(weigh, wants_gradients=True, weighs_gradients=True)


WEIGHTINGS: dict[str, Callable[[int], TaskWeighting]] = {
    "fixed": lambda tasks: StatelessWeighting(fixed_weights),
    "uncertainty": Uncertainty,
    "dwa": Dwa,
    "random": lambda tasks: StatelessWeighting(random_weights),
    "famo": Famo,
    "gradnorm": GradNorm,
    **{name: _gradient_weighting(name) for name in GRADIENT_METHODS},
}
