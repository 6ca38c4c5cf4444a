"""The recipe: its sections as frozen values, with types, ranges and defaults of all keys.

A recipe is one YAML file, read by `recipe/load.py`. All of it is checked before anything starts.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from finetune.recipe.contrastive import check_contrastive
from finetune.recipe.fields import (
    FileOrName,
    Fraction,
    Head,
    LocalPath,
    NonNegativeFloat,
    Pooling,
    PositiveFloat,
    PositiveInt,
    Section,
)
from finetune.recipe.frame_tasks import check_frame_tasks
from finetune.recipe.input_sections import Augment, Clip, Data
from finetune.recipe.own_parts import OwnPart
from finetune.recipe.tasks import Multitask, Task, check_tasks

DEFAULT_BATCH_SIZE = 8  # that the learning rates of recipes are for
MAX_VIEWS = 1000
LrSchedule = Literal["cosine", "linear", "constant", "step", "one_cycle", "slanted_triangular"]


def _off(value: object) -> object:
    """`off` for False: YAML reads the bare word `off` as false."""
    return "off" if value is False else value


class Model(Section):
    """Backbone, its weights, temporal pooling and head."""

    backbone: str | OwnPart = Field("resnet50.a1_in1k", description="a timm name, or torchvision/<name>")
    weights: FileOrName = Field("imagenet", description="imagenet | bundled | none | a file")
    temporal: Pooling | OwnPart = Field(
        "mean", description="pooling over time. mean, max, topk and vlad ignore the order of frames"
    )
    head: Head | OwnPart = Field(
        "linear",
        description="linear: one layer; mlp: one hidden layer; cosine: cosine similarity to one vector per class",
    )
    dropout: Fraction = Field(0.2, description="dropout rate before the head")
    drop_path: Fraction = Field(
        0.0, description="stochastic depth: rate at the backbone's last residual block, lower before it"
    )
    fusion: Literal["late", "early", "slow", "tsm", "grey_stack", "two_stream"] = Field(
        "late",
        description="how frames interact inside an image backbone. late: not at all; early: in the first layer; "
        "slow: pairwise between stages; tsm: temporal shift of channels; grey_stack: three successive frames in grey "
        "are one picture's channels; two_stream: the middle one of three frames in colour, and their grey stack",
    )


class Phase(Section):
    """Epochs with one set of trained stages. Keys that are null take the value in `train`."""

    unfreeze: str | float | tuple[str, ...] = Field(
        "all",
        description="what is trained. head: all new layers; a stage name: that stage and all later ones; last(n): "
        "the last n stages; 0.5: that fraction of the depth; all; match(regex): by parameter name; "
        "lora(r=8); or a list of these, where a stage name means that stage alone",
    )
    epochs: PositiveInt | None = Field(None, description="passes over the training clips; 5 where steps is null too")
    steps: PositiveInt | None = Field(None, description="optimizer steps, instead of epochs")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of new layers: temporal pooling and head")
    backbone_lr_scale: PositiveFloat = Field(1.0, description="factor on the learning rate of the whole backbone")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="layer-wise learning-rate decay: factor from each stage to the one before it"
    )
    stage_lr: dict[str, PositiveFloat] = Field(
        {}, description="peak learning rates of single stages, for example {layer4: 1e-4}"
    )
    batch_norm: Literal["frozen", "partial", "train"] = Field(
        "frozen",
        description="batch-norm statistics of trained stages. frozen: keep; partial: update only those of the "
        "network's first batch norm (partial BN); train: update",
    )
    augment: Literal["none", "light", "strong"] | None = Field(
        None, description="augmentation preset of this phase; null: augment.preset"
    )
    keep_optimizer_state: bool = Field(
        True, description="keep the optimizer's state of parameters that were trained in the previous phase too"
    )
    optimizer: str | None = Field(None, description="null: train.optimizer")
    weight_decay: NonNegativeFloat | None = Field(None, description="null: train.weight_decay")
    schedule: LrSchedule | None = Field(None, description="null: train.schedule")
    warmup: Fraction | None = Field(None, description="null: train.warmup")
    l2_sp: NonNegativeFloat | None = Field(None, description="null: train.l2_sp")

    @model_validator(mode="after")
    def _one_length(self) -> Phase:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both set; keep one of them")
        return self

    @property
    def words(self) -> str:
        """What is trained, as one line of text."""
        return ", ".join(self.unfreeze) if isinstance(self.unfreeze, tuple) else str(self.unfreeze)

    def num_epochs(self, batches: int) -> int:
        """Passes over the training clips, of `batches` steps each; with `steps`, the last may be shorter."""
        return -(-self.steps // batches) if self.steps is not None else self.epochs or 5

    def num_steps(self, batches: int) -> int:
        """Optimizer steps, with `batches` steps per pass over the training clips."""
        return self.steps or self.num_epochs(batches) * batches

    def with_train_defaults(self, train: Train) -> Phase:
        """This phase, with keys that are null taken from `train`."""
        inherited = ("optimizer", "weight_decay", "schedule", "warmup", "l2_sp")
        return self.model_copy(update={name: getattr(train, name) for name in inherited if getattr(self, name) is None})


class Schedule(Section):
    """A built-in schedule of phases, by name; `finetune recipes phases` prints its phases."""

    schedule: str = Field(
        description="head_only, lp_ft, head_then_all, full, gradual, bitfit or surgical:<stage>; `phases: lp_ft` is "
        "short for `phases: {schedule: lp_ft}`"
    )
    epochs: PositiveInt = Field(
        20, description="of all phases together (gradual: at least `epochs_per_stage` per phase)"
    )
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of new layers")
    backbone_lr: PositiveFloat = Field(
        1e-4, description="peak learning rate of the backbone; of everything in a phase that follows a linear probe"
    )
    epochs_per_stage: PositiveInt = Field(2, description="epochs between unfreezing one stage and the next (gradual)")


class EarlyStopping(Section):
    """When to end a phase before its last epoch."""

    patience: PositiveInt = Field(5, description="epochs without improvement after which a phase ends")
    metric: Literal["val_top1", "val_loss", "val_map", "val_score"] = Field(
        "val_loss", description="metric that has to improve"
    )
    min_delta: NonNegativeFloat = Field(0.0, description="smallest change that counts as an improvement")


class Train(Section):
    """Optimizer, loss and other settings of all phases."""

    batch_size: PositiveInt | Literal["auto"] = Field(
        DEFAULT_BATCH_SIZE,
        description="clips per batch and process; auto: as many as fit on the GPU, and learning rates are scaled",
    )
    accumulate: PositiveInt = Field(1, description="gradient accumulation: batches per optimizer step")
    sampler: Literal["shuffle", "balanced", "by_task"] | OwnPart = Field(
        "shuffle",
        description="shuffle: each clip once per epoch; balanced: classes equally often; by_task: labels of all "
        "tasks equally often (a clip at most 5 times)",
    )
    optimizer: str = Field("adamw", description="a timm optimizer: adamw, sgd (Nesterov momentum), lion, lars, lamb …")
    weight_decay: NonNegativeFloat = Field(0.01, description="weight decay (decoupled in adamw)")
    schedule: LrSchedule = Field(
        "cosine",
        description="learning-rate schedule after warmup; step: a tenth of the learning rate after 40 % and 80 % of "
        "the steps",
    )
    warmup: Fraction = Field(0.1, description="fraction of steps in which the learning rate rises from zero")
    schedule_over: Literal["phase", "run"] = Field(
        "phase", description="phase: each phase has its own warmup and schedule; run: one schedule over all phases"
    )
    loss: Literal["cross_entropy", "focal", "class_balanced", "bce", "supervised_contrastive"] | OwnPart = Field(
        "cross_entropy",
        description="focal: clips already classified correctly weigh less; class_balanced: rare classes weigh more; "
        "bce: each class by itself, as always with data.multilabel; supervised_contrastive: cross entropy, plus a loss "
        "that moves embeddings of one class together, for search; batches then have clips of a class in pairs",
    )
    temperature: PositiveFloat = Field(
        0.1, description="of loss supervised_contrastive: cosine similarities are divided by it"
    )
    label_smoothing: Fraction = Field(0.0, description="label smoothing of the training targets")
    clip_grad: PositiveFloat | None = Field(None, description="maximum norm of the gradient")
    l2_sp: NonNegativeFloat = Field(
        0.0,
        description="L2-SP: strength of the pull of backbone weights to their pretrained values, instead of weight "
        "decay; for example 0.01",
    )
    ema: Fraction = Field(
        0.0,
        description="decay of an exponential moving average of the weights, which is validated and saved; for "
        "example 0.999",
    )
    precise_bn: bool = Field(
        False, description="precise BN: compute updated batch-norm statistics again at the end, over many clips"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="mixed precision of forward and backward passes; auto: bf16 where the hardware has it, else fp32",
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: a GPU where there is one")
    head_start: Literal["probe", "random"] = Field(
        "probe",
        description="first weights of a new head. probe: a linear probe on the frozen features of the training clips, "
        "for a linear head on a pooling without weights of its own, whose inputs are standardised (LP-FT); random: "
        "random weights",
    )
    max_nan_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="steps with a non-finite gradient that are skipped before the run ends"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="end a phase that no longer improves on val, for example {patience: 5}"
    )
    save_every_minutes: PositiveFloat = Field(
        15,
        description="minutes between checkpoints inside an epoch; a killed run resumes from the latest one, or from "
        "its last epoch",
    )
    sync_batch_norm: bool = Field(
        False, description="with several GPUs: compute batch-norm statistics over the clips of all of them"
    )
    keep_checkpoints: Annotated[int, Field(ge=0)] = Field(
        0, description="number of last epochs whose weights are kept, in addition to best and last"
    )
    log_gradients: bool = Field(
        False, description="histograms of each stage's gradients in TensorBoard, once per epoch"
    )
    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        (), description="also log to these, where they are installed, for example [wandb]"
    )
    cache: Annotated[Literal["auto", "off", "features", "boundary"], BeforeValidator(_off)] = Field(
        "auto",
        description="cache outputs of frozen stages on disk. features: of a wholly frozen backbone; boundary: of "
        "any frozen part, up to the first trained stage; auto: boundary, where it is expected to save "
        "time; off: never",
    )
    cache_dir: LocalPath | None = Field(
        None, description="folder of the cache, shared by all runs; null: finetune/features in the user's cache folder"
    )
    cache_budget_gb: PositiveFloat = Field(
        20,
        description="maximum size of that folder in GB: what was not used for longest is deleted, and what does not "
        "fit is not cached",
    )
    cache_dtype: Literal["auto", "fp16", "bf16", "fp32"] = Field(
        "auto", description="number format of cached values; auto: 16 bits, bf16 if computed in bf16, else fp16"
    )
    activation_checkpointing: bool = Field(
        False,
        description="compute activations of trained stages again in the backward pass: less memory, about a third "
        "more time",
    )
    compile: bool | Literal["auto"] = Field(
        False,
        description="torch.compile the backbone: minutes before the first step, then faster steps; auto: where it "
        "is measured to save time in this run",
    )

    @model_validator(mode="after")
    def _compiles_or_recomputes(self) -> Train:
        if self.compile is not False and self.activation_checkpointing:
            raise ValueError("compile and activation_checkpointing cannot be combined; set one of them to false")
        if self.precise_bn and self.sync_batch_norm:
            raise ValueError("precise_bn and sync_batch_norm cannot be combined; set one of them to false")
        return self


class Evaluate(Section):
    """How a trained model is evaluated; `predict` uses the same settings."""

    views: Annotated[int, Field(ge=1, le=MAX_VIEWS)] = Field(
        1, description="clips sampled per video; their predictions are combined"
    )
    consensus: Literal["probs", "logits", "max"] = Field(
        "probs",
        description="how views are combined. probs: mean probability; logits: mean logit; max: largest probability of "
        "each class",
    )
    metric: OwnPart | None = Field(None, description="your own metric, reported beside the others")
    unknown: tuple[str, ...] = Field(
        (),
        description="classes that are left out of training; their clips show how well the model tells what is none of "
        "its classes, for example [other]",
    )
    timeline: bool = Field(
        False, description="after training, also find the events of the annotated recordings, and evaluate them"
    )
    retrieval: bool = Field(
        False, description="also evaluate how well clips find others of their class by the vectors before the head"
    )


def _phases_tag(phases: object) -> str:
    return "built-in" if isinstance(phases, dict | Schedule) else "written out"


def _expand_short_form(phases: object) -> object:
    """The name of a schedule as a schedule, and one phase as a list of one."""
    if isinstance(phases, Phase):
        return (phases,)
    return {"schedule": phases} if isinstance(phases, str) else phases


Phases = Annotated[
    Annotated[Annotated[tuple[Phase, ...], Field(min_length=1)], Tag("written out")]
    | Annotated[Schedule, Tag("built-in")],
    Discriminator(_phases_tag),
]


class Recipe(Section):
    """All settings of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="seed of the split, the new layers' weights, the order of clips and the augmentation"
    )
    data: Data = Data()
    clip: Clip = Clip()
    augment: Augment = Augment()
    model: Model = Model()
    tasks: dict[str, Task] = Field({}, description="tasks by name; none: one task, `label`, of the classes in the data")
    multitask: Multitask = Multitask()
    phases: Annotated[Phases, BeforeValidator(_expand_short_form)] = (Phase(unfreeze="head"),)
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _tasks_go_together(self) -> Recipe:
        if self.tasks and self.data.multilabel:
            raise ValueError("data.multilabel is for recipes without tasks; give the task kind: multilabel")
        if self.evaluate.unknown and (self.tasks or self.data.multilabel):
            other = "recipes with tasks" if self.tasks else "data.multilabel, where a clip may also have known classes"
            raise ValueError(f"evaluate.unknown takes one class per clip; it is not for {other}")
        check_tasks(self.tasks, self.multitask)
        check_frame_tasks(self)
        check_contrastive(self)
        return self
