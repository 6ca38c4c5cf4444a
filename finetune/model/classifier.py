"""A video classifier: backbone, temporal pooling over T, heads, consensus over views."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, shorten_list
from finetune.model.activation_checkpointing import checkpoint_blocks, trainable_blocks
from finetune.model.backbone.backbone import Backbone, build_backbone
from finetune.model.count_multiplications import count_multiplications
from finetune.model.freezing.freeze import set_frozen_to_eval, set_trainable
from finetune.model.freezing.stages import split_into_stages
from finetune.model.frozen_prefix import Cut, forward_after_cut
from finetune.model.heads import Heads, HeadShape
from finetune.model.multitask.sharing import Sharing
from finetune.model.temporal_pooling import build_pooling
from finetune.model.view_consensus import combine_views
from finetune.recipe.schema import Model
from finetune.recipe.tasks import DEFAULT_TASK, MultitaskSpec, OutputSpec, primary_task
from finetune.runtime.threads import fits_one_thread

TOWER_MODES = {"hard": None, "towers": "plain", "cross_stitch": "cross_stitch"}


class VideoClassifier(nn.Module):
    """uint8 clips (B, T, C, H, W), or with views (B, V, T, C, H, W), to {task: logits (B, K)}.

    Over views the logarithm of the probabilities that they agree on is given; `consensus` says how. With `multilabel`
    each class is by itself, there or not. `settings` are those it was built by. A new model learns in all stages.

    `several` are its tasks; without, it has one, `label`, of `classes`. What they share, and what each reads of it,
    is in `sharing`. Of numbers the heads give what `outputs` scales.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: Sequence[str],
        settings: Model,
        num_frames: int,
        multitask_spec: MultitaskSpec | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.settings = settings
        self.multitask_spec = multitask_spec
        self.num_frames = num_frames
        self.size = backbone.size
        self.batch_norm = "frozen"
        self.consensus = "probs"
        self.multilabel = False
        self.primary = primary_task(self.outputs)
        self.checkpointing = False
        self.backbone = backbone
        steps = backbone.steps(num_frames)
        shared = settings.temporal if multitask_spec is None or multitask_spec.uses_shared_pooling else "mean"
        self.temporal, width = build_pooling(shared, backbone.width, num_frames=steps)
        self.sharing = None if multitask_spec is None else Sharing(backbone, multitask_spec, settings.temporal)
        self.heads = Heads(self._head_shapes(width), dropout=settings.dropout)
        self.stages = split_into_stages(self, self.stage_of_parameters())
        set_trainable(self, "all")

    def forward(self, clips: Tensor, cut: Cut | None = None) -> dict[str, Tensor]:
        """Logits of clips; with a `cut`, of what enters there, (B, *cut.item), as `before` gives it."""
        if self.training:
            set_frozen_to_eval(self)
        if cut is not None:
            with checkpoint_blocks(self._blocks_to_checkpoint(), self.backbone.frames):
                return self._logits(forward_after_cut(self, clips, cut))
        if clips.ndim == 5:
            return self._logits(self._features(clips))
        views = clips.shape[1]
        logits = self._logits(self._features(clips.flatten(0, 1)))
        return {task: self._combine_views(task, each.unflatten(0, (-1, views))) for task, each in logits.items()}

    def _logits(self, features_BTD: Tensor) -> dict[str, Tensor]:
        if self.sharing is None:
            return self.heads(self.temporal(features_BTD))
        return self.heads(self.sharing(features_BTD, self.temporal))

    def train(self, mode: bool = True) -> Self:
        """Training mode for the stages that learn; frozen ones stay in evaluation mode."""
        super().train(mode)
        set_frozen_to_eval(self)
        return self

    def _features(self, clips: Tensor) -> Tensor:
        """The backbone's features; with `checkpointing`, what led to them is computed again in the backward pass."""
        with checkpoint_blocks(self._blocks_to_checkpoint(), self.backbone.frames):
            return self.backbone(clips)

    def _blocks_to_checkpoint(self) -> list[nn.Module]:
        return trainable_blocks(self) if self.checkpointing and torch.is_grad_enabled() else []

    def _head_shapes(self, width: int) -> dict[str, HeadShape]:
        shapes = {}
        for name, output in self.outputs.items():
            kind = (self.multitask_spec.tasks[name].head if self.multitask_spec else None) or self.settings.head
            own = None if self.sharing is None else self.sharing.width_of(name)
            shapes[name] = HeadShape(own or width, output.width, kind)
        return shapes

    def _combine_views(self, task: str, logits_BVK: Tensor) -> Tensor:
        if not self.outputs[task].is_categorical:
            return logits_BVK.mean(1)
        separate = self.outputs[task].kind != "classify"
        probs_BK = combine_views(logits_BVK.transpose(0, 1), self.consensus, multilabel=separate)
        if separate:
            return probs_BK.logit(eps=1e-7)
        return probs_BK.clamp_min(torch.finfo(probs_BK.dtype).tiny).log()

    @cached_property
    def fits_one_thread(self) -> bool:
        """Whether a clip takes so little arithmetic that one thread of a CPU does it best."""
        return self.is_small_work()

    def is_small_work(self, times: int = 1, *, cut: Cut | None = None) -> bool:
        """Whether one thread of a CPU does it best to compute a clip so many times, or of it what comes after a cut."""
        device = self.backbone.mean.device
        if device.type != "cpu" or self.backbone.net._compiled_call_impl is not None:
            return False
        if cut is None:
            clip = torch.zeros((1, self.num_frames, 3, self.size, self.size), dtype=torch.uint8)
        else:
            clip, cut = torch.zeros((1, *cut.item)), replace(cut, dtype=torch.float32)
        was_training = self.training
        self.train(False)
        try:
            return fits_one_thread(times * count_multiplications(self, lambda: self(clip, cut)))
        finally:
            self.train(was_training)

    @property
    def several(self) -> MultitaskSpec | None:
        """The deprecated name of `multitask_spec`."""
        _warn_renamed("VideoClassifier.several", "VideoClassifier.multitask_spec")
        return self.multitask_spec

    @property
    def outputs(self) -> Mapping[str, OutputSpec]:
        """What is said of each task."""
        if self.multitask_spec is not None:
            return self.multitask_spec.outputs
        return {DEFAULT_TASK: OutputSpec("multilabel" if self.multilabel else "classify", self.classes)}

    def stage_of_parameters(self) -> dict[str, str]:
        """The stage of each parameter, from input to output."""
        named = {f"backbone.net.{name}": stage for name, stage in self.backbone.stage_of.items()}
        named |= {f"backbone.merges.{name}": "temporal" for name, _ in self.backbone.merges.named_parameters()}
        named |= {f"temporal.{name}": "temporal" for name, _ in self.temporal.named_parameters()}
        if self.sharing is not None:
            named |= {f"sharing.{name}": "temporal" for name, _ in self.sharing.named_parameters()}
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
    multitask_spec: MultitaskSpec | None = None,
    several: MultitaskSpec | None = None,
) -> VideoClassifier:
    """A classifier of `classes` on a pretrained backbone, or with `multitask_spec` a multi-task model.

    `Model` describes the settings. `several` is the deprecated name of `multitask_spec`.

    The head starts at random, from PyTorch's generator; its bias starts at how often each class occurs where
    `class_counts`, the training rows of each class in order, are given. `size` in pixels defaults to what the
    backbone was trained at. Raises ModelError for a backbone or weights that are not there.
    """
    if several is not None:
        _warn_renamed("build_model(several=...)", "build_model(multitask_spec=...)")
        multitask_spec = several
    settings = Model.model_validate(
        {"backbone": backbone, "weights": weights, "temporal": temporal, "head": head, "dropout": dropout}
    )
    return build_from_settings(
        settings, classes, num_frames=num_frames, size=size, class_counts=class_counts, multitask_spec=multitask_spec
    )


