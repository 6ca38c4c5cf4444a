"""`finetune evaluate`, `predict` and `report`: what a trained run says, and how good it is."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune.errors import RunError

Run = Annotated[Path, typer.Argument(help="Run folder, as `finetune train` printed it.")]


def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    views: Annotated[int | None, typer.Option(min=1, help="Clips a video whose answers become one.")] = None,
    on_error: Annotated[str | None, typer.Option(help="fail or skip: files that cannot be read.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default in the run folder.")] = None,
) -> None:
    """Score a run on one split and write results.json, predictions.csv and report.html."""
    if on_error not in {None, "fail", "skip"}:
        raise RunError(f"--on-error is fail or skip, not {on_error!r}")
    from finetune import evaluation
    from finetune.report.page import write_report

    folder = out or (run / "evaluation" if split == "test" else run / "evaluation" / split)
    results = evaluation.evaluate(run, split=split, views=views, on_error=on_error, out=folder)
    page = write_report(run, evaluation=folder)
    figures = results["tasks"]["label"]
    for name in ("top1", "top5", "macro_f1") if figures["kind"] == "classify" else ("map", "micro_f1", "macro_f1"):
        low, high = figures[f"{name}_ci"] or (0.0, 1.0)
        print(f"{name:9} {figures[name]:.3f}  (95 % interval {low:.3f} to {high:.3f})")
    print(f"clips     {results['num_rows']}" + f", {len(results['skipped'])} skipped" * bool(results["skipped"]))
    print(f"report    {page}")


def predict(
    run: Run,
    paths: Annotated[list[Path], typer.Argument(help="Videos, images, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a CSV file instead of printing.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes a video.")] = 5,
    views: Annotated[int | None, typer.Option(min=1, help="Clips a video whose answers become one.")] = None,
) -> None:
    """Name the class of videos."""
    from finetune import prediction

    predictions = prediction.predict(run, paths, views=views, top_k=top_k)
    if csv_file is not None:
        with csv_file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "predicted", "probability", "top_k"])
            for each in predictions:
                top = json.dumps(each.top_k, ensure_ascii=False)
                writer.writerow([each.path, each.predicted, each.probability, top])
        print(csv_file)
    elif as_json:
        items = [
            {
                "path": str(each.path),
                "predicted": each.predicted,
                "probability": each.probability,
                **({} if each.named is None else {"named": list(each.named)}),
                "top_k": [{"class": name, "probability": probability} for name, probability in each.top_k],
            }
            for each in predictions
        ]
        json.dump(items, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        for each in predictions:
            named = "   ".join(f"{name} {probability:.3f}" for name, probability in each.top_k)
            verdict = "" if each.named is None else f"    is {', '.join(each.named) or 'none of the classes'}\n"
            print(f"{each.path}\n{verdict}    {named}")


def report(run: Run) -> None:
    """Write report.html of a run anew from its results.json; needs no torch and no videos."""
    from finetune.report.page import write_report

    if not (run / "evaluation" / "results.json").is_file():
        raise RunError(f"{run}: has no evaluation/results.json; make it with `finetune evaluate {run}`")
    print(write_report(run))
