"""The memory format of a batch of pictures or clips."""

import torch
from torch import Tensor


def is_channels_last(pictures: Tensor) -> bool:
    """Whether pictures (N, C, H, W) or clips (N, C, T, H, W) are in channels-last format and not also contiguous."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if pictures.ndim not in formats or pictures.is_contiguous():
        return False
    return pictures.is_contiguous(memory_format=formats[pictures.ndim])
