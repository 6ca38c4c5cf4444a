"""Build optimizers by name, and transfer optimizer state from one phase to the next."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch.optim import Optimizer

from finetune.errors import RecipeError, suggest_similar

# Optimizers that need packages which are not installed with this one, or second derivatives.
LEFT_OUT = ("bnb*", "fused*", "kron*", "adahessian")


def optimizer_names() -> list[str]:
    """Names that `build_optimizer` knows."""
    return [str(name) for name in list_optimizers(exclude_filters=list(LEFT_OUT))]


def check_optimizer(name: str) -> None:
    """Raise RecipeError for an unknown optimizer."""
    known = optimizer_names()
    if name not in known:
        raise RecipeError(f"there is no optimizer {name!r}{suggest_similar(name, known)}; there are {', '.join(known)}")


def build_optimizer(name: str, groups: Sequence[dict[str, Any]]) -> Optimizer:
    """An optimizer by timm's name for it, on the groups of `param_groups`; `sgd` has Nesterov momentum 0.9."""
    if name in FUSED_OPTIMIZERS:
        return FUSED_OPTIMIZERS[name](groups)
    check_optimizer(name)
    return create_optimizer_v2(groups, opt=name, lr=groups[0]["lr"])


def transfer_optimizer_state(before: Optimizer, now: Optimizer) -> int:
    """Copy the state of each parameter to an optimizer of the same type, in the next phase; the number of parameters.

    Newly unfrozen parameters start without a state.
    """
    if type(before) is not type(now):
        return 0
    parameters = [parameter for group in now.param_groups for parameter in group["params"]]
    with_state = [parameter for parameter in parameters if parameter in before.state]
    for parameter in with_state:
        now.state[parameter] = before.state[parameter]
    return len(with_state)


# Fused: one kernel for all parameters, faster on every device that torch runs on.
FUSED_OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True),
}
