"""Blend the clips of a batch with one another, and their labels: mixup and CutMix, the same in all frames."""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.recipe.schema import Augment
from finetune.video.augment import seeded


def mix_clips(clips_BTCHW: Tensor, targets_BK: Tensor, *, augment: Augment, seed: int) -> tuple[Tensor, Tensor]:
    """Clips (B, T, C, H, W) and float32 targets (B, K), each blended with the clip before it in the batch.

    In place of clips may be the activations of a frozen part, (B, *), which mixup blends as well (arXiv:1806.05236).
    uint8 clips come back as float32 of the same range, as rounding would undo weak blends. With mixup and CutMix both
    set, one of the two is drawn for each batch. Sources: mixup, arXiv:1710.09412; CutMix, arXiv:1905.04899.
    """
    ways: list[v2.Transform] = []
    if augment.mixup:
        ways.append(v2.MixUp(alpha=augment.mixup, num_classes=targets_BK.shape[1]))
    if augment.cutmix:
        ways.append(v2.CutMix(alpha=augment.cutmix, num_classes=targets_BK.shape[1]))
    with seeded(seed):
        way = ways[int(torch.randint(len(ways), ()))]
        # Activations take five dimensions too, as a video has; only mixup is used on them.
        videos = clips_BTCHW if clips_BTCHW.dtype == torch.uint8 else clips_BTCHW.flatten(1)[:, None, None, None]
        clips, targets_BK = way(tv_tensors.Video(videos.float()), targets_BK)
    return clips.as_subclass(Tensor).reshape(clips_BTCHW.shape), targets_BK
