"""A class for each pixel of the middle frame, from a feature pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.model.dense.pyramid import GROUPS, PyramidShape


class SegmentationHead(nn.Module):
    """Maps of the middle frame [(B, T, W, h, w)] to class logits (B, K, S / 4, S / 4) of pictures of side S.

    Each level goes through one convolution, is resized to the finest and added to it (the light decoder of panoptic
    feature pyramids, arXiv:1901.02446).
    """

    def __init__(self, shape: PyramidShape, *, classes: int) -> None:
        super().__init__()
        self.size = shape.size
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(shape.channels, shape.channels, 3, padding=1, bias=False),
                nn.GroupNorm(GROUPS, shape.channels),
                nn.ReLU(),
            )
            for _ in shape.sides
        )
        self.classify = nn.Conv2d(shape.channels, classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, T, W, h, w)] of each level, finest first, to (B, K, S / 4, S / 4)."""
        maps = [layer(level[:, level.shape[1] // 2]) for layer, level in zip(self.levels, levels, strict=True)]
        merged = torch.stack([_resize(values, maps[0].shape[-1]) for values in maps]).sum(0)
        return _resize(self.classify(merged), -(-self.size // 4))

    def pixel_logits(self, outputs_BKhw: Tensor) -> Tensor:
        """Logits of each pixel (B, K, S, S) from outputs (B, K, h, w)."""
        return _resize(outputs_BKhw.float(), self.size)

    def decode(self, outputs_BKhw: Tensor) -> Tensor:
        """The class of each pixel, uint8 (B, S, S), from outputs (B, K, h, w)."""
        return self.pixel_logits(outputs_BKhw).argmax(1).to(torch.uint8)


def _resize(maps: Tensor, side: int) -> Tensor:
    """(N, C, h, w) to (N, C, side, side)."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
