"""How a batch of pictures lies in memory."""

import torch
from torch import Tensor


def is_channels_last(pictures: Tensor) -> bool:
    """Whether pictures (N, C, H, W) or clips (N, C, T, H, W) are held channels last, and only so."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if pictures.ndim not in formats or pictures.is_contiguous():
        return False
    return pictures.is_contiguous(memory_format=formats[pictures.ndim])
