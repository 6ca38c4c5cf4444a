"""Classification losses: from logits (B, K) and targets to the mean loss, 0-dim."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from finetune.errors import RecipeError
from finetune.recipe.own_parts import is_own, part_name, require_object

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(name: Any, *, class_counts: Sequence[int], label_smoothing: float, multilabel: bool = False) -> Loss:
    """A loss of logits (B, K) and targets: class numbers (B,), or class probabilities (B, K), as mixup gives them.

    `class_counts` are the training rows per class; only `class_balanced` uses them. Label smoothing spreads that share
    of the target evenly over the classes. With `multilabel` classes are independent: targets are (B, K) in 0…1, and
    smoothing moves them towards 0.5. A `name` that is an own part is called with float targets (B, K).
    """
    if is_own(name):
        return partial(_own_loss, require_object(name, "train.loss"))
    return partial((MULTILABEL_LOSSES if multilabel else LOSSES)[name](class_counts), smoothing=label_smoothing)


def cross_entropy(logits_BK: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """Cross entropy of logits (B, K) and targets (B,) or (B, K), mean over clips, shape ()."""
    return F.cross_entropy(logits_BK, targets, label_smoothing=smoothing)


def class_balanced(logits_BK: Tensor, targets: Tensor, *, smoothing: float, weights_K: Tensor) -> Tensor:
    """Cross entropy of logits (B, K) and targets (B,) or (B, K), with class weights (K,), shape ().

    The sum is divided by the number of clips, not by the sum of their weights, so that a batch of rare classes counts
    more.
    """
    shares_BK = _soft_targets(targets, logits_BK, smoothing)
    return F.cross_entropy(logits_BK, shares_BK, weight=weights_K.to(logits_BK))


def focal(logits_BK: Tensor, targets: Tensor, *, smoothing: float, gamma: float = 2.0) -> Tensor:
    """Focal loss: cross entropy with each class's term times (1 - p)^gamma, mean over clips (arXiv:1708.02002).

    Logits are (B, K), targets (B,) or (B, K), the loss has shape ().
    """
    log_probs_BK = logits_BK.log_softmax(1)
    missing_BK = 1 - log_probs_BK.exp()
    return -(_soft_targets(targets, logits_BK, smoothing) * missing_BK**gamma * log_probs_BK).sum(1).mean()


def bce(logits_BK: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """Binary cross entropy of logits (B, K) and targets (B,) or (B, K), mean over clips and classes, shape ()."""
    return F.binary_cross_entropy_with_logits(logits_BK, _soft_targets(targets, logits_BK, smoothing))


def multilabel_bce(
    logits_BK: Tensor, targets_BK: Tensor, *, smoothing: float, weights_K: Tensor | None = None
) -> Tensor:
    """Binary cross entropy of logits (B, K) and targets (B, K), mean over clips and classes, shape ().

    Class weights (K,) are optional.
    """
    smooth_BK = targets_BK * (1 - smoothing) + smoothing / 2
    weights_K = None if weights_K is None else weights_K.to(logits_BK)
    return F.binary_cross_entropy_with_logits(logits_BK, smooth_BK, weight=weights_K)


def multilabel_focal(logits_BK: Tensor, targets_BK: Tensor, *, smoothing: float) -> Tensor:
    """Focal loss without alpha of logits (B, K) and targets (B, K), mean over clips and classes (arXiv:1708.02002)."""
    smooth_BK = targets_BK * (1 - smoothing) + smoothing / 2
    return sigmoid_focal_loss(logits_BK, smooth_BK, alpha=-1, gamma=2, reduction="mean")


def _own_loss(loss: Callable[[Tensor, Tensor], Tensor], logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    value = loss(logits_BK, targets_BK)
    if not isinstance(value, Tensor) or value.shape != ():
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise RecipeError(f"train.loss: {part_name(loss)} gives {given}, not the mean loss as a tensor of shape ()")
    return value


def class_balanced_weights(class_counts: Sequence[int], *, beta: float = 0.999) -> Tensor:
    """Class weights (K,): 1 / effective number of samples, scaled to a mean of 1 (arXiv:1901.05555)."""
    counts_K = torch.tensor(class_counts, dtype=torch.float64).clamp_min(1)
    weights_K = 1 / (1 - beta**counts_K)
    return weights_K / weights_K.mean()


def _soft_targets(targets: Tensor, logits_BK: Tensor, smoothing: float) -> Tensor:
    """Class numbers (B,) or probabilities (B, K) as smoothed probabilities (B, K)."""
    classes = logits_BK.shape[1]
    shares_BK = F.one_hot(targets, classes) if targets.ndim == 1 else targets
    return shares_BK.to(logits_BK.dtype) * (1 - smoothing) + smoothing / classes


LOSSES: dict[str, Callable[[Sequence[int]], Callable[..., Tensor]]] = {
    "cross_entropy": lambda counts: cross_entropy,
    "focal": lambda counts: focal,
    "class_balanced": lambda counts: partial(class_balanced, weights_K=class_balanced_weights(counts)),
    "bce": lambda counts: bce,
}
MULTILABEL_LOSSES: dict[str, Callable[[Sequence[int]], Callable[..., Tensor]]] = {
    "cross_entropy": lambda counts: multilabel_bce,
    "focal": lambda counts: multilabel_focal,
    "class_balanced": lambda counts: partial(multilabel_bce, weights_K=class_balanced_weights(counts)),
    "bce": lambda counts: multilabel_bce,
}
