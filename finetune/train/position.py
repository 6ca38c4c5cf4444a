"""The position of a run, and the sums of its current epoch: loss, top-1, and seconds by activity."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator

from finetune.train.step import StepNumbers
from finetune.video.loader import Batch


@dataclass
class Tally:
    """Sums over one epoch, for the clips of this process."""

    clips: int = 0
    judged: int = 0  # clips with a class label, of which `right` are predicted correctly
    right: int = 0
    total_loss: float = 0.0
    steps: int = 0
    total_factor: float = 0.0  # sum of the factors on the learning rate
    seconds: dict[str, float] = field(default_factory=lambda: {"data": 0.0, "compute": 0.0, "evaluate": 0.0})

    def add(self, loss: float, clips: int, judged: tuple[torch.Tensor, torch.Tensor] | None, factor: float) -> None:
        """Add a step; `judged` are logits (B, K) and target probabilities (B, K) of the clips that have a class.

        A clip is right if its most probable class has the largest target; after mixup two classes have targets.
        """
        self.clips += clips
        if judged is not None and len(judged[0]):
            logits_BK, targets_BK = judged
            target_of_predicted_B = targets_BK.gather(1, logits_BK.argmax(1, keepdim=True)).squeeze(1)
            self.judged += len(targets_BK)
            self.right += int(((target_of_predicted_B == targets_BK.amax(1)) & (target_of_predicted_B > 0)).sum())
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

    def reduce(self, accelerator: Accelerator) -> None:
        """Sum clips and losses over all processes; seconds stay those of this process."""
        if accelerator.num_processes == 1:
            return
        own = torch.tensor([self.clips, self.right, self.total_loss, self.judged], dtype=torch.float64)
        clips, right, loss, judged = accelerator.reduce(own.to(accelerator.device), reduction="sum").tolist()
        self.clips, self.right, self.total_loss, self.judged = int(clips), int(right), loss, int(judged)

    def figures(self) -> dict[str, Any]:
        return {
            "train_loss": self.loss,
            "train_top1": self.right / self.judged if self.judged else None,
            "clips_per_second": round(self.clips_per_second, 2),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


@dataclass
class LoopPosition:
    """How far a run has come."""

    phase: int = 0  # index of the current phase
    epochs: int = 0  # finished, of the run
    epochs_in_phase: int = 0  # finished
    batches: int = 0  # of the current epoch, begun or finished
    steps_in_phase: int = 0
    steps: int = 0  # of the run
    left_out: int = 0  # steps that were skipped, as their gradient was not finite
    tally: Tally = field(default_factory=Tally)  # of the current epoch

    def after_batch(self) -> None:
        self.batches, self.steps_in_phase, self.steps = self.batches + 1, self.steps_in_phase + 1, self.steps + 1

    @property
    def step_numbers(self) -> StepNumbers:
        """The numbers of the current batch."""
        return StepNumbers(self.epochs + 1, self.batches, self.steps_in_phase)

    def after_epoch(self) -> None:
        self.epochs, self.epochs_in_phase, self.batches = self.epochs + 1, self.epochs_in_phase + 1, 0
        self.tally = Tally()

    def after_phase(self) -> None:
        self.phase, self.epochs_in_phase, self.steps_in_phase = self.phase + 1, 0, 0


def restore_position(position: Mapping[str, Any]) -> LoopPosition:
    return LoopPosition(**dict(position) | {"tally": Tally(**position["tally"])})


def time_batches(loader: Iterable[Batch], tally: Tally, count: int) -> Any:
    """The first `count` batches of a loader; adds the seconds of waiting for data and of computing to the tally."""
    started = time.perf_counter()
    for batch in islice(loader, count):
        arrived = time.perf_counter()
        tally.seconds["data"] += arrived - started
        yield batch
        started = time.perf_counter()
        tally.seconds["compute"] += started - arrived
