"""Write a graph as a file of one format: torch's .pt2, ONNX, or OpenVINO's .xml and .bin."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from finetune.errors import FinetuneError, ModelError
from finetune.export.graph import INPUT_NAME, ExportGraph
from finetune.recipe.own_parts import part_name
from finetune.run.model_json import BATCH, MODEL_FILES
from finetune.runtime.extras import import_extra

ONE_FILE_BYTES = 2 * 10**9 - 10**7  # an ONNX file ends at 2 GiB; its graph takes a few MB

TRANSPOSING = (torch.ops.aten.transpose.int, torch.ops.aten.permute.default)


def export_program(graph: ExportGraph) -> ExportedProgram:
    """The graph by torch.export, of any batch size. Raises ModelError that names the part that cannot be exported."""
    try:
        return _traced(graph, graph.example(2))
    except FinetuneError:
        raise
    except Exception as error:  # torch.export raises many kinds
        raise ModelError(f"{_blamed_part(graph)} cannot be exported: {_reason(error)}") from error


def _traced(module: torch.nn.Module, frames: torch.Tensor) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program = torch.export.export(module, (frames,), dynamic_shapes=({0: Dim(BATCH, min=1)},))
        program = program.run_decompositions({})
    if not takes_any_batch(program):
        raise _FixedBatchError
    _make_convertible(program)
    for node in program.graph.nodes:  # the paths of source files on this machine
        node.meta.pop("stack_trace", None)
    return program


class _FixedBatchError(Exception):
    """The graph is for one batch size."""


def takes_any_batch(program: ExportedProgram) -> bool:
    """Whether the first axis of each input and output has a size that the graph leaves open."""
    names = {*program.graph_signature.user_inputs, *program.graph_signature.user_outputs}
    values = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    return all(value.ndim > 0 and isinstance(value.shape[0], torch.SymInt) for value in values)


def _make_convertible(program: ExportedProgram) -> None:
    """Replace what converters cannot take.

    A view of transposed values may rely on the strides that attention had while it was traced; other kernels and the
    converters have others. timm resamples position embeddings to their own size in each exported graph, which OpenVINO
    cannot do. The ONNX exporter has no adaptive pooling of clips, which is a mean over pictures in video networks.
    """
    for node in list(program.graph.nodes):
        source: Any = node.args[0] if node.args else None
        if node.target is torch.ops.aten.view.default and source.target in TRANSPOSING:
            _insert_copy(program, before=node)
        elif "upsample" in str(node.target) and _shape(source) == _shape(node):
            node.replace_all_uses_with(source)
            program.graph.erase_node(node)
        elif "adaptive_avg_pool3d" in str(node.target) and [*node.args[1]] == [source.meta["val"].shape[2], 1, 1]:
            node.target, node.args = torch.ops.aten.mean.dim, (source, [3, 4], True)
    program.graph_module.recompile()


def _insert_copy(program: ExportedProgram, *, before: torch.fx.Node) -> None:
    source, contiguous = before.args[0], {"memory_format": torch.contiguous_format}
    assert isinstance(source, torch.fx.Node), source
    with program.graph.inserting_before(before):
        copy = program.graph.call_function(torch.ops.aten.clone.default, (source,), contiguous)
    copy.meta["val"] = source.meta["val"].clone(**contiguous)
    before.update_arg(0, copy)


def _shape(node: Any) -> str:
    return str(node.meta["val"].shape)  # as text: comparing symbols would fix them


def _blamed_part(graph: ExportGraph) -> str:
    """The recipe's words for the part that torch.export fails on."""
    settings, model = graph.model.settings, graph.model
    backbone = f"model.backbone {part_name(settings.backbone)!r}"
    if model.sharing is None:
        frames = graph.example(2).flatten(0, 1) if graph.views > 1 else graph.example(2)
        try:
            _traced(model.backbone, frames)
        except Exception:  # the error of the whole graph is reported
            return backbone
        return f"model.temporal {part_name(settings.temporal)!r}, or model.head {part_name(settings.head)!r},"
    return f"{backbone} with its tasks"


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, _FixedBatchError) or "Constraints violated" in text:
        return "its forward pass works for one batch size only, as with len(x) of a tensor in place of x.shape[0]"
    if missing := re.search(r"No conversion rule found for operations: (.+)", text):
        return f"there is no conversion of {missing[1].strip()}"
    summary = re.search(r"Exception summary\s+(.+)", text)  # of the ONNX exporter, after advice
    return " ".join((summary[1] if summary else text).split("\n")[0].split())[:300] or type(error).__name__


def write_torch(program: ExportedProgram, graph: ExportGraph, folder: Path, precision: str) -> None:
    buffer = io.BytesIO()  # on a full disk torch would end the program
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, buffer)
    (folder / MODEL_FILES["torch"]).write_bytes(buffer.getbuffer())


def write_onnx(program: ExportedProgram, graph: ExportGraph, folder: Path, precision: str) -> None:
    """With the weights inside, or where they are more than an ONNX file holds, in a file beside it."""
    with warnings.catch_warnings(action="ignore"), _explain_conversion(graph, "ONNX"):
        converted = torch.onnx.export(
            program, input_names=[INPUT_NAME], output_names=graph.output_names, dynamo=True, verbose=False
        )
    assert converted is not None
    _clean_onnx(converted.model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    converted.save(folder / MODEL_FILES["onnx"], external_data=size > ONE_FILE_BYTES)


def _clean_onnx(model: Any) -> None:
    """Name the first axis of input and outputs, and remove the notes about source code.

    Values between them get names that no task has; the exporter calls the output of a mean `mean`.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert not isinstance(value.shape[0], int), value
        value.shape[0] = BATCH
    inner = [value for node in model.graph.all_nodes() for value in node.outputs if not value.is_graph_output()]
    for number, value in enumerate(inner):
        value.name = f"/{number}"
    for node in model.graph.all_nodes():
        node.metadata_props.clear()


def write_openvino(program: ExportedProgram, graph: ExportGraph, folder: Path, precision: str) -> None:
    """Weights are fp32, or at fp16 half as large; OpenVINO computes in the precision that a file is opened with."""
    openvino = import_extra("openvino", extra="openvino")
    with warnings.catch_warnings(action="ignore"), _explain_conversion(graph, "OpenVINO"):
        converted = openvino.convert_model(program)
    for port, name in zip((*converted.inputs, *converted.outputs), (INPUT_NAME, *graph.output_names), strict=True):
        port.get_tensor().set_names({name})
    converted.reshape({INPUT_NAME: openvino.PartialShape([-1, *graph.example(1).shape[1:]])})
    try:
        openvino.save_model(converted, folder / MODEL_FILES["openvino"], compress_to_fp16=precision == "fp16")
    except RuntimeError as error:  # OpenVINO does not say why
        raise OSError(f"OpenVINO cannot write the file, as on a full disk ({error})") from error


@contextmanager
def _explain_conversion(graph: ExportGraph, runtime: str) -> Iterator[None]:
    """Raise ModelError that names the backbone where a converter fails; each has many kinds of errors."""
    try:
        yield
    except Exception as error:
        backbone = part_name(graph.model.settings.backbone)
        raise ModelError(
            f"model.backbone {backbone!r} cannot be exported to {runtime}: {_reason(error)}; export it to torch"
        ) from error


WRITERS: dict[str, Callable[[ExportedProgram, ExportGraph, Path, str], None]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "torch": write_torch,
}
