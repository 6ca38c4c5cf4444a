"""A video classifier: backbone, temporal pooling over T, heads, consensus over views."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, some
from finetune.model.backbones import Backbone, build_backbone
from finetune.model.consensus import agree
from finetune.model.freeze import hold_frozen, set_trainable
from finetune.model.heads import Heads
from finetune.model.pooling import build_pooling
from finetune.model.stages import cut_into_stages
from finetune.recipe import Model

TASK = "label"


class VideoClassifier(nn.Module):
    """uint8 clips (B, T, C, H, W), or with views (B, V, T, C, H, W), to {task: logits (B, K)}.

    Over views the logarithm of the probabilities that they agree on is given; `consensus` says how. `settings` are
    those it was built by; `size` is the side of its pictures in pixels. A new model learns in all stages.
    """

    def __init__(
        self, backbone: Backbone, *, classes: Sequence[str], settings: Model, num_frames: int, size: int
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.settings = settings
        self.num_frames = num_frames
        self.size = size
        self.batch_norm = "frozen"
        self.consensus = "probs"
        self.backbone = backbone
        steps = 1 if backbone.takes_clips else num_frames
        self.temporal, width = build_pooling(settings.temporal, backbone.width, num_frames=steps)
        self.heads = Heads(width, {TASK: len(self.classes)}, kind=settings.head, dropout=settings.dropout)
        self.stages = cut_into_stages(self, self.stage_of_parameters())
        set_trainable(self, "all")

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        if self.training:
            hold_frozen(self)
        if clips.ndim == 5:
            return self.heads(self.temporal(self.backbone(clips)))
        views = clips.shape[1]
        logits = self.heads(self.temporal(self.backbone(clips.flatten(0, 1))))
        return {task: self._agreed(each.unflatten(0, (-1, views))) for task, each in logits.items()}

    def train(self, mode: bool = True) -> Self:
        """Training mode for the stages that learn; frozen ones stay in evaluation mode."""
        super().train(mode)
        hold_frozen(self)
        return self

    def _agreed(self, logits_BVK: Tensor) -> Tensor:
        probs_BK = agree(logits_BVK.transpose(0, 1), self.consensus)
        return probs_BK.clamp_min(torch.finfo(probs_BK.dtype).tiny).log()

    def stage_of_parameters(self) -> dict[str, str]:
        named = {f"backbone.net.{name}": stage for name, stage in self.backbone.stage_of.items()}
        named |= {f"temporal.{name}": "temporal" for name, _ in self.temporal.named_parameters()}
        named |= {f"heads.{name}": "head" for name, _ in self.heads.named_parameters()}
        return named


def build_model(
    backbone: str,
    classes: Sequence[str],
    *,
    weights: str = "imagenet",
    temporal: str = "mean",
    head: str = "linear",
    dropout: float = 0.2,
    num_frames: int = 8,
    size: int | None = None,
    class_counts: Sequence[int] | None = None,
) -> VideoClassifier:
    """A classifier of `classes` on a pretrained backbone; see `Model` for the settings.

    The head starts at random, from PyTorch's generator; its bias starts at how often each class occurs where
    `class_counts`, the training rows of each class in order, are given. `size` in pixels defaults to what the
    backbone was trained at. Raises ModelError for a backbone or weights that are not there.
    """
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise ModelError(f"a classifier needs two or more different classes; got {some(list(classes)) or 'none'}")
    settings = Model.model_validate(
        {"backbone": backbone, "weights": weights, "temporal": temporal, "head": head, "dropout": dropout}
    )
    if class_counts is not None and len(class_counts) != len(classes):
        raise ModelError(f"class_counts has {len(class_counts)} numbers for {len(classes)} classes")
    built = build_backbone(backbone, weights=weights, size=size)
    model = VideoClassifier(
        built, classes=classes, settings=settings, num_frames=num_frames, size=size or built.spec.size
    )
    if class_counts is not None:
        model.heads.start_at_prior(TASK, class_counts)
    return model
