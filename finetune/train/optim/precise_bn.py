"""Precise BN: batch norm's running statistics measured over many clips of the final weights (arXiv:2105.07576)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.runtime.device import autocast


@torch.no_grad()
def compute_bn_statistics(model: nn.Module, batches: Iterable[Tensor], *, precision: str) -> int:
    """Set the running statistics of trainable batch norms to their means over batches (B, T, C, H, W); layers changed.

    In training, these statistics lag behind the weights. Layers of frozen stages, and those that `batch_norm` freezes,
    are unchanged; if there are no others, no batch is read. Leaves the model in evaluation mode.
    """
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    model.eval()  # without dropout, as in inference
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    for batch in batches if norms else ():
        with autocast(precision, device):
            model(batch.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return len(norms)
