"""Losses of detection, with motion, and of segmentation, from outputs for positions of a feature pyramid."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.model.dense.detection import DetectionHead
from finetune.model.dense.segmentation import SegmentationHead
from finetune.recipe.object_fields import TARGET_FIELDS, UNLABELLED
from finetune.recipe.tasks import Task


class DetectionLoss:
    """The weighted parts of a detection loss (P,), whose sum is the loss; `weights` are those of the recipe."""

    def __init__(self, head: DetectionHead, task: Task) -> None:
        self.head = head
        self.weights = {"class": task.class_weight, "box": task.box_weight}
        if head.motion is not None:
            self.weights["motion"] = task.motion_weight

    def __call__(self, outputs_BAC: Tensor, targets: Tensor) -> Tensor:
        """Parts (P,), means over clips, of outputs (B, A, C) and targets (B, M × 8), TARGET_FIELDS of M objects."""
        parts = [torch.zeros(len(self.weights), device=outputs_BAC.device)]
        for outputs_AC, target in zip(outputs_BAC, targets, strict=True):
            losses = self.head.losses(outputs_AC, target.view(-1, len(TARGET_FIELDS)))
            parts.append(torch.stack([weight * losses[name] for name, weight in self.weights.items()]))
        return torch.stack(parts).sum(0) / len(outputs_BAC)


class SegmentationLoss:
    """Cross entropy over the labelled pixels of each picture, mean over clips."""

    def __init__(self, head: SegmentationHead) -> None:
        self.head = head

    def __call__(self, outputs_BKhw: Tensor, targets: Tensor) -> Tensor:
        """The loss, 0-dim, of outputs (B, K, h, w) and targets (B, S²), class numbers and 255 for unlabelled pixels."""
        logits_BKSS = self.head.pixel_logits(outputs_BKhw)
        classes_BSS = targets.view(-1, *logits_BKSS.shape[2:]).long()
        losses_BSS = F.cross_entropy(logits_BKSS, classes_BSS, ignore_index=UNLABELLED, reduction="none")
        labelled_B = (classes_BSS != UNLABELLED).sum((1, 2)).clamp_min(1)
        return (losses_BSS.sum((1, 2)) / labelled_B).mean()


def build_dense_loss(head: Any, task: Task) -> DetectionLoss | SegmentationLoss:
    """The loss of a task whose head reads the pyramid."""
    return SegmentationLoss(head) if isinstance(head, SegmentationHead) else DetectionLoss(head, task)
