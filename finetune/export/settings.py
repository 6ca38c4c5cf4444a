"""What to export, and what can be refused before torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.errors import RunError
from finetune.run.folder import ExportedFolder, RunFolder
from finetune.run.model_json import ExportFormat
from finetune.run.read import Run
from finetune.runtime.extras import import_extra
from finetune.runtime.signal_stack import keep_signal_stack
from finetune.storage.atomic import check_writable

Precision = Literal["fp32", "fp16", "bf16"]
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ()}


@dataclass(frozen=True)
class ExportSettings:
    """What to export and how to check it.

    `check` is `split`: random frames and the test split (val where there is none); or `batches`: random frames alone.
    `max_different` is how many predictions of a task may differ on the split: None is 0 at fp32, 1 % at fp16 and bf16,
    and any number at `int8`, which is judged by what it costs.
    """

    to: ExportFormat
    precision: Precision = "fp32"
    out: Path | None = None
    check: Literal["split", "batches"] = "split"
    max_different: int | None = None
    data_root: Path | None = None
    int8: bool = False


def target_folder(run: Run, settings: ExportSettings) -> Path:
    return settings.out or RunFolder(run.folder).exported / (settings.to + "-int8" * settings.int8)


def check_before_work(run: Run, settings: ExportSettings) -> None:
    """Raise RunError where the export cannot succeed: a task, a missing library, or a folder that cannot be written."""
    if dense := [name for name, output in run.outputs.items() if output.is_dense]:
        raise RunError(
            f"{run.folder}: tasks of kind detect, track and segment cannot be exported: {', '.join(dense)}; use "
            "`finetune predict`"
        )
    if settings.to == "onnx" and settings.precision == "bf16":
        raise RunError("onnxruntime does not compute bf16 on CPUs; use --precision fp32 or fp16, or another format")
    if settings.int8:
        _refuse_int8(settings)
    target = target_folder(run, settings)
    is_other = target.exists() and not ExportedFolder(target).info.is_file()
    if is_other and (target.is_file() or any(target.iterdir())):
        raise RunError(f"{target}: exists and is not an exported folder; give --out another name")
    check_writable(ExportedFolder(target).info)
    if LIBRARIES[settings.to]:
        import_extra(*LIBRARIES[settings.to], *(["nncf"] if settings.int8 else []), extra=settings.to)
    if settings.to == "openvino" and settings.precision != "fp32":
        _refuse_uncomputed(settings.precision)


def _refuse_uncomputed(precision: Precision) -> None:
    """Raise RunError where this processor does not compute in a precision: OpenVINO would take another silently."""
    with keep_signal_stack():
        processor = import_extra("openvino", extra="openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() not in processor:
        able = [name for name in ("bf16", "fp16") if name.upper() in processor]
        raise RunError(
            f"OpenVINO does not compute {precision} on this processor, so the export could not be compared with the "
            f"run; use --precision {' or '.join(['fp32', *able])}"
        )


def _refuse_int8(settings: ExportSettings) -> None:
    """Raise RunError where a model cannot be quantized, or what that costs cannot be measured."""
    if settings.to == "torch":
        raise RunError("--int8 is for onnx and openvino; --to torch has no int8")
    if settings.precision != "fp32":
        raise RunError(f"--int8 keeps the other parts in fp32, not {settings.precision}; omit --precision")
    if settings.check == "batches":
        raise RunError("--int8 is judged on clips of the test split, or of val without one; omit --check batches")
