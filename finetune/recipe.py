"""What a run is made of: the recipe, its sections as frozen values, and their defaults.

A recipe is one whole YAML file. It is read with OmegaConf and checked here in full before anything starts:
unknown keys, wrong types and values out of range are all said at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from yaml import YAMLError

from finetune.errors import RecipeError, nearest

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Data(Section):
    """Where the labelled videos are, and how rows without a split are divided."""

    manifest: Path | None = Field(None, description="CSV with path,label[,split][,group]; paths relative to it")
    folder: Path | None = Field(None, description="folder <class>/* or <split>/<class>/*")
    group_pattern: str | None = Field(
        None, description="regular expression with one (...) that finds the group in a file's path"
    )
    packed: Path | None = Field(None, description="folder that `finetune data pack` wrote: read frames from there")
    val: Fraction = Field(0.15, description="share for validation, where the data gives no splits")
    test: Fraction = Field(0.2, description="share for testing, where the data gives no splits")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="files that cannot be read: stop before training, or leave them out and list them"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", description="loading processes")
    time_limit: Rate = Field(
        60, description="seconds after which a file that a loading process hangs on is skipped, and listed"
    )

    @model_validator(mode="after")
    def _group_pattern_has_one_group(self) -> Data:
        if self.group_pattern is not None:
            try:
                groups = re.compile(self.group_pattern).groups
            except re.error as error:
                raise ValueError(f"group_pattern {self.group_pattern!r} is no regular expression: {error}") from None
            if groups != 1:
                raise ValueError(f"group_pattern {self.group_pattern!r} needs exactly one (...)")
        return self


class Clip(Section):
    """Which frames of a video the model sees, and at what size."""

    num_frames: Positive = Field(8, description="T, frames a clip")
    sampling: Literal["segments", "dense", "uniform", "fps"] = Field(
        "segments",
        description="one frame from each of T equal parts, T frames in a row, T from first to last, or T at a rate",
    )
    frame_stride: Positive = Field(1, description="source frames from one sampled frame to the next (dense)")
    fps: Rate | None = Field(None, description="frames a second, by the videos' own timestamps (fps)")
    short: Literal["repeat_last", "loop", "error"] = Field(
        "repeat_last",
        description="a video shorter than the clip: stay on its last frame, or start anew (dense, fps; the others "
        "repeat frames in order), or fail",
    )
    size: Positive | None = Field(None, description="pixels a side; null: what the backbone was trained at")
    fit: Literal["crop", "squash"] = Field(
        "crop",
        description="keep the aspect ratio and crop the middle, or squash the whole picture to a square",
    )

    @model_validator(mode="after")
    def _fps_sampling_has_a_rate(self) -> Clip:
        if self.sampling == "fps" and self.fps is None:
            raise ValueError("sampling is 'fps' and fps is not set; for example fps: 10")
        return self


class Augment(Section):
    """What is drawn anew for each training clip; the same draw for all of its frames."""

    preset: Literal["none", "light", "strong"] = "light"
    flip: bool = Field(True, description="mirror at random; false where left and right are the label")
    speed: tuple[Rate, Rate] = Field(
        (1.0, 1.0), description="range of factors by which clips are sped up, as 0.8, 1.25"
    )
    frame_dropout: Fraction = Field(0.0, description="share of a clip's frames replaced by the one before")
    crop: Literal["random_resized", "multi_scale", "center"] | None = Field(
        None, description="instead of the preset's: any box, one of TSN's, or the middle as in evaluation"
    )
    color: Fraction | None = Field(
        None, description="instead of the preset's: largest change of brightness, contrast and saturation"
    )
    auto: Literal["none", "trivial", "randaugment"] | None = Field(
        None, description="instead of the preset's: TrivialAugment or RandAugment"
    )
    erase: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="instead of the preset's: share of clips that lose a box"
    )
    blur: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of clips that are blurred")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="degrees, to either side")
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0, description="alpha of the blend of two clips, as 0.2; training top-1 then counts the greater share's label"
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
    weights: str = Field("imagenet", description="imagenet | bundled | none | a file")
    temporal: Literal["mean", "max", "diff", "concat", "conv1d", "gru", "attention"] = Field(
        "mean", description="pooling over T; diff, concat, conv1d, gru and attention know the order of frames"
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
    """Epochs with one set of learning stages."""

    train: str | tuple[str, ...] = Field(
        "all", description="head (all that is new) | a stage (and all after it) | last(n) | all | [stages]"
    )
    epochs: Positive = 5
    lr: Rate = Field(1e-3, description="peak learning rate")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor on the rate from each stage to the one before it"
    )
    batch_norm: Literal["frozen", "partial", "train"] = Field(
        "frozen",
        description="statistics of learning stages: kept, kept but for the network's first, or updated",
    )
    augment: Literal["none", "light", "strong"] | None = Field(
        None, description="preset of this phase; null: augment.preset"
    )


class Train(Section):
    """The optimizer and what holds for all phases."""

    batch_size: Positive = 8
    sampler: Literal["shuffle", "balanced"] = Field(
        "shuffle", description="an epoch shows each clip once, or all classes equally often (a clip at most 5 times)"
    )
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = Field(0.1, description="share of each phase's steps over which the rate rises from zero")
    label_smoothing: Fraction = 0.0
    clip_grad: Rate | None = Field(None, description="largest norm of the gradient")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu"] = Field("auto", description="auto takes the GPU when there is one")
    checkpointing: bool = Field(
        False,
        description="activations of learning stages are computed again in the backward pass: less memory, about a "
        "third more time",
    )
    compile: bool = Field(False, description="compile the backbone: minutes before the first step, then faster ones")

    @model_validator(mode="after")
    def _compiles_or_recomputes(self) -> Train:
        if self.compile and self.checkpointing:
            raise ValueError("compile and checkpointing do not go together; set one of them to false")
        return self


class Evaluate(Section):
    """How a trained model is tested; predict does the same."""

    views: Positive = Field(1, description="clips a video whose probabilities are averaged")


class Recipe(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    clip: Clip = Clip()
    augment: Augment = Augment()
    model: Model = Model()
    phases: tuple[Phase, ...] = Field((Phase(train="head"),), min_length=1)
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name (`resnet50_ucf`) or file, apply `key.sub=value` overrides, check all of it.

    Raises RecipeError with every mistake in it, one a line.
    """
    path = find_recipe(name)
    tree = _read(path)
    for override in overrides:
        _override(tree, override)
    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}") from None
    return check_recipe(plain, where=str(path))


