"""`finetune export`: a run's network as a file for another runtime, compared with the run before it is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune.cli.arguments import DataRoot, OwnParts, RunArgument
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.progress import progress_bars
from finetune.recipe.own_parts import import_named_parts
from finetune.text import count

if TYPE_CHECKING:
    from finetune.run.model_json import Int8Info, ModelInfo


def export(
    run: RunArgument,
    to: Annotated[Literal["onnx", "openvino", "torch"], typer.Option(help="Format: torch is a .pt2 file.")],
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"], typer.Option(help="Number format. onnx has no bf16.")
    ] = "fp32",
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize to int8, calibrated on training clips; kept if it costs little.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: in RUN/exported, named for the format.")
    ] = None,
    check: Annotated[
        Literal["split", "batches"],
        typer.Option(help="Compare with the run on the test split too (val without one), or on random frames only."),
    ] = "split",
    max_different: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Predictions that may differ. Default: 0 at fp32, else 1 % of clips."),
    ] = None,
    data_root: DataRoot = None,
    parts: OwnParts = None,
) -> None:
    """Export a run to ONNX, OpenVINO or torch.export.

    The folder has the model, model.json, and a README with code that runs it.
    It is kept only if the model predicts what the run predicts.

    Example: finetune export runs/mine --to onnx
    """
    from finetune.export.settings import ExportSettings, check_before_work
    from finetune.run.read import open_run

    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    settings = ExportSettings(to, precision, out, check, max_different, data_root, int8)
    check_before_work(opened, settings)
    import_quickly("finetune.export.export_run")
    from finetune.export.export_run import export_run
    from finetune.model.backbone.weights_source import licence_warning

    with progress_bars() as progress:
        folder, info = export_run(opened, settings, progress=progress)
    _print_parity(info)
    if (of_int8 := info.get("int8")) is not None:
        _print_int8(of_int8)
        if to == "onnx":
            print("warning   ONNX Runtime can be slower at int8 than at fp32: see docs/export.md", file=sys.stderr)
    if warning := licence_warning(info.get("weights") or {}):
        print(f"warning   {' '.join(warning)}", file=sys.stderr)
    print(folder)


def _print_int8(info: Int8Info) -> None:
    from finetune.export.int8_cost import describe_cost

    for task, cost in info["cost"].items():
        print(f"int8      {describe_cost(task, cost)}")
    print(f"          {info['bytes'] / 1e6:.2f} MB, fp32 {info['fp32_bytes'] / 1e6:.2f} MB ({info['recipe']} settings)")


def _print_parity(info: ModelInfo) -> None:
    parity = info["parity"]
    assert parity is not None
    sizes = ", ".join(map(str, parity["batch_sizes"]))
    largest = max(parity["largest_difference"].values())
    print(f"parity    random frames, batches of {sizes}: outputs differ by {largest:.1e} at most")
    if "note" in parity:
        print(f"parity    {parity['note']}")
    split = parity["split"]
    if split is None:
        return
    several = len(split["different"]) > 1
    for task, different in split["different"].items():
        of_task = f" {task}" if several else ""
        largest = split["largest_difference"][task]
        print(
            f"parity    {split['split']}{of_task}: {len(different)} of {split['clips']} predictions differ, "
            f"values by {largest:.1e} at most"
        )
        for row in different[:10]:
            print(f"          {row['clip']}: {row['run']}, exported {row['exported']}")
    if split["skipped"]:
        print(f"warning   {count(split['skipped'], 'clip')} could not be read", file=sys.stderr)