def build_from_settings(
    settings: Model,
    classes: Sequence[str],
    *,
    num_frames: int,
    size: int | None,
    class_counts: Sequence[int] | None = None,
    clips: int | None = None,
    multitask_spec: MultitaskSpec | None = None,
) -> VideoClassifier:
    """A classifier by a recipe's section `model`; see `build_model`.

    With `clips`, of how many `class_counts` are, each may show several classes. `class_counts` are not for several
    tasks.
    """
    if multitask_spec is not None and (
        odd := [name for name in multitask_spec.tasks if hasattr(Heads({}, dropout=0), name)]
    ):
        raise ModelError(
            f"a task cannot be named {shorten_list(odd)}, as a part of PyTorch's modules is; take another name"
        )
    if multitask_spec is None and (len(set(classes)) < 2 or len(set(classes)) < len(classes)):
        raise ModelError(
            f"a classifier needs two or more different classes; got {shorten_list(list(classes)) or 'none'}"
        )
    if class_counts is not None and len(class_counts) != len(classes):
        raise ModelError(f"class_counts has {len(class_counts)} numbers for {len(classes)} classes")
    backbone = build_backbone(
        settings.backbone,
        weights=settings.weights,
        size=size,
        num_frames=num_frames,
        drop_path=settings.drop_path,
        fusion=settings.fusion,
        towers=None if multitask_spec is None else TOWER_MODES[multitask_spec.multitask.sharing],
    )
    model = VideoClassifier(
        backbone, classes=classes, settings=settings, num_frames=num_frames, multitask_spec=multitask_spec
    )
    for name, output in model.outputs.items():
        if not output.is_categorical:
            model.heads.init_bias_to_zero(name)
    if class_counts is not None:
        model.heads.init_bias_from_prior(DEFAULT_TASK, class_counts, clips=clips)
    return model


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated and will be removed in the next version; use {new}", DeprecationWarning, 3)
