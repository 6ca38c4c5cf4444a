"""README.md of an exported folder: what the model is, code that runs it, and what that code does not do."""

from collections.abc import Sequence

from finetune.export.int8_cost import describe_cost
from finetune.model.backbone.weights_source import describe_source, licence_warning
from finetune.run.model_json import ModelInfo, TaskInfo
from finetune.text import count

SESSIONS = {  # how a file is opened, and how `clip.frames` become `outputs`
    "onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        """values = session.run(None, {{"{input}": clip.frames[None]}})
outputs = dict(zip([output.name for output in session.get_outputs()], values))""",
    ),
    "openvino": (
        "import openvino",
        'model = openvino.Core().compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})',
        """values = model(clip.frames[None])
outputs = {{output.any_name: values[output] for output in model.outputs}}""",
    ),
    "torch": (
        "import torch",
        'model = torch.export.load("{file}").module()',
        """with torch.inference_mode():
    values = model(torch.from_numpy(clip.frames[None]))
outputs = {{name: value.numpy() for name, value in values.items()}}""",
    ),
}
INSTALL = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
OPENVINO_NOTES = """\
- OpenVINO's own default is bf16 on some processors: `INFERENCE_PRECISION_HINT` keeps it at {hint}.
- OpenVINO reports usage over the network; `opt_in_out --opt_out` turns that off."""


def write_readme(info: ModelInfo) -> str:
    """The text of README.md."""
    return (
        "\n\n".join(
            section.strip()
            for section in (
                f"# {info['run']}: {info['backbone']} for {info['runtime']}",
                _about(info),
                usage(info),
                _interface(info),
                _figures(info),
                _int8(info),
                _parity(info),
            )
            if section
        )
        + "\n"
    )


def _about(info: ModelInfo) -> str:
    tasks = "\n".join(f"- {_describe_task(name, task)}" for name, task in info["tasks"].items())
    precision = "int8" if info.get("int8") else info["precision"]
    lines = [f"A video model at {precision}, exported by finetune. What it predicts:\n\n{tasks}"]
    weights = info.get("weights")
    if weights is not None:
        lines.append(describe_source(weights))
        if warning := licence_warning(weights):
            lines.append("**" + " ".join(warning) + "**")
    return "\n\n".join(lines)


def _describe_task(name: str, task: TaskInfo) -> str:
    names = ", ".join(task["names"])
    return {
        "classify": f"`{name}`: one of {count(len(task['names']), 'class', 'classes')}: {names}",
        "multilabel": f"`{name}`: any of {count(len(task['names']), 'class', 'classes')}: {names}",
        "ordinal": f"`{name}`: one of {count(len(task['names']), 'level')}: {names}",
        "box": f"`{name}`: a box in the middle frame: left, top, width, height in pixels",
        "motion": f"`{name}`: motion in pixels per frame, to the right and down",
        "regress": f"`{name}`: {names}",
    }[task["kind"]]


def usage(info: ModelInfo) -> str:
    """The section with code that runs the model without this package."""
    library, opened, computed = (
        text.format(file=info["file"], input=info["input"]["name"], hint=HINTS[info["precision"]])
        for text in SESSIONS[info["runtime"]]
    )
    notes = OPENVINO_NOTES.format(hint=HINTS[info["precision"]]) if info["runtime"] == "openvino" else ""
    is_calibrated = any(task["temperature"] is not None for task in info["tasks"].values())
    calibrated = " --calibrated" if is_calibrated else ""
    numbers = any(output["values"] == "numbers" for output in info["outputs"])
    printed = "values" if numbers else "sorted(values.items(), key=lambda pair: -pair[1])[:5]"
    return f"""## Use

In this folder, after `pip install {INSTALL[info["runtime"]]} av numpy`:

```python
import json

{library}
from read_clip import predictions, read_clip

info = json.load(open("model.json"))
{opened}
clip = read_clip("video.mp4", info)
{computed}
for task, values in predictions(info, outputs, clip).items():
    print(task, {printed})
```

- The numbers are those of `finetune predict{calibrated}` with {_same_as(info)}{_thresholds(info)}.
- `read_clip.py` reads whole video files, turned as their display matrix says, and single images without EXIF data. It
  reads no parts of a file and no folders of numbered images. It decodes every frame of a file twice.
- `read_clip` gives one clip. For a batch, stack the frames of several: `numpy.stack([one.frames, other.frames])`.
{notes}"""


def _same_as(info: ModelInfo) -> str:
    return "this folder; those of the run differ a little" if info.get("int8") else "`train.precision: fp32`"


def _thresholds(info: ModelInfo) -> str:
    if any(task["kind"] == "multilabel" for task in info["tasks"].values()):
        return (
            ". Where a clip may have several classes, those are predicted whose probability is at least their entry in "
            "`calibrated_thresholds` of model.json"
        )
    return ""


def _interface(info: ModelInfo) -> str:
    given = info["input"]
    rows = "\n".join(
        f"| `{output['name']}` | {_shape(output['shape'])} | {output['values']} |" for output in info["outputs"]
    )
    several = any(output["values"] == "logits" and len(output["shape"]) == 3 for output in info["outputs"])
    views = " of each view" if several else ""
    return f"""## Input and outputs

`{given["name"]}`: uint8 RGB, {_shape(given["shape"])}: {", ".join(given["axes"])}. Mean and standard deviation of
pretraining are applied inside.

| output | shape, float32 | values |
|---|---|---|
{rows}

Logits are the head's outputs{views}; probabilities are made of them with the fitted temperature, where there is one.
Boxes (centre, width, height) and motion are fractions of the input picture; `predictions` converts them. How frames are
chosen and resized is in `clip` of model.json."""


def _shape(shape: Sequence[object]) -> str:
    return f"({', '.join(map(str, shape))})"


def _figures(info: ModelInfo) -> str:
    figures = info.get("figures")
    if not figures:
        return ""
    rows = "\n".join(
        f"| {task} | {metric} | {figure['value']:.3f} | {_interval(figure['interval'])} |"
        for task, metrics in figures["tasks"].items()
        for metric, figure in metrics.items()
    )
    return f"""## Figures of the run

On {count(figures["clips"], "clip")} of {figures["split"]}, before the export:

| task | metric | value | 95 % interval |
|---|---|---|---|
{rows}"""


def _interval(interval: list[float] | None) -> str:
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _int8(info: ModelInfo) -> str:
    of_int8 = info.get("int8")
    if not of_int8:
        return ""
    costs = "\n".join(f"- {describe_cost(task, cost)}" for task, cost in of_int8["cost"].items())
    return f"""## What int8 costs

The network was quantized with {count(of_int8["calibration_clips"], "training clip")}.
On {of_int8["split"]}, compared with the run clip by clip:

{costs}

The model has {of_int8["bytes"] / 1e6:.2f} MB, at fp32 {of_int8["fp32_bytes"] / 1e6:.2f} MB."""


def _parity(info: ModelInfo) -> str:
    parity = info.get("parity")
    if parity is None:
        return ""
    sizes = ", ".join(map(str, parity["batch_sizes"]))
    largest = max(parity["largest_difference"].values())
    lines = [f"On random frames in batches of {sizes}, outputs differ from the run's at fp32 by at most {largest:.1e}."]
    split = parity["split"]
    if split is not None:
        different = ", ".join(f"{len(rows)} of {task}" for task, rows in split["different"].items())
        lines.append(
            f"Of {count(split['clips'], 'clip')} of {split['split']}, predictions that differ from the run's: "
            f"{different}. model.json lists them."
        )
    return "## Parity\n\n" + "\n".join([*lines, parity.get("note", "")]).strip()
