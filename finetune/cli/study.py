"""`finetune kfold`, `tasks-ablation`, `sweep-stages` and `average`: commands that train or combine several runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune.cli.arguments import AllowCode, Overrides, RecipeName, recipe_source
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.manifest import load_manifest
from finetune.cli.progress import progress_bar
from finetune.cli.table import format_table, print_table
from finetune.cli.wrap import print_wrapped
from finetune.errors import RunError
from finetune.recipe.load import load_recipe
from finetune.run.folder import RunFolder

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.recipe.schema import Recipe
    from finetune.study.sweep_stages import StageResult


def kfold(
    recipe: RecipeName,
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option(min=2, metavar="K", help="Number of folds; groups stay whole.")] = 5,
    leave_one_group_out: Annotated[
        bool, typer.Option("--leave-one-group-out", help="One fold per group, instead of --folds.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Study folder; resumed if interrupted. Default: runs/<recipe>-<K>-fold."),
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Cross-validate: train one model per fold and report on all clips together.

    Each clip is tested once, by a model that was trained on no clip of its group. Splits in the data are ignored.

    Example: finetune kfold DIR --folds 5 data.val=0
    """
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides, allow_code=allow_code)
    manifest = load_manifest(settings, whole=True)
    num_folds = None if leave_one_group_out else folds
    _print_fold_sizes(settings, manifest, num_folds)

    import statistics

    import_quickly("finetune.study.kfold")
    from finetune.metrics.headline import format_headline
    from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
    from finetune.metrics.intervals import FOLD_ERROR_NOTE
    from finetune.recipe.tasks import primary_task
    from finetune.study import kfold as study

    name = "leave-one-group-out" if leave_one_group_out else f"{folds}-fold"
    folder = out or Path("runs") / f"{source.name}-{name}"
    results = study.kfold(settings, manifest, folds=num_folds, out=folder)
    task = results["tasks"][primary_task(results["tasks"])]
    key, name = HEADLINE_METRICS[task["kind"]]
    print(f"fold  clips  {name}")
    for number, fold in enumerate(results["folds"], 1):
        low, high = fold[f"{key}_ci"] or metric_range(task["kind"])
        print(f"{number:4}  {fold['num_rows']:5}  {fold[key]:.3f} (95 % interval {low:.3f} to {high:.3f})")
    values = [fold[key] for fold in results["folds"]]
    print(f"mean of folds {statistics.mean(values):.3f}, standard deviation {statistics.stdev(values):.3f}")
    print_wrapped(f"all folds {format_headline(task)} on {results['num_rows']} clips (interval {FOLD_ERROR_NOTE})")
    print(f"report {RunFolder(folder).evaluation().report}\n{folder}", flush=True)


def _print_fold_sizes(settings: "Recipe", manifest: "Manifest", folds: int | None) -> None:
    """Before anything is computed: how the clips are divided, and the alternative where few are left to train on."""
    from finetune.study.folds import fold_manifests
    from finetune.text import count

    first, *_ = divided = fold_manifests(manifest, folds, val=settings.data.val, seed=settings.seed)
    train, val, test = (count(len(first.rows(split)), "clip") for split in ("train", "val", "test"))
    print(f"{len(divided)} folds; the first trains on {train} and tests {test}", file=sys.stderr)
    if settings.data.val:
        print(
            f"In each fold about {val} only select the best epoch. With data.val=0 they are trained on too, and the "
            "last epoch is tested.",
            file=sys.stderr,
        )


def tasks_ablation(
    recipe: RecipeName,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each model, with different seeds.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Study folder; resumed if interrupted. Default: runs/<recipe>-ablation."),
    ] = None,
) -> None:
    """Compare multi-task training with one model per task.

    Trains all tasks together and each alone, and reports the relative gain of each task and its mean, ΔM.

    Example: finetune tasks-ablation quickstart_multitask --seeds 3
    """
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)
    manifest = load_manifest(settings)

    import_quickly("finetune.study.tasks_ablation")
    from finetune.report.pages.tasks_ablation import verdict
    from finetune.study import tasks_ablation as study

    folder = out or Path("runs") / f"{source.name}-ablation"
    ablation = study.tasks_ablation(settings, manifest, name=source.name, seeds=seeds, out=folder)
    width = max(map(len, ablation["tasks"]))
    print(f"{'task':{width}}  metric       alone  together     gain")
    for task, metrics in ablation["tasks"].items():
        alone, together = (sum(metrics[key]) / len(metrics[key]) for key in ("alone", "together"))
        gain = _percent(metrics["gain"], metrics["gain_ci"])
        print(f"{task:{width}}  {metrics['name']:11}  {alone:.3f}  {together:8.3f}  {gain}")
    print_wrapped(f"ΔM {_percent(ablation['delta_m'], ablation['delta_m_ci'])}\n{verdict(ablation)}")
    print(f"report {folder / 'ablation.html'}\n{folder}", flush=True)


