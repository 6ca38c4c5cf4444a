"""Quantize an exported model to int8 by NNCF's post-training quantization, calibrated on training clips.

What is quantized are the convolutions and what lies between them. The normalization before the first convolution stays
in fp32, and so does what no convolution follows: pooling over time and heads, which take little time.
"""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import ModelError, RunError, reason_of
from finetune.export.graph import INPUT_NAME, ExportGraph
from finetune.export.int8_cost import cost_problem, measure_cost, refuse_cost
from finetune.export.parity import ClipsToCompare, SplitComparison, compare_split
from finetune.inference.exported_session import open_session
from finetune.run.environment import package_versions
from finetune.run.fitted import read_fitted
from finetune.run.model_json import MODEL_FILES, ExportFormat, Int8Info
from finetune.run.read import Run
from finetune.runtime.extras import import_extra
from finetune.runtime.signal_stack import keep_signal_stack
from finetune.video.row_loader import evaluation_loader

CALIBRATION_CLIPS = 128
CALIBRATION_BYTES = 500_000_000  # of uint8 frames, which stay in memory
Recipe = Literal["default", "careful"]
RECIPES: tuple[Recipe, ...] = ("default", "careful")  # the second, which is slower, where the first costs too much


def quantize_model(
    run: Run,
    graph: ExportGraph,
    folder: Path,
    clips: ClipsToCompare | None,
    *,
    runtime: ExportFormat,
    progress: Callable[[int], None],
) -> tuple[Int8Info, SplitComparison]:
    """Replace the fp32 model in `folder` by one at int8, and compare that with the run.

    The careful recipe is tried where the default one costs too much. Raises RunError where both do. `progress` gets the
    number of clips that NNCF has read so far; it reads each several times.
    """
    if clips is None:
        raise RunError(f"{run.folder}: has neither test nor val clips, on which --int8 is judged")
    frames = calibration_frames(run, graph, clips.manifest)
    fitted = read_fitted(run)
    with TemporaryDirectory(dir=folder) as fp32:
        source, fp32_bytes = Path(fp32), file_bytes(folder)
        for file in folder.glob("model.*"):
            file.rename(source / file.name)
        for recipe in RECIPES:
            quantize_file(source, folder, runtime, CalibrationClips(frames, progress), recipe)
            session = open_session(folder, runtime, graph.output_names)
            comparison = compare_split(run, graph, session, clips)
            costs = {
                task: cost
                for task, output in run.outputs.items()
                if (cost := measure_cost(comparison, task, output, fitted[task])) is not None
            }
            if not any(cost_problem(task, cost) for task, cost in costs.items()):
                break
    refuse_cost(costs)
    info: Int8Info = {
        "method": f"NNCF post-training quantization {package_versions(['nncf'])['nncf']}",
        "recipe": recipe,
        "calibration_clips": len(frames),
        "split": clips.split,  # type: ignore[typeddict-item]
        "cost": costs,
        "bytes": file_bytes(folder),
        "fp32_bytes": fp32_bytes,
    }
    return info, comparison


