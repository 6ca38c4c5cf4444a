"""Consensus: the answers for several views of one video become one."""

from collections.abc import Callable

from torch import Tensor


def agree(logits_VBK: Tensor, consensus: str) -> Tensor:
    """Probabilities (B, K) in float32 of the logits of V views; those of a single view, whichever the consensus."""
    return CONSENSUS[consensus](logits_VBK.float())


def _largest(logits_VBK: Tensor) -> Tensor:
    largest_BK = logits_VBK.softmax(2).amax(0)
    return largest_BK / largest_BK.sum(1, keepdim=True)


CONSENSUS: dict[str, Callable[[Tensor], Tensor]] = {
    "probs": lambda logits_VBK: logits_VBK.softmax(2).mean(0),
    "logits": lambda logits_VBK: logits_VBK.mean(0).softmax(1),
    "max": _largest,
}
IN_WORDS = {
    "probs": "mean of probabilities",
    "logits": "mean of logits",
    "max": "largest probability of each class, scaled to a sum of 1",
}
