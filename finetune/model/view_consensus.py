"""Consensus: the answers for several views of one video become one."""

from collections.abc import Callable

import torch
from torch import Tensor

Squash = Callable[[Tensor], Tensor]


def agree(logits_VBK: Tensor, consensus: str, *, multilabel: bool = False) -> Tensor:
    """Probabilities (B, K) in float32 of the logits of V views; those of a single view, whichever the consensus.

    They sum to 1 over the classes, unless with `multilabel` each class is by itself, there or not.
    """
    return CONSENSUS[consensus](logits_VBK.float(), torch.sigmoid if multilabel else _shares)


def _shares(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _largest(logits_VBK: Tensor, squash: Squash) -> Tensor:
    largest_BK = squash(logits_VBK).amax(0)
    return largest_BK / largest_BK.sum(1, keepdim=True) if squash is _shares else largest_BK


CONSENSUS: dict[str, Callable[[Tensor, Squash], Tensor]] = {
    "probs": lambda logits_VBK, squash: squash(logits_VBK).mean(0),
    "logits": lambda logits_VBK, squash: squash(logits_VBK.mean(0)),
    "max": _largest,
}
IN_WORDS = {
    "probs": "mean of probabilities",
    "logits": "mean of logits",
    "max": "largest probability of each class, scaled to a sum of 1",
}
