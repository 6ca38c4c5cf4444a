"""`finetune evaluate` and `report`: how good a trained run is."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.errors import RunError

_TOLD = {
    "classify": ("top1", "top5", "macro_f1"),
    "multilabel": ("map", "micro_f1", "macro_f1"),
    "ordinal": ("top1", "mean_distance", "within_one"),
    "box": ("mean_iou", "ap50", "center_error"),
    "motion": ("correlation", "endpoint_error"),
    "regress": ("r2", "mae", "correlation"),
}
Run = Annotated[Path, typer.Argument(help="Run folder, as `finetune train` printed it.")]


def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    views: Annotated[int | None, typer.Option(min=1, help="Clips a video whose answers become one.")] = None,
    on_error: Annotated[str | None, typer.Option(help="fail or skip: files that cannot be read.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default in the run folder.")] = None,
    pictures: Annotated[bool, typer.Option(help="Put frames of the clips that matter into the report.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="Show where the model looked in these frames.")] = False,
) -> None:
    """Score a run on one split and write results.json, predictions.csv and report.html."""
    if on_error not in {None, "fail", "skip"}:
        raise RunError(f"--on-error is fail or skip, not {on_error!r}")
    if explain and not pictures:
        raise RunError("--explain draws on frames; leave out --no-pictures")
    from finetune import evaluation
    from finetune.explain import explain as look
    from finetune.infer import is_main_process
    from finetune.report.page import write_report
    from finetune.report.run_folder import evaluation_of

    folder = out or evaluation_of(run, split)
    results = evaluation.evaluate(run, split=split, views=views, on_error=on_error, out=folder, pictures=pictures)
    if not is_main_process():
        return
    if explain:
        look(run, evaluation=folder)
    page = write_report(run, evaluation=folder)
    several = len(results["tasks"]) > 1
    for task, figures in results["tasks"].items():
        for name in _TOLD[figures["kind"]]:
            interval = "" if (ends := figures[f"{name}_ci"]) is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            what = f"{task} {name}" if several else f"{name:9}"
            print(f"{what} {figures[name]:.3f}  (95 % interval {interval or 'unknown'})")
    print(f"clips     {results['num_rows']}" + f", {len(results['skipped'])} skipped" * bool(results["skipped"]))
    print(f"report    {page}")


def report(
    run: Run,
    split: Annotated[str, typer.Option(help="train, val or test: which evaluation.")] = "test",
    explain: Annotated[bool, typer.Option("--explain", help="Show where the model looked; needs the videos.")] = False,
) -> None:
    """Write report.html, report.md and figures of a run anew from its results.json; needs no torch and no videos."""
    from finetune.report.page import write_report
    from finetune.report.run_folder import evaluation_there

    folder = evaluation_there(run, split)
    if not (folder / "results.json").is_file():
        option = "" if split == "test" else f" --split {split}"
        raise RunError(f"{folder}: has no results.json; make it with `finetune evaluate {run}{option}`")
    if explain:
        from finetune.explain import explain as look

        look(run, evaluation=folder)
    print(write_report(run, evaluation=folder))
