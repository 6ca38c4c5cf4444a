"""`finetune train`: train from a recipe, evaluate the run, write its report."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.arguments import AllowCode, OptionalRecipeName, Overrides, OwnParts, recipe_source
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.manifest import load_manifest, print_data_root_mapping
from finetune.cli.progress import WRITING_REPORT, progress_bar, progress_bars
from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.errors import FinetuneError, RecipeError, shorten_list
from finetune.recipe.load import load_recipe
from finetune.recipe.own_parts import import_named_parts, imported_parts, own_parts, part_name
from finetune.recipe.schema import Recipe
from finetune.text import duration
from finetune.video.worker_pool import start_fork_server

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


def train(
    recipe: OptionalRecipeName = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder. Default: runs/<recipe>-<time>.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume this interrupted run; takes no recipe.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --resume: folder that now holds the run's files, if they were moved."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, max=26, metavar="N", help="Train with N seeds and report the spread."),
    ] = None,
    allow_code: AllowCode = False,
    parts: OwnParts = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate time and memory from two steps per phase; train nothing.")
    ] = False,
) -> None:
    """Train from a recipe, evaluate, and write a report.

    The run is evaluated on the test split, or on val if there is no test split.
    The last line printed is the run folder.

    Example: finetune train DIR model.backbone=resnet50.a1_in1k --out runs/mine
    """
    if resume is not None:
        if out is not None:
            raise RecipeError(f"--resume continues in the run's own folder, {resume}; leave out --out")
        if dry_run or seeds is not None:
            raise RecipeError(f"{'--dry-run' if dry_run else '--seeds'} is for a new run; leave out --resume")
        given = [*([recipe] if recipe else []), *(overrides or [])]
        _resume_run(resume, given, parts or (), data_root, allow_code=allow_code)
        return
    if parts:
        raise RecipeError(f"--part goes with --resume; for a new run, set {parts[0]} with --allow-code")
    if data_root is not None:
        raise RecipeError("--data-root goes with --resume; for a new run, set data.manifest or data.folder")
    if recipe is None:
        raise RecipeError("no recipe given: finetune train RECIPE (see `finetune recipes list`), or --resume RUN")
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides, allow_code=allow_code)
    manifest = load_manifest(settings)
    _check_model_names(settings)

    if settings.data.workers != 0:
        start_fork_server()
    import_quickly("finetune.train.from_recipe")
    from finetune.run.write import new_run_folder
    from finetune.runtime.device import resolve_device
    from finetune.runtime.processes import on_main_then_broadcast
    from finetune.train.from_recipe import train_from_recipe

    resolve_device(settings.train.device)
    if dry_run:
        _print_forecast(settings, manifest)
        return
    if seeds is not None:
        _train_seeds(settings, manifest, seeds, out or Path("runs") / f"{source.name}-{seeds}-seeds")
        return
    folder = on_main_then_broadcast(lambda: new_run_folder(source.name, out))
    with _resume_hint_on_interrupt(folder, settings):
        train_from_recipe(settings, manifest, out=folder)
    evaluate_and_report(folder, parts=imported_parts(settings))


def _train_seeds(settings: Recipe, manifest: "Manifest", seeds: int, out: Path) -> None:
    import statistics

    from finetune.recipe.tasks import CATEGORICAL_KINDS
    from finetune.report.compare.compare_runs import compare_runs
    from finetune.report.compare.page import write_compare_page
    from finetune.study.seeds import train_seeds

    runs = train_seeds(settings, manifest, seeds=seeds, out=out)
    values, split = [], runs[0].results["split"]
    for run in runs:
        name, value, (low, high) = run.headline
        values.append(value)
        print(f"{run.folder.name}  {split} {name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print(f"mean {statistics.mean(values):.3f}, standard deviation between seeds {statistics.stdev(values):.3f}")
    for run in runs:
        print(f"report {run.evaluation.report}")
    if runs[0].primary_metrics["kind"] in CATEGORICAL_KINDS:  # others have no correct or wrong clips
        write_compare_page(compare_runs([run.folder for run in runs], split=split), out / "compare.html")
        print(f"comparison {out / 'compare.html'}")
    print(out, flush=True)


def _print_forecast(settings: Recipe, manifest: "Manifest") -> None:
    from finetune.train.from_recipe import new_model
    from finetune.train.setup.dry_run import estimate_phases

    with progress_bar("measuring phases") as progress:
        phases = estimate_phases(new_model(settings, manifest), manifest, settings, progress=progress)
    columns = {
        "phase": range(1, len(phases) + 1),
        "trains": [phase.learns for phase in phases],
        "parameters": [f"{phase.parameters:,}" for phase in phases],
        "steps": [f"{phase.steps:,}" for phase in phases],
        "s/step": [f"{phase.seconds_per_step:.2f}" for phase in phases],
        "time": [duration(phase.seconds) for phase in phases],
        "peak GB": [f"{phase.peak_gb:.1f}" for phase in phases],
    }
    print_table(columns, right={"parameters", "steps", "s/step", "time", "peak GB"})
    if cached := [number for number, phase in enumerate(phases, 1) if phase.kept]:
        print(f"Frozen features cached: phase {shorten_list(cached)}.")
    if waiting := [number for number, phase in enumerate(phases, 1) if phase.waits_for_data and not phase.kept]:
        print(f"Decoding is slower than training: phase {shorten_list(waiting)}.")
        print("Try `finetune data pack`, or more data.workers.")
    total = duration(sum(phase.seconds for phase in phases))
    print(f"About {total} of training; nothing was trained or written.")


def _resume_run(
    folder: Path, overrides: list[str], parts: Sequence[str], data_root: Path | None, *, allow_code: bool
) -> None:
    if strays := [override for override in overrides if "=" not in override]:
        raise RecipeError(f"--resume reads the recipe from {folder}; leave out {strays[0]!r}")

    from finetune.run.read import open_run

    run = open_run(folder, overrides, allow_code=allow_code)
    run = open_run(run, parts=import_named_parts(parts))
    import_quickly("finetune.train.resume")
    from finetune.train.resume import resume

    print_data_root_mapping(folder, data_root)
    with _resume_hint_on_interrupt(folder, run.recipe):
        resume(run, overrides, data_root=data_root)
    evaluate_and_report(folder, data_root=data_root, parts=imported_parts(run.recipe))


@contextmanager
def _resume_hint_on_interrupt(folder: Path, recipe: Recipe) -> Iterator[None]:
    """When training is interrupted, print the position of the last checkpoint and how to resume from it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        from finetune.run.folder import RunFolder

        if RunFolder(folder).checkpoint("last").exists():
            from finetune.train.state.signals import StopRequested
            from finetune.train.state.state import read_state

            position = read_state(folder)["position"]
            saved = "and saved" if isinstance(interrupt, StopRequested) else "without saving; last checkpoint:"
            parts = [f"--part {shlex.quote(f'{key}={part_name(part)}')}" for key, part in own_parts(recipe).items()]
            print(
                f"Stopped {saved} (epoch {position['epochs'] + 1}, step {position['batches']}). "
                f"Resume with: `{' '.join(['finetune train --resume', shlex.quote(str(folder)), *parts])}`",
                file=sys.stderr,
            )
        raise


