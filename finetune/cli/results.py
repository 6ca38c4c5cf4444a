"""`finetune evaluate` and `finetune report`: score a run, and rebuild its report."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune.cli.arguments import DataRoot, OwnParts, RunArgument, SplitName, Views
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.manifest import print_data_root_mapping
from finetune.cli.progress import WRITING_REPORT, progress_bars
from finetune.cli.wrap import print_wrapped
from finetune.errors import RunError
from finetune.recipe.own_parts import import_named_parts
from finetune.recipe.tasks import require_classes
from finetune.text import count

if TYPE_CHECKING:
    from finetune.run.results import TaskResults

_PRINTED_METRICS = {
    "classify": ("top1", "top5", "macro_f1"),
    "multilabel": ("map", "micro_f1", "macro_f1"),
    "ordinal": ("top1", "mean_distance", "within_one"),
    "box": ("mean_iou", "ap50", "center_error"),
    "motion": ("correlation", "endpoint_error"),
    "regress": ("r2", "mae", "correlation"),
    "detect": ("ap", "ap50", "hota", "mota", "idf1"),
    "track": ("ap", "ap50", "motion_correlation", "hota", "mota", "idf1"),
    "segment": ("miou", "pixel_accuracy", "steadiness"),
}


def evaluate(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Another labelled set: data.manifest=FILE.csv or data.folder=DIR."),
    ] = None,
    split: Annotated[SplitName | None, typer.Option(help="Default: test, or all rows of another set.")] = None,
    unknown_classes: Annotated[
        Literal["fail", "skip", "score"],
        typer.Option(help="Rows of another set whose class the run does not know; score: how well they are told."),
    ] = "fail",
    data_root: DataRoot = None,
    views: Views = None,
    on_error: Annotated[
        Literal["fail", "skip"] | None, typer.Option(help="Unreadable files. Default: as in the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder. Default: in the run folder.")] = None,
    pictures: Annotated[bool, typer.Option(help="Show frames of selected clips in the report.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="Overlay Grad-CAM heat maps on these frames.")] = False,
    retrieval: Annotated[
        bool | None,
        typer.Option(help="Also evaluate how well clips find others of their class. Default: as in the recipe."),
    ] = None,
    timeline: Annotated[
        bool | None,
        typer.Option(help="Also find and evaluate the events of annotated recordings. Default: as in the recipe."),
    ] = None,
    parts: OwnParts = None,
) -> None:
    """Score a run on a split or on another labelled set.

    Writes results.json, predictions.csv and report.html.

    Example: finetune evaluate runs/mine --split val --views 3
    """
    if explain and not pictures:
        raise RunError("--explain draws on the frames of the report; omit --no-pictures")
    from finetune.run.read import open_run, require_checkpoint

    opened = open_run(run)  # a folder that is no run is refused before the slow imports
    opened = open_run(opened, parts=import_named_parts(parts or ()))
    if explain or timeline:
        require_checkpoint(opened, "--explain" if explain else "--timeline")
    if retrieval:
        require_checkpoint(opened, "--retrieval")
        require_classes(opened.outputs, opened.folder, "--retrieval")
    import_quickly("finetune.evaluation.evaluate")
    from finetune.evaluation import evaluate as evaluation
    from finetune.evaluation.external_set import external_set_folder
    from finetune.metrics.headline import format_open_set, format_retrieval
    from finetune.report.run.page import write_report
    from finetune.run.folder import RunFolder
    from finetune.runtime.processes import is_main_process

    print_data_root_mapping(run, data_root)
    if timeline is None:
        timeline = opened.recipe.evaluate.timeline and not overrides and opened.exported is None
    if timeline:
        from finetune.timeline.evaluate_timeline import recordings_to_evaluate

        recordings_to_evaluate(opened, overrides or (), split=split, data_root=data_root)
    folder = out or (
        external_set_folder(run, overrides) if overrides else RunFolder(run).evaluation(split or "test").path
    )
    with progress_bars() as progress:
        results = evaluation.evaluate(
            opened,
            overrides or (),
            split=split,
            views=views,
            on_error=on_error,
            unknown_classes=unknown_classes,
            retrieval=retrieval,
            data_root=data_root,
            out=folder,
            pictures=pictures,
            progress=partial(progress, "evaluating"),
        )
        if not is_main_process():
            return
        if explain:
            from finetune.evaluation.gradcam import explain as add_heat_maps

            heat_maps = partial(progress, "heat maps")
            add_heat_maps(opened, overrides or (), evaluation=folder, data_root=data_root, progress=heat_maps)
        events = None
        if timeline:
            from finetune.cli.timeline_files import evaluate_events

            how = {"overrides": overrides or (), "split": split, "data_root": data_root, "on_error": on_error}
            events = evaluate_events(opened, folder, progress, **how)
        progress(WRITING_REPORT, 0, None)
        page = write_report(run, evaluation=folder)
    for warning in results["warnings"] if overrides else []:
        print(f"warning   {warning['what']}", file=sys.stderr)
    several = len(results["tasks"]) > 1
    for task, metrics in results["tasks"].items():
        for name, text in _metric_texts(metrics):
            print(f"{f'{task} {name}' if several else f'{name:9}'} {text}")
        if open_set := metrics.get("open_set"):
            print(f"unknown   {format_open_set(open_set)}")
    print(f"clips     {results['num_rows']}" + f", {len(results['skipped'])} skipped" * bool(results["skipped"]))
    if "retrieval" in results:
        print_wrapped(f"retrieval {format_retrieval(results['retrieval'])}")
    if events is not None:
        from finetune.metrics.headline import format_events

        print(f"events    {format_events(events)}")
    print(f"report    {page}")


def _metric_texts(metrics: "TaskResults") -> Iterator[tuple[str, str]]:
    """Names and values of the printed metrics of a task, with their intervals; those of tracks where it has any."""
    own = [metrics["own_metric"]] if metrics.get("own_metric") else []
    for name in (*_PRINTED_METRICS[metrics["kind"]], *own):
        if name in metrics:
            value, ends = metrics[name], metrics[f"{name}_ci"]
            interval = "unknown" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            missing = "not finite" if name in own else "unknown"
            yield name, f"{missing if value is None else f'{value:.3f}'}  (95 % interval {interval})"
    if "switches" in metrics:
        yield "switches", f"of identity: {metrics['switches']}, in {count(metrics['num_identities'], 'true track')}"


def report(
    run: RunArgument,
    split: Annotated[SplitName, typer.Option(help="Evaluated split.")] = "test",
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another evaluated set: the name of its folder in RUN/evaluation."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Overlay Grad-CAM heat maps; needs the videos.")] = False,
    data_root: DataRoot = None,
    parts: OwnParts = None,
) -> None:
    """Rebuild the report of a run from its saved results.

    Writes report.html, report.md and the figures from results.json.
    Needs neither torch nor videos, unless --explain is given.

    Example: finetune report runs/mine --explain
    """
    from finetune.report.run.page import write_report
    from finetune.run.folder import RunFolder
    from finetune.run.read import find_evaluation, missing_results_message, open_run

    if data is not None and explain:
        raise RunError("--explain needs the videos: finetune evaluate RUN data.manifest=FILE.csv --explain")
    evaluation = find_evaluation(run, split) if data is None else RunFolder(run).external_evaluation(data)
    if not evaluation.exists():
        if data is None:
            raise RunError(f"{run}: {missing_results_message(run, split)}")
        command = f"finetune evaluate {run} data.manifest=FILE.csv"
        raise RunError(f"{evaluation.path}: has no {evaluation.results.name}; make it with `{command}`")
    if (data_root is not None or parts) and not explain:
        option, reads = ("--part", "imports no code") if parts else ("--data-root", "reads no videos")
        raise RunError(f"{option} is only for --explain: a report without heat maps {reads}")
    with progress_bars() as progress:
        if explain:
            print_data_root_mapping(run, data_root)
            import_quickly("finetune.evaluation.gradcam")
            from finetune.evaluation.gradcam import explain as add_heat_maps

            heat_maps = partial(progress, "heat maps")
            opened = open_run(run, parts=import_named_parts(parts or ()))
            add_heat_maps(opened, evaluation=evaluation.path, data_root=data_root, progress=heat_maps)
        progress(WRITING_REPORT, 0, None)
        page = write_report(run, evaluation=evaluation.path)
    print(page)