def calibration_frames(run: Run, graph: ExportGraph, manifest: Manifest) -> list[np.ndarray]:
    """The frames uint8 ([V,] T, C, H, W) of training clips, read as in evaluation; classes are evenly represented."""
    count = min(CALIBRATION_CLIPS, max(8, CALIBRATION_BYTES // graph.example(1).numel()))
    rows = choose_rows(manifest, count, seed=run.recipe.seed)
    chosen = manifest.without(np.setdiff1d(np.arange(len(manifest)), rows))
    loader, _ = evaluation_loader(chosen, "train", run.recipe, size=graph.model.size, views=graph.views)
    with loader:
        clips = [batch["clips"] for batch in loader if batch["clips"] is not None]
    if not clips:
        raise RunError(f"{run.folder}: --int8 is calibrated on training clips, and none can be read")
    return [(clip if graph.views > 1 else clip[:, 0])[0].numpy() for clip in clips]


def choose_rows(manifest: Manifest, count: int, *, seed: int) -> np.ndarray:
    """`count` rows (R,) of the split train at random, ascending, with as equal numbers of each class as there are."""
    rows = np.random.default_rng(seed).permutation(manifest.rows("train"))
    labels = manifest.labels[rows]
    rank = np.zeros(len(rows), dtype=int)  # of each row among those of its class
    for label in np.unique(labels):
        of_label = labels == label
        rank[of_label] = np.arange(of_label.sum())
    return np.sort(rows[np.argsort(rank, kind="stable")[:count]])


@dataclass
class CalibrationClips:
    """The frames of calibration clips as NNCF reads them, several times over; `progress` is told how many it read."""

    frames: list[np.ndarray]
    progress: Callable[[int], None]
    num_read: int = 0

    def as_input(self, clip: np.ndarray) -> dict[str, np.ndarray]:
        """The network's input for the frames (…, T, C, H, W) of a clip: a batch of one."""
        self.num_read += 1
        self.progress(self.num_read)
        return {INPUT_NAME: clip[None]}


def quantize_file(source: Path, target: Path, runtime: str, clips: CalibrationClips, recipe: Recipe) -> None:
    """Read the fp32 model in the folder `source`, and write it at int8 into the folder `target`."""
    nncf = import_extra("nncf", extra=runtime)
    nncf.set_log_level("ERROR")
    file = source / MODEL_FILES[runtime]
    store = _OnnxFile(file) if runtime == "onnx" else _OpenvinoFile(file)
    nodes = store.nodes()
    outside = outside_convolutions(nodes)
    convolutions = [node for node in nodes if node.is_convolution]
    if len(convolutions) < 2:
        raise ModelError("--int8 is for convolutional networks, and this one has fewer than two convolutions")
    depthwise = [node.name for node in convolutions if node.is_depthwise] if recipe == "careful" else []
    try:
        with keep_signal_stack(), redirect_stdout(io.StringIO()):  # progress bars of NNCF
            quantized = nncf.quantize(
                store.model,
                nncf.Dataset(clips.frames, clips.as_input),
                preset=nncf.QuantizationPreset.MIXED,  # symmetric weights, asymmetric activations
                subset_size=len(clips.frames),
                fast_bias_correction=False,  # the slow one halves the error on MobileNetV2
                ignored_scope=nncf.IgnoredScope(names=[*outside, *depthwise], validate=False),
            )
    except Exception as error:  # nncf raises many kinds
        raise ModelError(f"NNCF cannot quantize the model: {reason_of(error)}; export it without --int8") from error
    store.write(quantized, target / MODEL_FILES[runtime])


class Node(NamedTuple):
    name: str
    inputs: tuple[str, ...]  # names of nodes
    is_convolution: bool = False
    is_depthwise: bool = False


def outside_convolutions(nodes: Iterable[Node]) -> list[str]:
    """The names of nodes, given in the order of computation, that no convolution precedes or none follows."""
    nodes = list(nodes)
    after: set[str] = set()
    for node in nodes:
        if node.is_convolution or after.intersection(node.inputs):
            after.add(node.name)
    before: set[str] = set()
    for node in reversed(nodes):
        if node.is_convolution or node.name in before:
            before.update((node.name, *node.inputs))
    return [node.name for node in nodes if not (node.name in after and node.name in before)]


@dataclass
class _OnnxFile:
    path: Path

    def __post_init__(self) -> None:
        self.onnx = import_extra("onnx", extra="onnx")
        self.model = self.onnx.load(self.path)

    def nodes(self) -> list[Node]:
        graph, nodes = self.model.graph, []
        maker = {output: node.name for node in graph.node for output in node.output}
        shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
        for node in graph.node:
            inputs = tuple(maker[name] for name in node.input if name in maker)
            is_convolution = node.op_type == "Conv"
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            is_depthwise = is_convolution and groups > 1 and groups == shapes.get(node.input[1], [0])[0]
            nodes.append(Node(node.name, inputs, is_convolution, is_depthwise))
        return nodes

    def write(self, model: Any, path: Path) -> None:
        self.onnx.save(model, path)


@dataclass
class _OpenvinoFile:
    path: Path

    def __post_init__(self) -> None:
        self.openvino = import_extra("openvino", extra="openvino")
        self.model = self.openvino.Core().read_model(self.path)

    def nodes(self) -> list[Node]:
        nodes = []
        for operation in self.model.get_ordered_ops():
            inputs = tuple(value.get_source_output().get_node().get_friendly_name() for value in operation.inputs())
            kind = operation.get_type_name()
            is_depthwise = kind == "GroupConvolution"
            is_convolution = kind in {"Convolution", "GroupConvolution"}
            nodes.append(Node(operation.get_friendly_name(), inputs, is_convolution, is_depthwise))
        return nodes

    def write(self, model: Any, path: Path) -> None:
        self.openvino.save_model(model, path, compress_to_fp16=False)


def file_bytes(folder: Path) -> int:
    """The size of the files of a model, without those that describe it."""
    return sum(path.stat().st_size for path in folder.glob("model.*") if path.suffix != ".json")
