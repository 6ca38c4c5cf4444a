"""The whole model: backbone, temporal pooling, heads, and the consensus over views of a clip."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from finetune.arguments import check_arguments
from finetune.errors import ModelError, shorten_list
from finetune.model.activation_checkpointing import checkpoint_blocks, trainable_blocks
from finetune.model.backbone.backbone import Backbone, build_backbone
from finetune.model.count_multiplications import count_multiplications
from finetune.model.dense.heads import dense_head
from finetune.model.freezing.freeze import set_frozen_to_eval, set_trainable
from finetune.model.freezing.stages import split_into_stages
from finetune.model.frozen_prefix import Cut, forward_after_cut
from finetune.model.heads import Heads, HeadShape
from finetune.model.multitask.feature_taps import FeatureTaps
from finetune.model.multitask.sharing import Sharing
from finetune.model.temporal_pooling import build_pooling
from finetune.model.view_consensus import combine_views
from finetune.recipe.own_parts import is_own, part_name
from finetune.recipe.schema import Model
from finetune.recipe.tasks import DEFAULT_TASK, MultitaskSpec, OutputSpec, primary_task
from finetune.runtime.threads import fits_one_thread

EMBEDDING = "embedding"  # key of the heads' input among the outputs


class VideoClassifier(nn.Module):
    """uint8 clips (B, T, C, H, W), or with V views (B, V, T, C, H, W), to {task: logits (B, K)}.

    Views are combined by `consensus`; the result is then the log of probabilities (logits of them for independent
    classes). With `multilabel` classes are independent. `settings` are the recipe's section `model`. All stages of a
    new model are trainable, and it `has_new_heads` until they are trained.

    A multi-task model has a `multitask_spec`, and `sharing` from the backbone's features to each task's vector;
    without one the only task is `label`, with `classes`. Heads of numeric tasks return standardised numbers, which
    `outputs` scales back.
    """

    @check_arguments
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
        self.run_folder: Path | None = None  # of the run that trained these weights
        self.has_new_heads = True
        self.backbone = backbone
        steps = backbone.steps(num_frames)
        shared = settings.temporal if multitask_spec is None or multitask_spec.uses_shared_pooling else "mean"
        self.temporal, width = build_pooling(shared, backbone.width, num_frames=steps)
        self.sharing = None if multitask_spec is None else Sharing(backbone, multitask_spec, settings.temporal)
        self.heads = Heads(self._head_shapes(width), dropout=settings.dropout)
        if self.sharing is not None and self.sharing.pyramid is not None:
            for name in self.sharing.spec.dense_tasks:
                self.heads[name] = dense_head(self.sharing.spec, name, self.sharing.pyramid.shape, num_frames)
        self.stages = split_into_stages(self, self.stage_of_parameters())
        set_trainable(self, "all")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"backbone", "temporal", "heads"} and name in self.__dict__.get("_modules", {}):
            raise ModelError(
                f"{name} cannot be replaced in a model that is built, as its run folder would not say so; give your "
                "own module to build_model, as backbone=…, temporal=… or head=…"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        settings, size = self.settings, self.size
        parts = (part_name(part) for part in (settings.backbone, settings.temporal, settings.head))
        what = f"{len(self.classes)} classes" if self.multitask_spec is None else f"tasks {', '.join(self.outputs)}"
        count = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"VideoClassifier({', '.join(parts)}; {what}; {count:,} parameters; clips uint8 "
            f"(B, T={self.num_frames}, C=3, H={size}, W={size}))\n"
            "print(finetune.describe(model)) shows its stages, print(model.backbone.net) its layers"
        )

    def forward(self, clips: Tensor, cut: Cut | None = None, with_embedding: bool = False) -> dict[str, Tensor]:
        """Logits of clips, or with a `cut`, of activations (B, *cut.item) from `forward_before_cut`.

        `with_embedding` adds what the head is given, EMBEDDING (B, D), for one view and a single task.
        """
        if self.training:
            set_frozen_to_eval(self)
        if cut is not None:
            with checkpoint_blocks(self._blocks_to_checkpoint(), self.backbone.frames):
                return self._logits(forward_after_cut(self, clips, cut), with_embedding)
        _check_clips(clips)
        if clips.ndim == 5:
            return self._logits(self._features(clips), with_embedding)
        views = clips.shape[1]
        logits = self._logits(self._features(clips.flatten(0, 1)))
        return {task: self._combine_views(task, rows.unflatten(0, (-1, views))) for task, rows in logits.items()}

    def _logits(self, features: Tensor, with_embedding: bool = False) -> dict[str, Tensor]:
        if self.sharing is None:
            embedding = self.temporal(features)
            return self.heads(embedding) | ({EMBEDDING: embedding} if with_embedding is True else {})
        return self.heads(self.sharing(features, self.temporal))

    def train(self, mode: bool = True) -> Self:
        """Set training mode for trainable stages; frozen stages stay in evaluation mode."""
        super().train(mode)
        set_frozen_to_eval(self)
        return self

    def _features(self, clips: Tensor) -> Tensor:
        """The backbone's features; with `checkpointing`, the backward pass recomputes activations inside blocks."""
        with checkpoint_blocks(self._blocks_to_checkpoint(), self.backbone.frames):
            return self.backbone(clips)

    def _blocks_to_checkpoint(self) -> list[nn.Module]:
        return trainable_blocks(self) if self.checkpointing and torch.is_grad_enabled() else []

    def _head_shapes(self, width: int) -> dict[str, HeadShape]:
        shapes = {}
        for name, output in self.outputs.items():
            if output.is_dense:
                continue
            kind = (self.multitask_spec.tasks[name].head if self.multitask_spec else None) or self.settings.head
            own = None if self.sharing is None else self.sharing.width_of(name)
            shapes[name] = HeadShape(own or width, output.width, kind)
        return shapes

    def _combine_views(self, task: str, logits_BVK: Tensor) -> Tensor:
        if self.outputs[task].is_dense and logits_BVK.shape[1] > 1:
            raise ModelError(f"tasks.{task}: its positions are those of one view; set evaluate.views to 1")
        if not self.outputs[task].is_categorical:
            return logits_BVK.mean(1)
        separate = self.outputs[task].kind != "classify"
        probs_BK = combine_views(logits_BVK.transpose(0, 1), self.consensus, multilabel=separate)
        if separate:
            return probs_BK.logit(eps=1e-7)
        return probs_BK.clamp_min(torch.finfo(probs_BK.dtype).tiny).log()

    @property
    def device(self) -> torch.device:
        return self.backbone.mean.device

    @cached_property
    def fits_one_thread(self) -> bool:
        """Whether a forward pass of one clip is so small that one CPU thread is fastest."""
        return self.is_small_work()

    @property
    def runs_in_threads(self) -> bool:
        """Whether several threads should compute clips at once.

        A large network uses all threads itself. Hooks of tasks that read earlier stages, and perhaps the user's own
        modules, keep state of one pass.
        """
        own_modules = any(map(is_own, (self.settings.backbone, self.settings.temporal, self.settings.head)))
        return self.fits_one_thread and self.sharing is None and not own_modules

    def is_small_work(self, times: int = 1, *, cut: Cut | None = None) -> bool:
        """Whether one CPU thread is fastest for `times` forward passes of one clip, or of the part after a cut."""
        if self.device.type != "cpu" or self.backbone.net._compiled_call_impl is not None:
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
        """What the head of each task returns."""
        if self.multitask_spec is not None:
            return self.multitask_spec.outputs
        return {DEFAULT_TASK: OutputSpec("multilabel" if self.multilabel else "classify", self.classes)}

    @property
    def taps(self) -> FeatureTaps:
        """Outputs of stages that tasks read before the backbone's end; empty where none does."""
        return FeatureTaps() if self.sharing is None else self.sharing.taps

    def task_parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters of each task's own head and reader, {task: {name: parameter}}."""
        own = {
            task: {f"head.{name}": parameter for name, parameter in head.named_parameters()}
            for task, head in self.heads.items()
        }
        readers = {} if self.sharing is None else dict(self.sharing.readers.items())
        for task, reader in readers.items():
            own[task] |= {f"reader.{name}": parameter for name, parameter in reader.named_parameters()}
        return own

    def stage_of_parameters(self) -> dict[str, str]:
        """The stage of each parameter, from input to output."""
        named = {f"backbone.net.{name}": stage for name, stage in self.backbone.stage_of.items()}
        named |= {f"backbone.merges.{name}": "temporal" for name, _ in self.backbone.merges.named_parameters()}
        sharing = {} if self.sharing is None else dict(self.sharing.named_parameters())
        named |= {f"sharing.{name}": "pyramid" for name in sharing if name.startswith("pyramid.")}
        named |= {f"temporal.{name}": "temporal" for name, _ in self.temporal.named_parameters()}
        named |= {f"sharing.{name}": "temporal" for name in sharing if not name.startswith("pyramid.")}
        named |= {f"heads.{name}": "head" for name, _ in self.heads.named_parameters()}
        return named


