"""What a run is made of: the recipe, its sections as frozen values, and their defaults.

A recipe is one whole YAML file (`recipe/load.py` reads it); keys, types and ranges are checked in full before
anything starts.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from finetune.recipe.fields import (
    FileOrName,
    Fraction,
    Head,
    LocalPath,
    NonNegativeFloat,
    PathOrUrl,
    Pooling,
    PositiveFloat,
    PositiveInt,
    Section,
)
from finetune.recipe.tasks import Multitask, Task, check_tasks
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS

DEFAULT_BATCH_SIZE = 8  # what the rates of recipes are for
LrSchedule = Literal["cosine", "linear", "constant", "step", "one_cycle", "slanted_triangular"]


def _off(value: object) -> object:
    """YAML takes the bare word `off` for false."""
    return "off" if value is False else value


class Data(Section):
    """Where the labelled videos are, and how rows without a split are divided."""

    manifest: PathOrUrl | None = Field(
        None, description="CSV with path,label[,split][,group], paths relative to it; or s3://…"
    )
    folder: LocalPath | None = Field(None, description="folder <class>/* or <split>/<class>/*")
    group_pattern: str | None = Field(
        None, description="regular expression with one (...) that finds the group in a file's path"
    )
    multilabel: bool = Field(
        False, description="a clip may show several classes, or none: the column label lists them, a;b;c"
    )
    image_sequences: bool = Field(
        True,
        description="a folder of numbered images below its class's folder is one clip, its images the frames in order "
        "of their numbers; false: each image is a clip",
    )
    image_rate: PositiveFloat = Field(DEFAULT_IMAGE_FPS, description="frames a second of folders of numbered images")
    packed: PathOrUrl | None = Field(
        None, description="folder that `finetune data pack` wrote, or s3://…: read frames from there"
    )
    val: Fraction = Field(0.15, description="share for validation, where the data gives no splits")
    test: Fraction = Field(0.2, description="share for testing, where the data gives no splits")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="files that cannot be read: stop before training, or leave them out and list them"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", description="loading processes")
    decode_timeout: Annotated[float, Field(gt=0, le=1e6)] = Field(
        60, description="seconds after which a file that a loading process hangs on is skipped, and listed"
    )

    @model_validator(mode="after")
    def _group_pattern_has_one_group(self) -> Data:
        if self.group_pattern is not None:
            try:
                groups = re.compile(self.group_pattern).groups
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"group_pattern {self.group_pattern!r} is no regular expression: {error}") from None
            if groups != 1:
                raise ValueError(f"group_pattern {self.group_pattern!r} needs exactly one (...)")
        return self


class Clip(Section):
    """Which frames of a video the model sees, and at what size."""

    num_frames: PositiveInt = Field(8, description="T, frames a clip")
    sampling: Literal["segments", "dense", "uniform", "fps"] = Field(
        "segments",
        description="one frame from each of T equal parts, T frames in a row, T from first to last, or T at a rate",
    )
    frame_stride: PositiveInt = Field(1, description="source frames from one sampled frame to the next (dense)")
    fps: PositiveFloat | None = Field(None, description="frames a second, by the videos' own timestamps (fps)")
    short_clips: Literal["repeat_last", "loop", "error"] = Field(
        "repeat_last",
        description="a video shorter than the clip: stay on its last frame, or start anew (dense, fps; the others "
        "repeat frames in order), or fail",
    )
    size: PositiveInt | None = Field(None, description="pixels a side; null: what the backbone was trained at")
    fit: Literal["crop", "squash"] = Field(
        "crop",
        description="keep the aspect ratio and crop the middle, or squash the whole picture to a square",
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> Clip:
        if self.num_frames * (self.size or 224) ** 2 > 2**31:
            raise ValueError(f"num_frames is {self.num_frames} and size {self.size}: a clip of more than 6 GB")
        if self.sampling == "fps" and self.fps is None:
            raise ValueError("sampling is 'fps' and fps is not set; for example fps: 10")
        return self


class Augment(Section):
    """What is drawn anew for each training clip; the same draw for all of its frames."""

    preset: Literal["none", "light", "strong"] = "light"
    flip: bool = Field(True, description="mirror at random; false where left and right are the label")
    speed: tuple[PositiveFloat, PositiveFloat] = Field(
        (1.0, 1.0), description="range of factors by which clips are sped up, as 0.8, 1.25"
    )
    frame_dropout: Fraction = Field(0.0, description="share of a clip's frames replaced by the one before")
    crop: Literal["random_resized", "multi_scale", "center"] | None = Field(
        None, description="instead of the preset's: any box, one of TSN's, or the middle as in evaluation"
    )
    color_jitter: Fraction | None = Field(
        None, description="instead of the preset's: largest change of brightness, contrast and saturation"
    )
    auto_augment: Literal["none", "trivial", "randaugment"] | None = Field(
        None, description="instead of the preset's: TrivialAugment or RandAugment"
    )
    random_erasing: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="instead of the preset's: share of clips that lose a box"
    )
    blur: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of clips that are blurred")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="degrees, to either side")
    cached_views: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="so many fixed draws of each clip, taken in turn, in phases with a frozen part; null: 8 with the "
        "preset strong, else 4 (1 where nothing is drawn), and with train.cache off each epoch draws anew",
    )
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="alpha of the blend of two clips, as 0.2, or of what a frozen part gives for them; training top-1 "
        "then counts the greater share's label",
    )
    cutmix: Annotated[float, Field(ge=0)] = Field(
        0.0, description="alpha of the box, the same in all frames, that comes from another clip, as 1.0"
    )

    @model_validator(mode="after")
    def _speed_is_a_range(self) -> Augment:
        if self.speed[0] > self.speed[1]:
            raise ValueError(f"speed {list(self.speed)} is no range; write the lower one first")
        return self


class Model(Section):
    """Backbone, its weights, temporal pooling and head."""

    backbone: str = Field("resnet50.a1_in1k", description="a timm name, or torchvision/<name>")
    weights: FileOrName = Field("imagenet", description="imagenet | bundled | none | a file")
    temporal: Pooling = Field("mean", description="pooling over T; all but the first four know the order of frames")
    head: Head = Field(
        "linear", description="one layer, one more before it, or the angles to a direction of each class"
    )
    dropout: Fraction = Field(0.2, description="before the head")
    drop_path: Fraction = Field(
        0.0, description="share of clips that skip the backbone's last residual branch in training, less before it"
    )
    fusion: Literal["late", "early", "slow", "tsm"] = Field(
        "late",
        description="how frames meet inside an image backbone: not at all, in the first layer, two by two between "
        "stages, or by channels shifted in time",
    )


class Phase(Section):
    """Epochs with one set of learning stages. What is null is as `train` says."""

    unfreeze: str | float | tuple[str, ...] = Field(
        "all",
        description="head (all that is new), a stage (and all after it), last(n), a share of the depth as 0.5, all, "
        "match(regex) on parameter names, lora(r=8), or a list of these: each stage alone",
    )
    epochs: PositiveInt | None = Field(None, description="passes over the training clips; 5 where steps is null too")
    steps: PositiveInt | None = Field(None, description="instead of epochs: updates of the weights")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of what is new, temporal pooling and head")
    backbone_lr_scale: PositiveFloat = Field(1.0, description="factor on the rate of the whole backbone")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor on the rate from each stage to the one before it"
    )
    stage_lr: dict[str, PositiveFloat] = Field({}, description="peak rates of single stages, as {layer4: 1e-4}")
    batch_norm: Literal["frozen", "partial", "train"] = Field(
        "frozen",
        description="statistics of learning stages: kept, kept but for the network's first, or updated",
    )
    augment: Literal["none", "light", "strong"] | None = Field(
        None, description="preset of this phase; null: augment.preset"
    )
    keep_optimizer_state: bool = Field(
        True, description="go on with the optimizer's averages of parameters that learnt in the phase before"
    )
    optimizer: str | None = Field(None, description="null: train.optimizer")
    weight_decay: NonNegativeFloat | None = Field(None, description="null: train.weight_decay")
    schedule: LrSchedule | None = Field(None, description="null: train.schedule")
    warmup: Fraction | None = Field(None, description="null: train.warmup")
    l2_sp: NonNegativeFloat | None = Field(None, description="null: train.l2_sp")

    @model_validator(mode="after")
    def _one_length(self) -> Phase:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both set; a phase has one length")
        return self

    @property
    def words(self) -> str:
        """What learns, as a line of text."""
        return ", ".join(self.unfreeze) if isinstance(self.unfreeze, tuple) else str(self.unfreeze)

    def num_epochs(self, batches: int) -> int:
        """Passes over the training clips, of `batches` steps each; the last may end early where `steps` says so."""
        return -(-self.steps // batches) if self.steps is not None else self.epochs or 5

    def num_steps(self, batches: int) -> int:
        """Updates of the weights, with so many batches to a pass over the training clips."""
        return self.steps or self.num_epochs(batches) * batches

    def with_train_defaults(self, train: Train) -> Phase:
        """This phase with all that it leaves open taken from `train`."""
        open_ones = ("optimizer", "weight_decay", "schedule", "warmup", "l2_sp")
        return self.model_copy(update={name: getattr(train, name) for name in open_ones if getattr(self, name) is None})


class Schedule(Section):
    """A built-in list of phases, by name; `finetune recipes phases` prints it."""

    schedule: str = Field(
        description="head_only, lp_ft, head_then_all, full, gradual, bitfit or surgical:<stage>; `phases: lp_ft` "
        "is short for it",
    )
    epochs: PositiveInt = Field(
        20, description="of all phases together (gradual: at least `epochs_per_stage` for each)"
    )
    lr: PositiveFloat = Field(1e-3, description="of what is new")
    backbone_lr: PositiveFloat = Field(1e-4, description="of the backbone; of everything where it follows a probe")
    epochs_per_stage: PositiveInt = Field(2, description="epochs from one unfrozen stage to the next (gradual)")


class EarlyStopping(Section):
    """When a phase ends before its last epoch."""

    patience: PositiveInt = Field(5, description="epochs of a phase without a better one, after which it ends")
    metric: Literal["val_top1", "val_loss", "val_map", "val_score"] = "val_loss"
    min_delta: NonNegativeFloat = Field(0.0, description="by how much an epoch has to be better to count as better")


class Train(Section):
    """The optimizer and what holds for all phases."""

    batch_size: PositiveInt | Literal["auto"] = Field(
        DEFAULT_BATCH_SIZE,
        description="clips that are computed together, in each process; auto: as many as a GPU holds, the rates follow",
    )
    accumulate: PositiveInt = Field(
        1, description="so many times batch_size clips make one step of the optimizer, in no more memory"
    )
    sampler: Literal["shuffle", "balanced", "by_task"] = Field(
        "shuffle",
        description="an epoch shows each clip once, or all classes, or the labels of all tasks, equally often (a clip "
        "at most 5 times)",
    )
    optimizer: str = Field("adamw", description="a name of timm's: adamw, sgd (Nesterov momentum), lion, lars, lamb …")
    weight_decay: NonNegativeFloat = 0.01
    schedule: LrSchedule = Field(
        "cosine",
        description="how the rate goes on after warming up: cosine, linear, constant, step (a tenth after 40 % and "
        "80 %), one_cycle, slanted_triangular",
    )
    warmup: Fraction = Field(0.1, description="share of the steps over which the rate rises from zero")
    schedule_over: Literal["phase", "run"] = Field(
        "phase", description="each phase warms up and falls on its own, or one schedule runs through all of them"
    )
    loss: Literal["cross_entropy", "focal", "class_balanced", "bce"] = Field(
        "cross_entropy",
        description="focal: clips that are right already count less; class_balanced: rare classes count more; "
        "bce: each class by itself, as all of them with data.multilabel",
    )
    label_smoothing: Fraction = 0.0
    clip_grad: PositiveFloat | None = Field(None, description="largest norm of the gradient")
    l2_sp: NonNegativeFloat = Field(
        0.0, description="L2-SP: pull of the backbone towards its pretrained weights, instead of weight decay; as 0.01"
    )
    ema: Fraction = Field(
        0.0, description="decay of a running average of the weights, which is what is validated and kept; as 0.999"
    )
    precise_bn: bool = Field(
        False, description="measure batch norm's statistics anew at the end, where they were updated (precise BN)"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu"] = Field("auto", description="auto takes the GPU when there is one")
    max_nan_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="steps whose gradient is not a number that are left out, before the run ends"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="end a phase that no longer gets better on val, as {patience: 5}"
    )
    save_every_minutes: PositiveFloat = Field(
        15, description="a run that is killed goes on from its last epoch, or from so many minutes ago"
    )
    sync_batch_norm: bool = Field(
        False, description="with several GPUs: batch norm that learns its statistics sees the clips of all of them"
    )
    keep_checkpoints: Annotated[int, Field(ge=0)] = Field(
        0, description="the weights of so many of the last epochs are kept too, beside best and last"
    )
    log_gradients: bool = Field(False, description="histograms of each stage's gradients, each epoch, in TensorBoard")
    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        (), description="also write to these, where they are installed, as [wandb]"
    )
    cache: Annotated[Literal["auto", "off", "features", "boundary"], BeforeValidator(_off)] = Field(
        "auto",
        description="frozen work is done once: what enters the first learning stage is kept on the disk, where that is "
        "forecast to save time (auto), of a wholly frozen backbone (features) or of any frozen part (boundary), or "
        "never (off)",
    )
    cache_dir: LocalPath | None = Field(
        None, description="folder of what is kept, for all runs; null: finetune/features in the user's cache"
    )
    cache_budget_gb: PositiveFloat = Field(
        20, description="of that folder; what was not used for longest gives way, and what does not fit is not kept"
    )
    cache_dtype: Literal["auto", "fp16", "bf16", "fp32"] = Field(
        "auto", description="to what kept numbers are rounded; auto: 16 bits, as they are computed or else fp16"
    )
    activation_checkpointing: bool = Field(
        False,
        description="activations of learning stages are computed again in the backward pass: less memory, about a "
        "third more time",
    )
    compile: bool | Literal["auto"] = Field(
        False,
        description="compile the backbone: minutes before the first step, then faster ones; auto: where it is measured "
        "to pay in the steps of this run",
    )

    @model_validator(mode="after")
    def _compiles_or_recomputes(self) -> Train:
        if self.compile is not False and self.activation_checkpointing:
            raise ValueError("compile and activation_checkpointing do not go together; set one of them to false")
        if self.precise_bn and self.sync_batch_norm:
            raise ValueError("precise_bn is done by one process, and sync_batch_norm needs all; set one to false")
        return self


class Evaluate(Section):
    """How a trained model is tested; predict does the same."""

    views: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="clips a video whose answers become one")
    consensus: Literal["probs", "logits", "max"] = Field(
        "probs",
        description="over views: the mean of probabilities, of logits, or the largest probability of each class",
    )


def _phases_tag(phases: object) -> str:
    return "built-in" if isinstance(phases, dict | Schedule) else "written out"


def _schedule_from_name(phases: object) -> object:
    return {"schedule": phases} if isinstance(phases, str) else phases


Phases = Annotated[
    Annotated[Annotated[tuple[Phase, ...], Field(min_length=1)], Tag("written out")]
    | Annotated[Schedule, Tag("built-in")],
    Discriminator(_phases_tag),
]


class Recipe(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data = Data()
    clip: Clip = Clip()
    augment: Augment = Augment()
    model: Model = Model()
    tasks: dict[str, Task] = Field(
        {}, description="what is told of a clip, each by its name; none: one task, `label`, as the data say"
    )
    multitask: Multitask = Multitask()
    phases: Annotated[Phases, BeforeValidator(_schedule_from_name)] = (Phase(unfreeze="head"),)
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _tasks_go_together(self) -> Recipe:
        if self.tasks and self.data.multilabel:
            raise ValueError("data.multilabel is for recipes without tasks; give the task kind: multilabel")
        check_tasks(self.tasks, self.multitask)
        return self
