"""A video classifier: backbone, temporal pooling over T, heads, consensus over views."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, some
from finetune.model.backbones import Backbone, build_backbone
from finetune.model.checkpointing import learning_blocks, recomputed
from finetune.model.freeze import cut_into_stages, hold_frozen, set_trainable
from finetune.model.heads import Heads
from finetune.model.pooling import build_pooling
from finetune.recipe import Model

TASK = "label"


class VideoClassifier(nn.Module):
    """uint8 clips (B, T, C, H, W), or with views (B, V, T, C, H, W), to {task: logits (B, K)}.

    Over views the probabilities are averaged, and their logarithm is given. `settings` are those it was built by;
    `size` is the side of its pictures in pixels. A new model learns in all stages.
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
        self.checkpointing = False
        self.backbone = backbone
        steps = backbone.steps(num_frames)
        self.temporal, width = build_pooling(settings.temporal, backbone.width, num_frames=steps)
        self.heads = Heads(width, {TASK: len(self.classes)}, dropout=settings.dropout)
        self.stages = cut_into_stages(self, self._stage_of_parameters())
        set_trainable(self, "all")

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        if self.training:
            hold_frozen(self)
        if clips.ndim == 5:
            return self.heads(self.temporal(self._features(clips)))
        views = clips.shape[1]
        logits = self.heads(self.temporal(self._features(clips.flatten(0, 1))))
        return {task: _mean_of_probabilities(each.unflatten(0, (-1, views))) for task, each in logits.items()}

    def train(self, mode: bool = True) -> Self:
        """Training mode for the stages that learn; frozen ones stay in evaluation mode."""
        super().train(mode)
        hold_frozen(self)
        return self

    def _features(self, clips: Tensor) -> Tensor:
        """The backbone's features; with `checkpointing`, what led to them is computed again in the backward pass."""
        blocks = learning_blocks(self) if self.checkpointing and torch.is_grad_enabled() else []
        with recomputed(blocks, self.backbone.frames):
            return self.backbone(clips)

    def _stage_of_parameters(self) -> dict[str, str]:
        named = {f"backbone.net.{name}": stage for name, stage in self.backbone.stage_of.items()}
        named |= {f"backbone.merges.{name}": "temporal" for name, _ in self.backbone.merges.named_parameters()}
        named |= {f"temporal.{name}": "temporal" for name, _ in self.temporal.named_parameters()}
        named |= {f"heads.{name}": "head" for name, _ in self.heads.named_parameters()}
        return named


def build_model(
    backbone: str,
    classes: Sequence[str],
    *,
    weights: str = "imagenet",
    temporal: str = "mean",
    dropout: float = 0.2,
    num_frames: int = 8,
    size: int | None = None,
) -> VideoClassifier:
    """A classifier of `classes` on a pretrained backbone; see `Model` for the settings.

    The head starts at random, from PyTorch's generator. `size` in pixels defaults to what the backbone was trained
    at. Raises ModelError for a backbone or weights that are not there.
    """
    settings = Model.model_validate(
        {"backbone": backbone, "weights": weights, "temporal": temporal, "dropout": dropout}
    )
    return model_of(settings, classes, num_frames=num_frames, size=size)


def model_of(settings: Model, classes: Sequence[str], *, num_frames: int, size: int | None) -> VideoClassifier:
    """A classifier by a recipe's section `model`; see `build_model`."""
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise ModelError(f"a classifier needs two or more different classes; got {some(list(classes)) or 'none'}")
    backbone = build_backbone(
        settings.backbone,
        weights=settings.weights,
        size=size,
        num_frames=num_frames,
        drop_path=settings.drop_path,
        fusion=settings.fusion,
    )
    size = size or backbone.spec.size
    return VideoClassifier(backbone, classes=classes, settings=settings, num_frames=num_frames, size=size)


def _mean_of_probabilities(logits_BVK: Tensor) -> Tensor:
    views = logits_BVK.shape[1]
    return logits_BVK.log_softmax(2).logsumexp(1) - torch.log(torch.tensor(float(views)))
