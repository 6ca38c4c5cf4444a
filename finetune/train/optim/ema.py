"""A running average of the weights, which is often better than the last of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetune.model.freezing.freeze import has_running_stats


class Ema:
    """Exponential moving average of what learns: parameters, and the running statistics that move with them.

    `decay` in 0…1 is approached from below in the first steps, so that the average does not hang on the start
    (as timm's and TensorFlow's warm up). Decay 0 is no average: nothing is kept, and `averaged_weights` changes
    nothing.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}

    def start_phase(self, model: nn.Module) -> None:
        """Average what learns from now on: new parts start at their values, what is frozen now is no longer averaged.

        The model has to be in training mode.
        """
        if self.decay:
            self.average = {name: self.average.get(name, value.clone()) for name, value in _averaged_tensors(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        if not self.decay:
            return
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        moving = dict(_averaged_tensors(model))
        torch._foreach_lerp_(list(self.average.values()), [moving[name] for name in self.average], share)

    @contextmanager
    def averaged_weights(self, model: nn.Module) -> Iterator[None]:
        """The model with the averages in it; afterwards it has its own weights again."""
        values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._swap(values)
        try:
            yield
        finally:
            self._swap(values)

    @torch.no_grad()
    def _swap(self, values: dict[str, Tensor]) -> None:
        for name, average in self.average.items():
            own = values[name].clone()
            values[name].copy_(average)
            average.copy_(own)


def _averaged_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
    for prefix, module in model.named_modules():
        if module.training and has_running_stats(module):
            buffers = module.named_buffers(prefix=prefix, recurse=False)
            yield from ((name, buffer) for name, buffer in buffers if buffer.is_floating_point())
