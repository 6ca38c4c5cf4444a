"""The contents of model.json: what a caller needs to feed an exported model and to read its outputs."""

from typing import Any

import numpy as np

from finetune.export.graph import INPUT_NAME, LOGITS, ExportGraph
from finetune.metrics.calibration import apply_temperature
from finetune.model.count_multiplications import count_multiplications
from finetune.recipe.own_parts import part_name
from finetune.recipe.tasks import DEFAULT_COLUMNS
from finetune.run.environment import package_versions
from finetune.run.fitted import Fitted
from finetune.run.manifest import reads_image_sequences
from finetune.run.model_json import BATCH, MODEL_FILES, MODEL_FORMAT, ClipInfo, ModelInfo, OutputInfo, TaskInfo
from finetune.run.read import Run, find_evaluation, read_environment, read_results_file
from finetune.version import VERSION

RESIZING = "bilinear with antialiasing, by FFmpeg's swscale: flags BILINEAR to yuv444p, then FULL_CHR_H_INT to rgb24"
COLOUR = "RGB, by the matrix and range that the file states"
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "av", "numpy")


def describe_model(run: Run, graph: ExportGraph, *, to: Any, precision: Any, fitted: dict[str, Fitted]) -> ModelInfo:
    """model.json without `parity`, which is measured on the written file."""
    environment = read_environment(run.folder)
    info: ModelInfo = {
        "format": MODEL_FORMAT,
        "runtime": to,
        "file": MODEL_FILES[to],
        "precision": precision,
        "int8": None,
        "run": run.folder.absolute().name,
        "backbone": part_name(run.recipe.model.backbone),
        "input": {
            "name": INPUT_NAME,
            "dtype": "uint8",
            "shape": [BATCH, *graph.example(1).shape[1:]],
            "axes": [BATCH, *(["views"] if graph.views > 1 else []), "frames", "channels", "height", "width"],
        },
        "outputs": _outputs(run, graph),
        "clip": _clip(run, graph),
        "tasks": {task: _task(run, task, fitted[task]) for task in run.outputs},
        "primary": graph.model.primary,
        "multiplications": _multiplications(graph),
        "classes": list(run.classes),
        "weights": environment.get("weights") if environment else None,
        "figures": _figures(run),
        "versions": {"finetune": VERSION, **package_versions(LIBRARIES)},
    }
    return info


def _multiplications(graph: ExportGraph) -> int:
    frames = graph.example(1).flatten(0, 1)[:1] if graph.views > 1 else graph.example(1)
    return count_multiplications(graph.model, lambda: graph.model(frames))


def _outputs(run: Run, graph: ExportGraph) -> list[OutputInfo]:
    outputs: list[OutputInfo] = []
    for name, values in graph(graph.example(1)).items():
        task = name if name in run.outputs else name.removesuffix(LOGITS)
        holds: Any = "logits" if name != task else "probabilities" if run.outputs[task].is_categorical else "numbers"
        shape: list[Any] = [BATCH, *values.shape[1:]]
        outputs.append({"name": name, "task": task, "values": holds, "dtype": "float32", "shape": shape})
    return outputs


def _clip(run: Run, graph: ExportGraph) -> ClipInfo:
    clip = run.recipe.clip
    return {
        "num_frames": clip.num_frames,
        "sampling": clip.sampling,
        "frame_stride": clip.frame_stride,
        "fps": clip.fps,
        "short_clips": clip.short_clips,
        "size": graph.model.size,
        "fit": clip.fit,
        "views": graph.views,
        "consensus": run.recipe.evaluate.consensus,
        "image_sequences": reads_image_sequences(run),
        "image_rate": run.recipe.data.image_rate,
        "resizing": RESIZING,
        "colour": COLOUR,
    }


def _task(run: Run, task: str, fitted: Fitted) -> TaskInfo:
    output, thresholds_K = run.outputs[task], fitted.thresholds_K
    return {
        "kind": output.kind,  # type: ignore[typeddict-item]
        "names": list(DEFAULT_COLUMNS.get(output.kind, output.names)),
        "thresholds": None if thresholds_K is None else thresholds_K.tolist(),
        "calibrated_thresholds": _calibrated(thresholds_K, fitted.temperature),
        "temperature": fitted.temperature,
        "known_scores": fitted.known_scores,
    }


def _calibrated(thresholds_K: np.ndarray | None, temperature: float | None) -> list[float] | None:
    """The thresholds (K,) for probabilities to which the temperature is applied: as good as the others."""
    if thresholds_K is None or temperature is None:
        return None if thresholds_K is None else thresholds_K.tolist()
    return apply_temperature(thresholds_K, temperature, multilabel=True).tolist()


def _figures(run: Run) -> dict[str, Any] | None:
    """The metrics that have an interval, by task, from the evaluation after training; None where there is none."""
    evaluation = find_evaluation(run.folder, None)
    if not evaluation.exists():
        return None
    results = read_results_file(evaluation.results)
    return {
        "split": results["split"],
        "clips": results.get("num_rows"),
        "tasks": {
            name: {
                key: {"value": task[key], "interval": task[f"{key}_ci"]}
                for key in task
                if f"{key}_ci" in task and isinstance(task[key], float)
            }
            for name, task in results["tasks"].items()
        },
    }
