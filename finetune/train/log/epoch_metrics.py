"""The figures of an epoch under way: how right it is, and where its seconds go."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune.video.loader import Batch


@dataclass
class Tally:
    """Sums over one epoch, this process's share."""

    clips: int = 0
    judged: int = 0  # of those: clips with classes to be right in
    right: int = 0
    total_loss: float = 0.0
    steps: int = 0
    total_factor: float = 0.0  # on the learning rate
    seconds: dict[str, float] = field(default_factory=lambda: {"data": 0.0, "compute": 0.0, "evaluate": 0.0})

    def add(self, loss: float, clips: int, judged: tuple[torch.Tensor, torch.Tensor] | None, factor: float) -> None:
        """A step's loss; `judged` are logits and targets (B, K) of those clips that have classes.

        Right is a clip whose likeliest class no other exceeds among its targets.
        """
        self.clips += clips
        if judged is not None and len(judged[0]):
            logits_BK, targets_BK = judged
            of_likeliest_B = targets_BK.gather(1, logits_BK.argmax(1, keepdim=True)).squeeze(1)
            self.judged += len(targets_BK)
            self.right += int(((of_likeliest_B == targets_BK.amax(1)) & (of_likeliest_B > 0)).sum())
        self.total_loss += loss * clips
        self.steps += 1
        self.total_factor += factor

    @property
    def loss(self) -> float:
        return self.total_loss / max(1, self.clips)

    @property
    def mean_lr_factor(self) -> float:
        return self.total_factor / max(1, self.steps)

    @property
    def clips_per_second(self) -> float:
        return self.clips / max(1e-9, self.seconds["data"] + self.seconds["compute"])

    def figures(self) -> dict[str, Any]:
        return {
            "train_loss": self.loss,
            "train_top1": self.right / self.judged if self.judged else None,
            "clips_per_second": round(self.clips_per_second, 2),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def time_batches(loader: Iterable[Batch], tally: Tally) -> Any:
    """Batches of a loader; the seconds waited for each, and those worked on each, go to the tally."""
    started = time.perf_counter()
    for batch in loader:
        arrived = time.perf_counter()
        tally.seconds["data"] += arrived - started
        yield batch
        started = time.perf_counter()
        tally.seconds["compute"] += started - arrived
