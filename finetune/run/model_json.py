"""The types of model.json, which says how to feed an exported model and what it returns; pydantic checks them."""

from collections.abc import Mapping
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic takes no other before Python 3.12
)

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from finetune.errors import RunError
from finetune.model.backbone.weights_source import WeightsSource
from finetune.recipe.tasks import OutputSpec, TaskKind
from finetune.run.results import ALLOW_EXTRA, Count, Interval, KnownScores, Number, Share, Temperature
from finetune.storage.safe_read import read_json

MODEL_FORMAT = 1  # `format` in model.json
ExportFormat = Literal["onnx", "openvino", "torch"]
MODEL_FILES: dict[str, str] = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
BATCH: Literal["batch"] = "batch"  # in the place of a size that the caller chooses
Size = Annotated[int, Field(ge=1, le=2**31)] | Literal["batch"]


class InputInfo(TypedDict):
    """RGB frames, values 0 to 255; the mean and standard deviation of pretraining are applied inside the network."""

    name: str
    dtype: Literal["uint8"]
    shape: list[Size]
    axes: list[str]


class OutputInfo(TypedDict):
    name: str
    task: str
    values: Literal["probabilities", "logits", "numbers"]
    dtype: Literal["float32"]
    shape: list[Size]


class TaskInfo(TypedDict):
    """One task. `temperature` is applied to the model's probabilities, `calibrated_thresholds` are for them.

    `thresholds` are for probabilities without a temperature.
    """

    kind: TaskKind
    names: list[str]  # of the classes or levels, or the columns of numbers
    thresholds: list[Share] | None
    calibrated_thresholds: NotRequired[list[Share] | None]
    temperature: Temperature | None
    known_scores: NotRequired[KnownScores | None]  # of the val clips: those of unknown classes have lower ones


class ClipInfo(TypedDict):
    """How the frames of a clip are chosen and resized: the recipe's section `clip`, with the size as it is."""

    num_frames: Annotated[int, Field(ge=1, le=10**6)]
    sampling: Literal["segments", "dense", "uniform", "fps", "around"]
    frame_stride: Annotated[int, Field(ge=1)]
    fps: Annotated[float, Field(gt=0)] | None
    short_clips: Literal["repeat_last", "loop", "error"]
    size: Annotated[int, Field(ge=1, le=2**15)]
    fit: Literal["crop", "squash"]
    views: Annotated[int, Field(ge=1, le=1000)]
    consensus: str
    image_sequences: bool  # whether a folder of numbered images is one clip, or each image is one
    image_rate: Annotated[float, Field(gt=0)]  # frames per second of folders of numbered images
    resizing: str
    colour: str


class SplitParity(TypedDict):
    """The run and the exported model on the rows of a split."""

    split: Literal["train", "val", "test"]
    clips: Count
    skipped: Count
    largest_difference: dict[str, Number]  # by task, of probabilities or numbers
    different: dict[str, list[dict[str, Any]]]  # by task: clip, run and exported
    allowed: Count


class Parity(TypedDict):
    """How far the exported model is from the run at fp32."""

    batch_sizes: list[Count]
    tolerance: Number | None
    largest_difference: dict[str, Number]  # by output
    split: SplitParity | None
    note: NotRequired[str]


class TaskCost(TypedDict):
    """What int8 costs one task; `difference` has the 95 % `interval`, None where there are too few clips for one."""

    metric: Literal["accuracy", "moved"]  # moved: mean distance from the run's numbers, in units of their spread
    run: Share | None
    int8: Share | None
    difference: Number
    interval: Interval


class Int8Info(TypedDict):
    """How the network was quantized, and what that costs on a split."""

    method: str
    recipe: Literal["default", "careful"]  # careful: depthwise convolutions stay in fp32
    calibration_clips: Count
    split: Literal["train", "val", "test"]
    cost: dict[str, TaskCost]
    bytes: Count  # of the files of the model
    fp32_bytes: Count


