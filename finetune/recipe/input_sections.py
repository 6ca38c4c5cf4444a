"""The recipe's sections about the input: `data`, `clip` and `augment`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune.recipe.fields import (
    Fraction,
    LocalPath,
    NonNegativeFloat,
    PathOrUrl,
    PositiveFloat,
    PositiveInt,
    Section,
)
from finetune.recipe.own_parts import OwnPart
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS


class Data(Section):
    """Where the labelled videos are, and how rows without a split are divided into splits."""

    manifest: PathOrUrl | None = Field(
        None, description="CSV file with path,label[,split][,group][,start,end], paths relative to the file; or s3://…"
    )
    folder: LocalPath | None = Field(None, description="folder with <class>/* or <split>/<class>/*")
    group_pattern: str | None = Field(
        None, description="regular expression with one (...), which matches the group in a file's path"
    )
    multilabel: bool = Field(
        False, description="a clip may have several classes or none: the column label lists them, a;b;c"
    )
    image_sequences: bool = Field(
        True,
        description="true: a folder of numbered images inside a class folder is one clip, its frames in numeric "
        "order; false: each image is a clip",
    )
    image_rate: PositiveFloat = Field(DEFAULT_IMAGE_FPS, description="frames per second of folders of numbered images")
    packed: PathOrUrl | None = Field(
        None, description="folder written by `finetune data pack`, or s3://…; frames are read from it"
    )
    background: str | None = Field(
        None,
        min_length=1,
        description="name of a class for unlabelled time: rows of it are drawn from recordings with start and end, so "
        "that the model learns what is none of the classes; with multilabel they are rows without a class",
    )
    background_share: Fraction = Field(0.25, description="fraction of all rows that are background")
    background_margin: NonNegativeFloat = Field(
        0.0, description="seconds that a background row keeps from labelled intervals, where their borders are rough"
    )
    val: Fraction = Field(0.15, description="fraction for validation, where the data has no splits")
    test: Fraction = Field(0.2, description="fraction for testing, where the data has no splits")
    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="for files that cannot be read. fail: stop before training; skip: leave them out and list them",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", description="number of loading processes")
    decode_timeout: Annotated[float, Field(gt=0, le=1e6)] = Field(
        60, description="seconds until a file whose decoding hangs is skipped and listed"
    )

    @model_validator(mode="after")
    def _group_pattern_has_one_group(self) -> Data:
        if self.group_pattern is not None:
            try:
                groups = re.compile(self.group_pattern).groups
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"group_pattern {self.group_pattern!r} is not a valid regular expression: {error}"
                ) from None
            if groups != 1:
                raise ValueError(f"group_pattern {self.group_pattern!r} needs exactly one group (...)")
        return self


class Clip(Section):
    """Which frames of a video are sampled, and at what size."""

    num_frames: PositiveInt = Field(8, description="T, frames per clip")
    sampling: Literal["segments", "dense", "uniform", "fps", "around"] = Field(
        "segments",
        description="segments: one frame from each of T equal segments; dense: T frames in a row, `frame_stride` "
        "apart; uniform: T frames evenly spaced from first to last; fps: T frames at `fps`; around: T frames "
        "`frame_stride` apart around the row's middle frame, also those outside its start and end",
    )
    frame_stride: PositiveInt = Field(1, description="step in source frames between sampled frames (dense, around)")
    fps: PositiveFloat | None = Field(None, description="frames per second, by the timestamps of the video (fps)")
    short_clips: Literal["repeat_last", "loop", "error"] = Field(
        "repeat_last",
        description="for videos shorter than the clip. repeat_last: repeat the last frame; loop: start again (dense "
        "and fps; the other samplings repeat frames in order); error: treat the file as unreadable",
    )
    size: PositiveInt | None = Field(
        None, description="height and width in pixels; null: the size that the backbone was pretrained at"
    )
    fit: Literal["crop", "squash"] = Field(
        "crop",
        description="crop: keep the aspect ratio and crop the center; squash: resize the whole picture to a square",
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> Clip:
        if self.num_frames * (self.size or 224) ** 2 > 2**31:
            raise ValueError(f"num_frames is {self.num_frames} and size {self.size}: a clip of more than 6 GB")
        if self.sampling == "fps" and self.fps is None:
            raise ValueError("sampling is 'fps' and fps is not set; for example fps: 10")
        return self


class Augment(Section):
    """Random augmentation of training clips; all frames of a clip get the same."""

    preset: Literal["none", "light", "strong"] = Field("light", description="strength of the augmentation")
    transform: OwnPart | None = Field(
        None, description="your own augmentation, in place of the preset and of the keys that override it"
    )
    flip: bool = Field(True, description="random horizontal flip; false where left and right are the label")
    speed: tuple[PositiveFloat, PositiveFloat] = Field(
        (1.0, 1.0), description="range of playback speed factors, for example 0.8, 1.25"
    )
    frame_dropout: Fraction = Field(
        0.0, description="fraction of a clip's frames that are replaced by the previous frame"
    )
    interval_windows: bool = Field(
        False,
        description="train rows with start and end on windows as a timeline has them: of the median length of the "
        "rows, their middle anywhere in the row",
    )
    crop: Literal["random_resized", "multi_scale", "center"] | None = Field(
        None,
        description="overrides the preset. random_resized: random size and aspect ratio; multi_scale: corner and "
        "center crops at several scales (TSN); center: as in evaluation",
    )
    color_jitter: Fraction | None = Field(
        None, description="overrides the preset: maximum change of brightness, contrast and saturation"
    )
    auto_augment: Literal["none", "trivial", "randaugment"] | None = Field(
        None, description="overrides the preset: TrivialAugment or RandAugment"
    )
    random_erasing: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="overrides the preset: fraction of clips in which a box is erased"
    )
    blur: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="fraction of clips that are blurred")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description="maximum rotation in degrees, to either side"
    )
    cached_views: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="number of fixed augmented versions of each clip, used in turn, in phases with a frozen part; "
        "null: 8 with the preset strong, else 4 (1 without random augmentation), and new ones in every "
        "epoch with train.cache off",
    )
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="alpha of mixup, for example 0.2; applied to cached features in phases with a frozen part. "
        "Training top-1 then counts the label with the larger share",
    )
    cutmix: Annotated[float, Field(ge=0)] = Field(
        0.0, description="alpha of CutMix, for example 1.0: a box, the same in all frames, is taken from another clip"
    )

    @model_validator(mode="after")
    def _speed_is_a_range(self) -> Augment:
        if self.speed[0] > self.speed[1]:
            raise ValueError(f"speed {list(self.speed)} is not a range; write the lower value first")
        return self
