"""Open the file of an exported model in its runtime: uint8 frames in, named float32 arrays out."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import RunError, reason_of, shorten_list
from finetune.run.model_json import MODEL_FILES, ExportFormat
from finetune.runtime.extras import import_extra
from finetune.runtime.signal_stack import keep_signal_stack

Session = Callable[[np.ndarray], dict[str, np.ndarray]]
OPENVINO_PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def open_session(
    folder: Path,
    runtime: ExportFormat,
    output_names: Sequence[str],
    *,
    precision: str = "fp32",
    threads: int | None = None,
) -> Session:
    """A function from frames, uint8 (B, [V,] T, C, H, W), to {name of the output: float32 array}.

    `precision` is for OpenVINO, whose own default is bf16 on some processors; the other files have theirs inside.
    `threads` of the CPU: None leaves it to the runtime. Raises RunError where the runtime is not installed or cannot
    read the file.
    """
    file = folder / MODEL_FILES[runtime]
    if not file.is_file():
        raise RunError(f"{folder}: has no {file.name}; export the run again")
    return _OPENERS[runtime](file, list(output_names), precision, threads)


def _open_onnx(file: Path, names: list[str], precision: str, threads: int | None) -> Session:
    runtime = import_extra("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see runtime/threads.py
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has own exceptions, whose names it does not promise
        raise _unreadable(file, "onnxruntime", error) from None
    (frames,) = session.get_inputs()
    _check_names(file, names, [output.name for output in session.get_outputs()])
    return lambda clips: dict(zip(names, session.run(names, {frames.name: clips}), strict=True))


def _open_openvino(file: Path, names: list[str], precision: str, threads: int | None) -> Session:
    openvino = import_extra("openvino", extra="openvino")
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision]}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        with keep_signal_stack():
            compiled = openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeError as error:
        raise _unreadable(file, "OpenVINO", error) from None
    _check_names(file, names, [name for output in compiled.outputs for name in output.get_names()])

    def compute(clips: np.ndarray) -> dict[str, np.ndarray]:
        values = compiled.create_infer_request().infer({0: clips})
        return {name: values[name].copy() for name in names}

    return compute


def _open_torch(file: Path, names: list[str], precision: str, threads: int | None) -> Session:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            network = torch.export.load(file).module()
    except Exception as error:  # of a damaged file: many kinds
        raise _unreadable(file, "torch", error) from None

    def compute(clips: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in network(torch.from_numpy(clips)).items()}

    return compute


def _check_names(file: Path, names: list[str], there: list[str]) -> None:
    if missing := [name for name in names if name not in there]:
        raise RunError(
            f"{file}: has no output {shorten_list(missing)}, which model.json lists; it has {shorten_list(there)}; "
            "export the run again"
        )


def _unreadable(file: Path, runtime: str, error: Exception) -> RunError:
    return RunError(f"{file}: {runtime} cannot open it: {reason_of(error)}; export the run again")


_OPENERS: dict[str, Callable[[Path, list[str], str, int | None], Session]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch": _open_torch,
}