@check_arguments
def build_model(
    backbone: str | Callable[..., Any],
    classes: Sequence[str],
    *,
    weights: str = "imagenet",
    temporal: str | Callable[..., Any] = "mean",
    head: str | Callable[..., Any] = "linear",
    dropout: float = 0.2,
    num_frames: int = 8,
    size: int | None = None,
    class_counts: Sequence[int] | None = None,
    multitask_spec: MultitaskSpec | None = None,
    several: MultitaskSpec | None = None,
) -> VideoClassifier:
    """A classifier of `classes` on a pretrained backbone, or with `multitask_spec` a multi-task model.

    The settings are those of `Model`; `weights` is imagenet, bundled, none or a file, `dropout` 0 or more and below 1.
    `num_frames` is T of the clips, `size` their height and width in pixels, by default as in pretraining. Heads are
    initialised at random from PyTorch's global generator; with `class_counts`, the number of training rows per class,
    the bias starts at the class prior. `backbone`, `temporal` and `head` may be own modules, which are copied, or
    functions or classes that make them: see docs/python.md. `several` is the deprecated name of `multitask_spec`.
    Raises ModelError for an unknown backbone, missing weights, fewer than two classes, or a part that does not fit, and
    RecipeError for other wrong settings.
    """
    if several is not None:
        _warn_renamed("build_model(several=...)", "build_model(multitask_spec=...)")
        multitask_spec = several
    settings = Model(backbone=backbone, weights=weights, temporal=temporal, head=head, dropout=dropout)
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
    """A model by a recipe's section `model`; see `build_model`.

    `clips` is for multi-label tasks: the number of training rows that `class_counts` were counted in. `class_counts`
    are not used with a `multitask_spec`.
    """
    if num_frames < 1:
        raise ModelError(f"num_frames is {num_frames}; a clip has at least one frame")
    _check_names(classes, multitask_spec)
    if class_counts is not None and len(class_counts) != len(classes):
        raise ModelError(f"class_counts has {len(class_counts)} numbers for {len(classes)} classes")
    backbone = build_backbone(
        settings.backbone,
        weights=settings.weights,
        size=size,
        num_frames=num_frames,
        drop_path=settings.drop_path,
        fusion=settings.fusion,
        sharing="hard" if multitask_spec is None else multitask_spec.multitask.sharing,
    )
    model = VideoClassifier(
        backbone, classes=classes, settings=settings, num_frames=num_frames, multitask_spec=multitask_spec
    )
    for name, output in model.outputs.items():
        if not (output.is_categorical or output.is_dense):
            model.heads.init_bias_to_zero(name)
    if class_counts is not None:
        model.heads.init_bias_from_prior(DEFAULT_TASK, class_counts, clips=clips)
    return model


