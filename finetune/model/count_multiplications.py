"""How many multiplications a network does, which decides the number of threads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def count_multiplications(model: nn.Module, run: Callable[[], object]) -> int:
    """Multiplications of weights and inputs while `run` calls the model: convolutions, linear and recurrent layers.

    Products of two activations, as in attention, are not counted.
    """
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        weights = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim > 1]
        if weights and isinstance(first, Tensor):
            is_convolution = weights[0].ndim > 2 and first.ndim > 2
            channels = first.shape[1] if is_convolution else first.shape[-1]
            counts.append(first.numel() // max(1, channels) * sum(weight.numel() for weight in weights))

    weighted = [module for module in model.modules() if any(p.ndim > 1 for p in module.parameters(recurse=False))]
    handles = [module.register_forward_hook(count) for module in weighted]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)