def evaluate_and_report(folder: Path, *, data_root: Path | None = None, parts: Mapping[str, Any] | None = None) -> None:
    """Evaluate a trained run on its test split, or else on val, and write its report. `parts`: see `open_run`."""
    import_quickly("finetune.evaluation.evaluate")
    from finetune.evaluation.evaluate import evaluate
    from finetune.metrics.headline import format_events, format_headline, format_open_set, format_retrieval
    from finetune.report.run.page import write_report
    from finetune.run.folder import RunFolder
    from finetune.run.manifest import saved_manifest
    from finetune.run.read import open_run
    from finetune.runtime.processes import is_main_process

    if not is_main_process():
        return
    run = open_run(folder, parts=parts)
    manifest = saved_manifest(run, data_root=data_root)
    split = next((name for name in ("test", "val") if len(manifest.rows(name))), "train")
    out = RunFolder(folder).evaluation().path
    with progress_bars() as progress:
        show = partial(progress, f"evaluating on {split}")
        results = evaluate(run, split=split, out=out, data_root=data_root, progress=show)
        events = None
        if run.recipe.evaluate.timeline:
            from finetune.cli.timeline_files import evaluate_events

            events = evaluate_events(run, out, progress, split=split, data_root=data_root)
        progress(WRITING_REPORT, 0, None)
        page = write_report(folder)
    _refresh_index(folder.absolute().parent)
    for name, task in results["tasks"].items():
        task_name = f" {name}" if len(results["tasks"]) > 1 else ""
        print(f"{split}{task_name} {format_headline(task)} on {task.get('num_rows', results['num_rows'])} clips")
        if open_set := task.get("open_set"):
            print(f"{split} unknown: {format_open_set(open_set)}")
    if "retrieval" in results:
        print_wrapped(f"{split} retrieval: {format_retrieval(results['retrieval'])}")
    if events is not None:
        print(f"{split} events {format_events(events)}")
    print(f"report {page}")
    print(folder, flush=True)


def _refresh_index(folder: Path) -> None:
    """Update index.html in the default folder `runs`, or in a folder for which `finetune runs` has written one."""
    from finetune.report.pages.runs_index import is_index, write_index

    if is_index(folder / "index.html") or (folder.name == "runs" and not (folder / "index.html").exists()):
        with suppress(FinetuneError, OSError):
            write_index(folder)


def _check_model_names(settings: Recipe) -> None:
    """Check the names of backbone and weights before torch is imported, which takes seconds."""
    from finetune.model.backbone.known_names import check_name

    check_name(settings.model.backbone)
    weights = settings.model.weights
    if weights not in {"imagenet", "bundled", "none"} and not Path(weights).is_file():
        raise RecipeError(f"model.weights: there is no file {weights!r}; give a file, or imagenet, bundled or none")
