"""Consensus: predictions for several views of one video are combined into one."""

from collections.abc import Callable

import torch
from torch import Tensor

ToProbabilities = Callable[[Tensor], Tensor]


def combine_views(logits_VBK: Tensor, consensus: str, *, multilabel: bool = False) -> Tensor:
    """Logits of V views (V, B, K) to probabilities (B, K), float32.

    They sum to 1 over the classes, or with `multilabel` are independent. With one view all kinds of consensus agree.
    """
    return CONSENSUS_FUNCTIONS[consensus](logits_VBK.float(), torch.sigmoid if multilabel else _softmax)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _max_over_views(logits_VBK: Tensor, squash: ToProbabilities) -> Tensor:
    largest_BK = squash(logits_VBK).amax(0)
    return largest_BK / largest_BK.sum(1, keepdim=True) if squash is _softmax else largest_BK


CONSENSUS_FUNCTIONS: dict[str, Callable[[Tensor, ToProbabilities], Tensor]] = {
    "probs": lambda logits_VBK, squash: squash(logits_VBK).mean(0),
    "logits": lambda logits_VBK, squash: squash(logits_VBK.mean(0)),
    "max": _max_over_views,
}
CONSENSUS_LABELS = {
    "probs": "mean of probabilities",
    "logits": "mean of logits",
    "max": "largest probability of each class, scaled to a sum of 1",
}
