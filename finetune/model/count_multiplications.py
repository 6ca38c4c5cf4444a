"""How much arithmetic a network does, by which the number of threads is chosen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def count_multiplications(model: nn.Module, run: Callable[[], object]) -> int:
    """Multiplications of weights with inputs while `run` calls the model: convolutions, linear and recurrent layers.

    Products of two activations, as in attention, are left out.
    """
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        weights = [each for each in module.parameters(recurse=False) if each.ndim > 1]
        if weights and isinstance(first, Tensor):
            is_convolution = weights[0].ndim > 2 and first.ndim > 2
            channels = first.shape[1] if is_convolution else first.shape[-1]
            counts.append(first.numel() // max(1, channels) * sum(each.numel() for each in weights))

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)
