"""Clips of a batch blended with one another, and their labels with them: mixup and CutMix, alike in all frames."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from finetune.recipe.schema import Augment
from finetune.video.augment import seeded


def mix_clips(
    clips_BTCHW: Tensor, labels: Tensor, *, augment: Augment, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The clips and their label probabilities (B, K), each blended with the clip before it in the batch.

    For clips may stand what a frozen part gives for them, (B, ...), which mixup blends as well (arXiv:1806.05236).
    `labels` are the classes' numbers (B,), or what is there (B, K), or the targets of several tasks side by side.

    uint8 clips come back as float32 of the same range, as rounding would undo weak blends. With both set, each batch
    gets one of the two, by chance. Sources: mixup, arXiv:1710.09412; CutMix, arXiv:1905.04899.
    """
    targets_BK = labels.float() if labels.ndim == 2 else F.one_hot(labels, num_classes).float()
    ways: list[v2.Transform] = []
    if augment.mixup:
        ways.append(v2.MixUp(alpha=augment.mixup, num_classes=targets_BK.shape[1]))
    if augment.cutmix:
        ways.append(v2.CutMix(alpha=augment.cutmix, num_classes=targets_BK.shape[1]))
    if not ways:
        return clips_BTCHW, targets_BK
    with seeded(seed):
        way = ways[int(torch.randint(len(ways), ()))]
        # In five dimensions, which mixup does not look at, and CutMix is for clips alone.
        videos = clips_BTCHW if clips_BTCHW.dtype == torch.uint8 else clips_BTCHW.flatten(1)[:, None, None, None]
        clips, targets_BK = way(tv_tensors.Video(videos.float()), targets_BK)
    return clips.as_subclass(Tensor).reshape(clips_BTCHW.shape), targets_BK