def _check_clips(clips: Tensor) -> None:
    """Raise ModelError for what are no clips (B, T, 3, H, W) or (B, V, T, 3, H, W), or has not values from 0 to 255."""
    if not isinstance(clips, Tensor) or clips.ndim not in {5, 6} or clips.shape[-3] != 3 or 0 in clips.shape:
        given = tuple(clips.shape) if isinstance(clips, Tensor) else type(clips).__name__
        raise ModelError(f"clips are a tensor (B, T, 3, H, W), or with views (B, V, T, 3, H, W), not {given}")
    if clips.dtype != torch.uint8:
        low, high = (float(value) for value in clips.aminmax())
        if low < 0 or 0 < high <= 1:
            raise ModelError(f"clips have values from 0 to 255, not {low:g} to {high:g}; the model normalizes them")


def _check_names(classes: Sequence[str], multitask_spec: MultitaskSpec | None) -> None:
    """Raise ModelError for names of tasks that modules cannot have, or classes of which there are too few."""
    if multitask_spec is None:
        if len(set(classes)) < 2 or len(set(classes)) < len(classes):
            raise ModelError(
                f"a classifier needs two or more different classes; got {shorten_list(list(classes)) or 'none'}"
            )
        return
    taken = [name for name in multitask_spec.tasks if hasattr(Heads({}, dropout=0), name)]
    if taken:
        raise ModelError(f"a task cannot be named {shorten_list(taken)}: PyTorch uses this name; choose another")


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated and will be removed in the next version; use {new}", DeprecationWarning, 3)