class _ModelInfo(TypedDict):
    format: Annotated[int, Field(ge=1)]
    runtime: ExportFormat
    file: str
    precision: Literal["fp32", "fp16", "bf16"]
    input: InputInfo
    outputs: list[OutputInfo]
    clip: ClipInfo
    tasks: dict[str, TaskInfo]
    primary: str
    classes: list[str]


class ModelInfo(_ModelInfo, total=False):
    """model.json of an exported folder."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    run: str  # the name of the run's folder
    backbone: str
    int8: Int8Info | None
    weights: WeightsSource | None  # None for runs that do not state it
    figures: dict[str, Any] | None  # of the run, with 95 % intervals
    parity: Parity | None
    multiplications: Count  # of a clip with one view
    versions: dict[str, str | None]


def _check_consistent(info: ModelInfo) -> ModelInfo:
    if info["file"] != MODEL_FILES[info["runtime"]]:
        raise ValueError(f"file is {info['file']!r}, which is not {MODEL_FILES[info['runtime']]!r}")
    if info["primary"] not in info["tasks"]:
        raise ValueError(f"the primary task {info['primary']!r} is not one of the tasks")
    if unknown := [output["name"] for output in info["outputs"] if output["task"] not in info["tasks"]]:
        raise ValueError(f"the outputs {', '.join(unknown)} belong to no task")
    for task, of_task in info["tasks"].items():
        if of_task["thresholds"] is not None and len(of_task["thresholds"]) != len(of_task["names"]):
            raise ValueError(f"the task {task!r} has another number of thresholds than of classes")
    return info


def read_model_info(path: Path) -> ModelInfo:
    """model.json at `path`. Raises RunError where it is damaged, or of a newer format."""
    version = read_json(path, dict[str, Any]).get("format")
    if isinstance(version, int) and version > MODEL_FORMAT:
        raise RunError(
            f"{path}: has format version {version}; this finetune reads up to {MODEL_FORMAT}: update finetune"
        )
    info: ModelInfo = read_json(path, Annotated[ModelInfo, AfterValidator(_check_consistent)])
    return info


def check_outputs(info: ModelInfo, outputs: Mapping[str, OutputSpec], *, where: Path) -> None:
    """Raise RunError where model.json does not describe the tasks and classes of the files beside it."""
    problem = _shape_problem(info)
    if {task: (of_task["kind"], tuple(of_task["names"])) for task, of_task in info["tasks"].items()} != {
        task: (output.kind, output.names) for task, output in outputs.items()
    }:
        problem = "its tasks are not those of recipe.yaml, classes.json and tasks.json"
    for task, output in outputs.items():
        wanted = {"probabilities": len(output.names), "logits": output.width} if output.is_categorical else {}
        given = {of["values"]: of["shape"][-1] for of in info["outputs"] if of["task"] == task}
        if given != (wanted or {"numbers": len(output.names)}):
            problem = problem or f"the outputs of the task {task!r} do not fit its {len(output.names)} names"
    if problem:
        raise RunError(f"{where}: {problem}; export the run again")


def _shape_problem(info: ModelInfo) -> str | None:
    clip = info["clip"]
    views = [clip["views"]] if clip["views"] > 1 else []
    frames = [BATCH, *views, clip["num_frames"], 3, clip["size"], clip["size"]]
    if info["input"]["shape"] != frames:
        return f"its input has the shape {info['input']['shape']}, but its clips are {frames}"
    for output in info["outputs"]:
        shape = output["shape"]
        if shape[0] != BATCH or len(shape) not in {2, 2 + len(views)} or (len(shape) == 3 and shape[1] != views[0]):
            return f"its output {output['name']!r} has the shape {shape}"
    return None


def outputs_by_task(info: ModelInfo, values: Mapping[str, Any]) -> dict[str, Any]:
    """From {output: values} the values that predictions are made of, by task: logits of classes, else numbers."""
    return {output["task"]: values[output["name"]] for output in info["outputs"] if output["values"] != "probabilities"}