def check_recipe(plain: object, *, where: str) -> Recipe:
    """A Recipe from plain dictionaries and lists; `where` is named in the message of the RecipeError."""
    if not isinstance(plain, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of sections, this is {type(plain).__name__}")
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{where}: {line}" for line in _in_words(error.errors()))) from None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe, defaults included, as YAML that `load_recipe` reads back to an equal value."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(recipe.model_dump(mode="json"))), encoding="utf-8")


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, `recipes/<name>.yaml` here, or one that came with the package."""
    direct = Path(name)
    if direct.suffix in {".yaml", ".yml"} or "/" in name:
        if direct.is_file():
            return direct
        raise RecipeError(f"there is no recipe file {name!r}")
    for folder in recipe_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = list_recipes()
    raise RecipeError(f"there is no recipe {name!r}{nearest(name, known)}; there are {', '.join(sorted(known))}")


def recipe_folders() -> list[Path]:
    """Where recipes are looked for, first match first: the current folder's, then the package's own."""
    package = Path(__file__).parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    return [Path("recipes"), installed if installed.is_dir() else checkout]


def list_recipes() -> dict[str, Path]:
    """Every recipe that can be named, with its file."""
    found = (path for folder in reversed(recipe_folders()) for path in sorted(folder.glob("*.yaml")))
    return {path.stem: path for path in found}


def _read(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.create(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: cannot be read as YAML: {reason}") from None
    if not isinstance(tree, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections")
    return tree


def _override(tree: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r} is no override; write key.sub=value, for example train.batch_size=16")
    try:
        parsed = OmegaConf.select(OmegaConf.create(f"value: {value}" if value else "value: null"), "value")
        OmegaConf.update(tree, key, parsed, merge=False, force_add=True)
    except (YAMLError, OmegaConfBaseException, IndexError, ValueError, TypeError, AssertionError) as error:
        raise RecipeError(f"{override!r} cannot be applied: {str(error).splitlines()[0]}") from None


def _in_words(details: Sequence[ErrorDetails]) -> list[str]:
    """One line for each wrong place; a union reports its place once for each member, and is said once."""
    reasons: dict[str, list[str]] = {}
    for detail in details:
        place = _place(detail)
        if detail["type"] == "extra_forbidden":
            reasons[f"unknown key {place!r}{_nearest_key(place)}"] = []
            continue
        if detail["type"] == "too_short" and any(other.startswith(f"{place}.") for other in reasons):
            continue  # an item that is wrong is not counted; it has its own line
        value = detail["input"]
        shown = f" is {value!r}" if isinstance(value, str | int | float | None) else ""
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        reasons.setdefault(f"{place or 'recipe'}{shown}: ", []).append(message)
    return [what + " or ".join(dict.fromkeys(messages)) for what, messages in reasons.items()]


def _place(detail: ErrorDetails) -> str:
    """The place as an override writes it, without the names that pydantic gives the members of a union."""
    parts, words = detail["loc"], {word for key in known_keys() for word in key.split(".")}
    unknown_last = detail["type"] == "extra_forbidden"
    kept = [str(part) for part in parts if isinstance(part, int) or part in words]
    return ".".join([*kept, str(parts[-1])] if unknown_last and str(parts[-1]) not in words else kept)


def _nearest_key(place: str) -> str:
    """The known keys nearest to an unknown one: in its own section first, then anywhere, else all of the section."""
    parent, dot, word = place.rpartition(".")
    known = [key.rpartition(".") for key in known_keys()]
    siblings = {last: f"{parent}{dot}{last}" for section, _, last in known if section == re.sub(r"\.\d+", "", parent)}
    elsewhere = {last: f"{section}.{last}" for section, _, last in known if section}
    for words in (siblings, elsewhere):
        if near := get_close_matches(word, words):
            return f" (nearest: {', '.join(words[other] for other in near)})"
    return f" (there are {', '.join(siblings)})"


def known_keys() -> list[str]:
    """Every key of a recipe as it is written in an override, list positions left out."""
    keys = []
    for name, field in Recipe.model_fields.items():
        section = Phase if name == "phases" else field.annotation
        keys.append(name)
        if isinstance(section, type) and issubclass(section, Section):
            keys += [f"{name}.{sub}" for sub in section.model_fields]
    return keys
