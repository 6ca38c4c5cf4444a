"""Exponential moving average of the weights, which often scores better than the last weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetune.model.freezing.freeze import has_running_stats


class Ema:
    """Averages of the trainable parameters, and of batch norm's running statistics that are updated.

    The decay rises to `decay`, in 0…1, over the first steps, so that the average forgets the initial weights (as the
    warm-up of timm and TensorFlow). With decay 0 nothing is averaged, and `averaged_weights` changes nothing.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}

    def start_phase(self, model: nn.Module) -> None:
        """Average what is trainable now: new parts start at their current values, frozen ones are dropped.

        The model has to be in training mode.
        """
        if self.decay:
            self.average = {name: self.average.get(name, value.clone()) for name, value in _averaged_tensors(model)}

    def start_run(self, model: nn.Module) -> None:
        """Average from the current values on, as new weights were set after `start_phase`."""
        self.average = {}
        self.start_phase(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step to the average."""
        if not self.decay:
            return
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        moving = dict(_averaged_tensors(model))
        torch._foreach_lerp_(list(self.average.values()), [moving[name] for name in self.average], share)

    @contextmanager
    def averaged_weights(self, model: nn.Module) -> Iterator[None]:
        """A context in which the model has the averaged weights; afterwards it has its own again."""
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
