"""L2-SP: a penalty on the distance of the backbone from its pretrained weights (arXiv:1802.01483)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.model.freezing.stages import HEAD_STAGES


class L2SPPenalty:
    """The squared distance of the backbone's trainable parameters from their values when they were first unfrozen."""

    def __init__(self) -> None:
        self.start: dict[nn.Parameter, Tensor] = {}
        self.strength = 0.0
        self.held: list[nn.Parameter] = []

    def start_phase(self, strength: float, groups: Sequence[dict[str, Any]]) -> None:
        """Penalize the backbone's parameters in `groups`, in place of weight decay, which is set to 0 there."""
        self.strength = strength
        backbone = [group for group in groups if group["stage"] not in HEAD_STAGES]
        self.held = [parameter for group in backbone for parameter in group["params"]] if strength else []
        for group in backbone if strength else ():
            group["weight_decay"] = 0.0
        for parameter in self.held:
            if parameter not in self.start:
                self.start[parameter] = parameter.detach().clone()

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The reference values by parameter name, also of parameters of earlier phases."""
        return {name: self.start[held] for name, held in model.named_parameters() if held in self.start}

    def restore(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        for name, start in state.items():
            self.start[parameters[name]] = start.to(parameters[name])

    def penalty(self) -> Tensor | float:
        """strength / 2 × the squared distance, shape (); 0.0 where no parameter is penalized."""
        if not self.held:
            return 0.0
        # Always float32: the squares are too small for half precision.
        distances = [(parameter.float() - self.start[parameter].float()).square().sum() for parameter in self.held]
        return self.strength / 2 * torch.stack(distances).sum()
