"""`finetune evaluate` and `report`: how good a trained run is."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.data import print_data_root_mapping
from finetune.errors import RunError

_PRINTED_METRICS = {
    "classify": ("top1", "top5", "macro_f1"),
    "multilabel": ("map", "micro_f1", "macro_f1"),
    "ordinal": ("top1", "mean_distance", "within_one"),
    "box": ("mean_iou", "ap50", "center_error"),
    "motion": ("correlation", "endpoint_error"),
    "regress": ("r2", "mae", "correlation"),
}
DataRoot = Annotated[Path | None, typer.Option(help="The folder where the run's files are now, if they were moved.")]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, as `finetune train` printed it.")]


def evaluate(
    run: RunFolder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Another labelled set to score: data.manifest=FILE.csv or data.folder=DIR."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test; by default test, or all rows of another set.")
    ] = None,
    unknown_classes: Annotated[
        str, typer.Option(help="fail or skip: rows of another set with a class that the run does not know.")
    ] = "fail",
    data_root: DataRoot = None,
    views: Annotated[int | None, typer.Option(min=1, help="Clips a video whose answers become one.")] = None,
    on_error: Annotated[str | None, typer.Option(help="fail or skip: files that cannot be read.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default in the run folder.")] = None,
    pictures: Annotated[bool, typer.Option(help="Put frames of the clips that matter into the report.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="Show where the model looked in these frames.")] = False,
) -> None:
    """Score a run on one split, or on another labelled set; write results.json, predictions.csv and report.html."""
    if unknown_classes not in {"fail", "skip"}:
        raise RunError(f"--unknown-classes is fail or skip, not {unknown_classes!r}")
    if on_error not in {None, "fail", "skip"}:
        raise RunError(f"--on-error is fail or skip, not {on_error!r}")
    if explain and not pictures:
        raise RunError("--explain draws on frames; leave out --no-pictures")
    from finetune.evaluation import evaluate as evaluation
    from finetune.evaluation.gradcam import explain as look
    from finetune.evaluation.other_set import external_set_folder
    from finetune.report.run.page import write_report
    from finetune.run.read import evaluation_folder
    from finetune.runtime.processes import is_main_process

    print_data_root_mapping(run, data_root)
    folder = out or (external_set_folder(run, overrides) if overrides else evaluation_folder(run, split or "test"))
    results = evaluation.evaluate(
        run,
        overrides or (),
        split=split,
        views=views,
        on_error=on_error,
        unknown_classes=unknown_classes,
        data_root=data_root,
        out=folder,
        pictures=pictures,
    )
    if not is_main_process():
        return
    if explain:
        look(run, overrides or (), evaluation=folder, data_root=data_root)
    page = write_report(run, evaluation=folder)
    for warning in results["warnings"] if overrides else []:
        print(f"warning   {warning['what']}", file=sys.stderr)
    several = len(results["tasks"]) > 1
    for task, figures in results["tasks"].items():
        for name in _PRINTED_METRICS[figures["kind"]]:
            interval = "" if (ends := figures[f"{name}_ci"]) is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            what = f"{task} {name}" if several else f"{name:9}"
            print(f"{what} {figures[name]:.3f}  (95 % interval {interval or 'unknown'})")
    print(f"clips     {results['num_rows']}" + f", {len(results['skipped'])} skipped" * bool(results["skipped"]))
    print(f"report    {page}")


def report(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="train, val or test: which evaluation.")] = "test",
    data: Annotated[
        str | None, typer.Option(help="Name of another set that was evaluated: its folder in RUN/evaluation.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show where the model looked; needs the videos.")] = False,
    data_root: DataRoot = None,
) -> None:
    """Write report.html, report.md and figures of a run anew from its results.json; needs no torch and no videos."""
    from finetune.report.run.page import write_report
    from finetune.run.read import find_evaluation

    if data is not None and explain:
        raise RunError("--explain needs the videos: finetune evaluate RUN data.manifest=FILE.csv --explain")
    folder = find_evaluation(run, split) if data is None else run / "evaluation" / data
    if not (folder / "results.json").is_file():
        option = " data.manifest=FILE.csv" if data is not None else "" if split == "test" else f" --split {split}"
        raise RunError(f"{folder}: has no results.json; make it with `finetune evaluate {run}{option}`")
    if explain:
        from finetune.evaluation.gradcam import explain as look

        print_data_root_mapping(run, data_root)
        look(run, evaluation=folder, data_root=data_root)
    elif data_root is not None:
        raise RunError("--data-root is for --explain: a report without it reads no videos")
    print(write_report(run, evaluation=folder))
