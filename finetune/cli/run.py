"""`finetune train`: from a recipe to a run folder with its report."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.data import print_data_root_mapping, print_manifest_notes
from finetune.errors import FinetuneError, RecipeError
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe
from finetune.storage.atomic import current_version

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, each key.sub=value: train.batch_size=16")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder itself; by default runs/<recipe>-<time>.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run folder, stopped or killed, instead of a recipe.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="With --resume: the folder where the run's files are now, if they were moved.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, max=26, help="Train so many times, each with another seed: how far chance goes."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try two steps of each phase, and print_line what the run would take.")
    ] = False,
) -> None:
    """Train by a recipe, test the result, write its report. The last line printed is the run folder."""
    if resume is not None:
        if out is not None:
            raise RecipeError(f"--resume goes on in its own folder, {resume}; leave out --out")
        if dry_run or seeds is not None:
            raise RecipeError(f"{'--dry-run' if dry_run else '--seeds'} is for a new run; leave out --resume")
        _resume_run(resume, [*([recipe] if recipe else []), *(overrides or [])], data_root)
        return
    if data_root is not None:
        raise RecipeError("--data-root goes with --resume; for a new run, set data.manifest or data.folder")
    if recipe is None:
        raise RecipeError("a recipe is missing: finetune train RECIPE (see `finetune recipes list`), or --resume RUN")
    settings = load_recipe(recipe, overrides or [])
    manifest = load_manifest(settings)
    _check_model_names(settings)

    from finetune.run.checkpoint import new_run_folder
    from finetune.runtime.device import resolve_device
    from finetune.runtime.processes import on_main_then_broadcast
    from finetune.train.from_recipe import train_from_recipe

    resolve_device(settings.train.device)
    if dry_run:
        _print_forecast(settings, manifest)
        return
    if seeds is not None:
        _train_seeds(settings, manifest, seeds, out or Path("runs") / f"{Path(recipe).stem}-{seeds}-seeds")
        return
    folder = on_main_then_broadcast(lambda: new_run_folder(Path(recipe).stem, out))
    with _resume_hint_on_interrupt(folder):
        train_from_recipe(settings, manifest, out=folder)
    evaluate_and_report(folder)


def _train_seeds(settings: Recipe, manifest: "Manifest", seeds: int, out: Path) -> None:
    import statistics

    from finetune.metrics.headline import headline
    from finetune.recipe.tasks import CATEGORICAL_KINDS
    from finetune.report.compare.page import compare_runs, write_compare_page
    from finetune.run.read import evaluation_folder
    from finetune.study.seeds import train_seeds
    from finetune.study.study_runs import primary_task_metrics

    try:
        split, runs = train_seeds(
            settings, manifest, seeds=seeds, out=out, announce=lambda text: print(text, file=sys.stderr)
        )
    except KeyboardInterrupt:
        print(f"finetune: to go on: the same command again, with --out {shlex.quote(str(out))}", file=sys.stderr)
        raise
    values = []
    for run in runs:
        name, value, (low, high) = headline(primary_task_metrics(run, split))
        values.append(value)
        print(f"{run.name}  {split} {name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print(f"mean {statistics.mean(values):.3f}, standard deviation between seeds {statistics.stdev(values):.3f}")
    for run in runs:
        print(f"report {evaluation_folder(run, split) / 'report.html'}")
    if primary_task_metrics(runs[0], split)["kind"] in CATEGORICAL_KINDS:  # of numbers no clip is right or wrong
        write_compare_page(compare_runs(runs, split=split), out / "compare.html")
        print(f"beside each other {out / 'compare.html'}")
    print(out, flush=True)


def _print_forecast(settings: Recipe, manifest: "Manifest") -> None:
    from finetune.train.from_recipe import new_model
    from finetune.train.setup.dry_run import estimate_phases

    phases = estimate_phases(new_model(settings, manifest), manifest, settings)
    width = max(len(phase.learns) for phase in phases)
    print(f"phase  {'learns':{width}}   parameters   steps  s a step  minutes  peak GB")
    for number, each in enumerate(phases, 1):
        print(
            f"{number:5}  {each.learns:{width}}  {each.parameters:11,}  {each.steps:6,}  {each.seconds_per_step:8.2f}"
            f"  {each.minutes:7.1f}  {each.peak_gb:7.1f}"
            + "  frozen work done once" * each.kept
            + "  waits for videos" * (each.waits_for_data and not each.kept)
        )
    if any(each.waits_for_data and not each.kept for each in phases):
        print("videos come slower than the network learns: `finetune data pack`, or more data.workers, helps")
    print(f"about {sum(each.minutes for each in phases):.0f} minutes of training; nothing was trained or written")


def _resume_run(folder: Path, overrides: list[str], data_root: Path | None) -> None:
    if strays := [override for override in overrides if "=" not in override]:
        raise RecipeError(f"--resume takes its recipe from {folder}; leave out {strays[0]!r}")

    from finetune.train.resume import resume

    print_data_root_mapping(folder, data_root)
    with _resume_hint_on_interrupt(folder):
        resume(folder, overrides, data_root=data_root)
    evaluate_and_report(folder, data_root=data_root)


@contextmanager
def _resume_hint_on_interrupt(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if current_version(folder / "checkpoints" / "last").is_dir():
            print(f"finetune: to go on: finetune train --resume {shlex.quote(str(folder))}", file=sys.stderr)
        raise


def evaluate_and_report(folder: Path, *, data_root: Path | None = None) -> None:
    """Evaluate a trained run on its test split, or else on val, and write its report."""
    from finetune.evaluation.evaluate import evaluate
    from finetune.metrics.headline import format_headline
    from finetune.report.run.page import write_report
    from finetune.run.checkpoint import open_run
    from finetune.run.manifest import saved_manifest
    from finetune.runtime.processes import is_main_process

    if not is_main_process():
        return
    manifest = saved_manifest(folder, *open_run(folder), data_root=data_root)
    split = next((name for name in ("test", "val") if len(manifest.rows(name))), "train")
    results = evaluate(folder, split=split, out=folder / "evaluation", data_root=data_root)
    page = write_report(folder)
    _refresh_index(folder.absolute().parent)
    for name, task in results["tasks"].items():
        of_task = f" {name}" if len(results["tasks"]) > 1 else ""
        print(f"{split}{of_task} {format_headline(task)} on {task.get('num_rows', results['num_rows'])} clips")
    print(f"report {page}")
    print(folder, flush=True)


def _refresh_index(folder: Path) -> None:
    """The list of runs is kept new where runs lie by default, or where `finetune runs` has written one."""
    from finetune.report.pages.runs_index import is_index, write_index

    if is_index(folder / "index.html") or (folder.name == "runs" and not (folder / "index.html").exists()):
        with suppress(FinetuneError, OSError):
            write_index(folder)


def load_manifest(recipe: Recipe, *, whole: bool = False) -> "Manifest":
    """The rows that a recipe's `data` names, with the labels of its tasks.

    `whole`: all of them to learn from, whatever splits they have.

    Raises RecipeError unless it names exactly one of manifest and folder.
    """
    from finetune.data.manifest import Manifest

    data = recipe.data
    if (data.manifest is None) == (data.folder is None):
        raise RecipeError(
            "a recipe needs one of data.manifest and data.folder: "
            "add data.folder=DIR (a folder for each class) or data.manifest=FILE.csv (columns path,label)"
        )
    shares: dict[str, Any] = {"val": data.val, "test": data.test, "seed": recipe.seed, "whole": whole}
    shares["tasks"] = recipe.tasks
    if data.manifest is not None:
        shares |= {"multilabel": data.multilabel, "packed": data.packed is not None}
        manifest = print_manifest_notes(Manifest.from_csv(data.manifest, group_pattern=data.group_pattern, **shares))
        return _at_image_rate(manifest, data.image_rate)
    if data.multilabel:
        raise RecipeError("data.multilabel needs data.manifest: a file in a class's folder has that class alone")
    assert data.folder is not None
    shares["image_sequences"] = data.image_sequences
    manifest = print_manifest_notes(Manifest.from_folder(data.folder, group_pattern=data.group_pattern, **shares))
    return _at_image_rate(manifest, data.image_rate)


def _at_image_rate(manifest: "Manifest", rate: float) -> "Manifest":
    """The manifest with the frame rate of its folders of numbered images; prints how many there are."""
    from finetune.text import count

    sequences = sum(manifest.path(row).is_dir() for row in range(len(manifest)))
    if sequences:
        print(
            f"{count(sequences, 'folder')} of numbered images: one clip each, at {rate:g} frames a second "
            "(data.image_sequences, data.image_rate)",
            file=sys.stderr,
        )
    return replace(manifest, image_rate=rate)


def _check_model_names(settings: Recipe) -> None:
    """What can be said of the model before the libraries are imported, which takes seconds."""
    from finetune.model.backbone.known_names import check_name

    check_name(settings.model.backbone)
    weights = settings.model.weights
    if weights not in {"imagenet", "bundled", "none"} and not Path(weights).is_file():
        raise RecipeError(f"model.weights: there is no file {weights!r}; or say imagenet, bundled or none")