def _percent(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:+.1f} %" + ("" if interval is None else f" ({interval[0]:+.1f} to {interval[1]:+.1f})")


def sweep_stages(
    recipe: RecipeName,
    overrides: Overrides = None,
    probe_epochs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Epochs of the head alone, from which all start.")
    ] = 5,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs of each stage.")] = 3,
    lr: Annotated[float, typer.Option(min=0, metavar="LR", help="Learning rate of each stage.")] = 1e-4,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Study folder; resumed if interrupted. Default: runs/<recipe>-stages."),
    ] = None,
) -> None:
    """Fine-tune each backbone stage alone and compare them on the split val.

    The phases of the recipe are not used.

    Example: finetune sweep-stages DIR --epochs 3
    """
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)
    manifest = load_manifest(settings)

    import_quickly("finetune.study.sweep_stages")
    from finetune.study import sweep_stages as stages
    from finetune.study.compare_on_val import val_units

    folder = out or Path("runs") / f"{source.name}-stages"
    results = stages.sweep_stages(settings, manifest, probe_epochs=probe_epochs, epochs=epochs, lr=lr, out=folder)
    columns, right = _stage_columns(results), {"parameters"}
    (folder / "stages.txt").write_text(format_table(columns, right=right) + "\n", encoding="utf-8")
    print()
    print_table(columns, right=right)
    print_wrapped(f"{_verdict(results, *val_units(manifest))}\n{folder}")


def average(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders: one for wise_ft, several for a soup.")
    ],
    method: Annotated[
        Literal["wise_ft", "greedy", "uniform"] | None,
        typer.Option(help="Default: wise_ft for one run, greedy for several."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New run folder. Default: runs/<run>-<method>.")
    ] = None,
) -> None:
    """Average weights: WiSE-FT of one run, a soup of several.

    The average is chosen on the split val, evaluated on test, and written as a new run with its report.

    Example: finetune average runs/mine --method wise_ft
    """
    chosen = method or ("wise_ft" if len(runs) == 1 else "greedy")
    if (chosen == "wise_ft") != (len(runs) == 1):
        raise RunError(
            f"{chosen} takes {'one run' if chosen == 'wise_ft' else 'two runs or more'}, but {len(runs)} are given"
        )

    from finetune.run.read import open_run

    for run in runs:
        open_run(run)
    import_quickly("finetune.study.average")
    from finetune.cli.train import evaluate_and_report
    from finetune.metrics.headline import epoch_sort_key
    from finetune.study.average import soup, wise_ft

    with progress_bar("evaluating averages on val") as progress:
        if chosen == "wise_ft":
            folder, candidates = wise_ft(runs[0], out=out, progress=progress)
        else:
            folder, candidates = soup(runs, greedy=chosen == "greedy", out=out, progress=progress)
    width = max(len("candidate"), *(len(candidate.name) for candidate in candidates))
    names = {"val_score": "score", "val_map": "mAP"}
    metric = next((names[key] for key in names if key in candidates[0].figures), "top-1")
    print(f"{'candidate':{width}}  val {metric:5}  val loss")
    for candidate in candidates:
        value, loss = epoch_sort_key(candidate.figures)
        print(f"{candidate.name:{width}}  {value:9.3f}  {-loss:8.3f}" + "  used" * candidate.taken)
    evaluate_and_report(folder)


def _stage_columns(results: "list[StageResult]") -> dict[str, list[str]]:
    """A row for each stage, the largest gain first."""

    def with_interval(value: float, interval: tuple[float, float], form: str) -> str:
        return f"{value:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"

    return {
        "stage": [result.stage for result in results],
        "parameters": [f"{result.parameters:,}" for result in results],
        "on val (95 % interval)": [with_interval(result.figure, result.interval, ".3f") for result in results],
        "vs. head (corrected interval)": [
            with_interval(result.gain, result.gain_interval, "+.3f") for result in results
        ],
    }


def _verdict(results: "list[StageResult]", num_units: int, unit: str) -> str:
    """A recommendation, where the interval of the gain is evidence for one."""
    from finetune.metrics.paired_tests import too_few_units_text

    best = results[0]
    if best.stage == "head" or best.gain <= 0:
        return "No stage scores above the head alone: keep the backbone frozen, or try more epochs or clips."
    if few := too_few_units_text(num_units, unit):
        return f"Best: {best.stage}, {best.gain:+.3f}, but no evidence that it helps: {few}."
    low, high = best.gain_interval
    if low <= 0:
        return (
            f"Best: {best.stage}, {best.gain:+.3f}, but the interval includes 0: no evidence that it helps. "
            "Keep the backbone frozen, or try more epochs or clips."
        )
    advice = "phases=full" if best.stage == "all" else f"phases=surgical:{best.stage}"
    return (
        f"Best: {best.stage}, {best.gain:+.3f} against the head alone (interval {low:+.3f} to {high:+.3f}), "
        f"with one seed. In a recipe: {advice}"
    )
