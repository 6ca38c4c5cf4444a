"""What a run has to remember to go on as if nothing had happened; all else follows from recipe and position."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune.errors import RunError
from finetune.files import standing
from finetune.model.lora import is_adapted
from finetune.model.model import VideoClassifier
from finetune.train.anchor import Anchor
from finetune.train.ema import Ema
from finetune.train.objective import Objective
from finetune.train.tally import Tally

State = dict[str, Any]  # tensors, numbers and strings, so that nothing has to be trusted to read it


@dataclass
class Position:
    """Where a run is: what it has behind it."""

    phase: int = 0  # the one under way
    epochs: int = 0  # finished, of the run
    epochs_in_phase: int = 0
    batches: int = 0  # learnt from, in the epoch under way
    steps_in_phase: int = 0
    steps: int = 0
    left_out: int = 0  # steps without a gradient that is a number
    tally: Tally = field(default_factory=Tally)  # of the epoch under way

    def after_batch(self) -> None:
        self.batches, self.steps_in_phase, self.steps = self.batches + 1, self.steps_in_phase + 1, self.steps + 1

    def after_epoch(self) -> None:
        self.epochs, self.epochs_in_phase, self.batches = self.epochs + 1, self.epochs_in_phase + 1, 0
        self.tally = Tally()

    def after_phase(self) -> None:
        self.phase, self.epochs_in_phase, self.steps_in_phase = self.phase + 1, 0, 0


@dataclass
class Moving:
    """What changes while a phase learns, beside the position."""

    model: VideoClassifier
    optimizer: Optimizer
    ema: Ema
    anchor: Anchor
    objective: Objective
    scaler: Any  # of fp16, else None

    def state(self, at: Position) -> State:
        """The model's own weights are in it only where those of the checkpoint are others: an average, or merged."""
        own = bool(self.ema.average) or is_adapted(self.model)
        return {
            "schema": 1,
            "position": asdict(at),
            "model": _copied(self.model.state_dict()) if own else None,
            "optimizer": self.optimizer.state_dict(),
            "ema": {"steps": self.ema.steps, "average": _copied(self.ema.average)},
            "anchor": self.anchor.state(self.model),
            "objective": self.objective.state(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def restore(self, state: State) -> None:
        """Go on from a state, in a phase that has been set up as at its start."""
        if state["model"] is not None:
            self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.steps = state["ema"]["steps"]
        self.ema.average = {name: value.to(self.ema.average[name]) for name, value in state["ema"]["average"].items()}
        self.anchor.restore(self.model, state["anchor"])
        self.objective.restore(state.get("objective", {}))
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU: the device may have no room, and the weights are swapped while they are written."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def position_of(state: State) -> Position:
    values = dict(state["position"])
    return Position(**values | {"tally": Tally(**values["tally"])})


def read_state(folder: Path) -> State:
    """The state of a run's last checkpoint. Raises RunError where there is none."""
    try:
        path = standing(folder / "checkpoints" / "last") / "state.pt"
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(
            f"{folder}: cannot go on without checkpoints/last/state.pt; it ended before its first checkpoint, or "
            "was not left by training. Start it anew, in another folder"
        ) from None
