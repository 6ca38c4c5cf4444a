"""`finetune lr-find` and `sweep`: choose a learning rate and other settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.arguments import Overrides, RecipeName, recipe_source
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.help import complete_override
from finetune.cli.manifest import load_manifest
from finetune.cli.progress import progress_bar
from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.errors import RecipeError
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Schedule

if TYPE_CHECKING:
    from finetune.study.sweep import SweepPoint

POINTS_SHOWN = 30


def lr_find(
    recipe: RecipeName,
    overrides: Overrides = None,
    phase: Annotated[int, typer.Option(min=0, metavar="N", help="Phase of the recipe, counted from 0.")] = 0,
    low: Annotated[float, typer.Option(metavar="LR", help="First learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option(metavar="LR", help="Last learning rate.")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, metavar="N", help="Number of steps.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot, an .svg file. Default: runs/<recipe>-phase-<N>-rates.svg."),
    ] = None,
) -> None:
    """Run a learning-rate range test.

    Raises the learning rate step by step until the loss diverges, and suggests the one at which the loss falls fastest.
    It is that of new layers; the backbone's follows as in the recipe. Nothing but the plot is written.

    Example: finetune lr-find DIR --phase 1
    """
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)
    if not 0 < low < high:
        raise RecipeError(f"--low {low} must be above 0 and below --high {high}")

    manifest = load_manifest(settings)

    import_quickly("finetune.study.lr_find")
    from finetune.report.pages.lr_range import draw_lr_range_test
    from finetune.study.lr_find import find_lr

    with progress_bar("training at rising rates") as progress:
        test = find_lr(settings, manifest, phase=phase, lr_range=(low, high), steps=steps, progress=progress)
    plot = out or Path("runs") / f"{source.name}-phase-{phase}-rates.svg"
    plot.parent.mkdir(parents=True, exist_ok=True)
    draw_lr_range_test(plot, test.rates, test.losses, test.smoothed, chosen=test.steepest)
    print("      lr    loss  running mean")
    every = max(1, len(test.rates) // 15)
    for rate, loss, mean in list(zip(test.rates, test.losses, test.smoothed, strict=True))[::every]:
        print(f"{rate:8.1e}  {loss:6.3f}  {mean:12.3f}")
    if test.steepest is None:
        print_wrapped(
            f"No learning rate up to {test.rates[-1]:.1e} lowered the loss: try more --steps, or a higher --high."
        )
    else:
        print(f"The loss falls fastest at {test.steepest:.1e}; above {test.lowest:.1e} it rises.")
        key = f"phases.{phase}.lr"
        if isinstance(settings.phases, Schedule):
            key = "phases.lr" if phase == 0 else "phases.backbone_lr"
        print(f"In the recipe: {key}={test.steepest:.1e}")
    print(f"plot {plot}")


def sweep(
    recipe: RecipeName,
    overrides: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUES",
            autocompletion=complete_override,
            help="Values to try, as key.sub=a,b (commas in brackets belong to a value), and fixed settings.",
        ),
    ],
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Search with Optuna for N trials; ranges are key.sub=low..high."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Study folder; resumed if interrupted. Default: runs/<recipe>-sweep."),
    ] = None,
) -> None:
    """Compare recipe settings by grid or Optuna search, on the split val.

    Test clips are not used: evaluate the chosen run with `finetune evaluate`.

    Example: finetune sweep DIR phases.0.lr=1e-3,1e-2 model.dropout=0.2,0.5
    """
    from finetune.study.swept_settings import fixed_settings, grid, load_point_recipes, swept_keys

    source = recipe_source(recipe, overrides)
    load_recipe(source.recipe)
    recipe, overrides = source.recipe, source.overrides
    points = grid(overrides)
    if trials is None:
        if not swept_keys(points):
            raise RecipeError("nothing to sweep: give a key several values, e.g. phases.0.lr=1e-3,1e-2")
        load_point_recipes(recipe, points)

    import_quickly("finetune.study.sweep")
    from finetune.study.compare_on_val import val_units
    from finetune.study.sweep import sweep

    folder = out or Path("runs") / f"{source.name}-sweep"
    if trials is not None:
        from finetune.study.search import parse_search_space, search

        settings = load_recipe(recipe, parse_search_space(recipe, overrides)[1])
        manifest = load_manifest(settings)
        ranked, num_stopped = search(recipe, overrides, manifest, trials=trials, out=folder)
        print(f"{len(ranked)} settings finished, {num_stopped} stopped early")
    else:
        settings = load_recipe(recipe, fixed_settings(points))
        manifest = load_manifest(settings)
        ranked = sweep(recipe, points, manifest, out=folder)
    _print_points(ranked)
    print_wrapped(
        f"{_evidence(ranked, *val_units(manifest))} Picking the best of many inflates its score. "
        f"Evaluate it on test clips: `finetune evaluate {folder / ranked[0].run}`"
    )
    print(folder, flush=True)


def _evidence(points: "list[SweepPoint]", num_units: int, unit: str) -> str:
    """Whether the best setting is better than others, as far as the intervals show."""
    from finetune.metrics.paired_tests import too_few_units_text

    others = [point for point in points[1:] if not point.has_diverged]
    if not others:
        return "No other setting finished."
    if few := too_few_units_text(num_units, unit):
        return f"No evidence that the first setting is better than others: {few}."
    unclear = sum(point.behind_interval[1] >= 0 for point in others)
    if not unclear:
        return "The first setting is better than all others: no interval includes 0."
    return f"No evidence that the first setting is better than {unclear} of {len(others)} others: intervals include 0."


def _print_points(points: "list[SweepPoint]") -> None:
    """A row for each setting, the best first."""
    shown = points[:POINTS_SHOWN]
    print_table(
        {
            "setting": [" ".join(point.settings) for point in shown],
            "on val (95 % interval)": [
                "diverged: the loss was not a finite number"
                if point.has_diverged
                else _with_interval(f"{point.figure:.3f}", point.interval, ".3f")
                for point in shown
            ],
            "loss": ["" if point.loss is None else f"{point.loss:.3f}" for point in shown],
            "vs. best (corrected interval)": [
                ""
                if point is points[0] or point.has_diverged
                else _with_interval(f"{point.behind:+.3f}", point.behind_interval, "+.3f")
                for point in shown
            ],
        }
    )
    if len(points) > POINTS_SHOWN:
        print(f"and {len(points) - POINTS_SHOWN} more, in sweep.json")


def _with_interval(value: str, interval: tuple[float, float], form: str) -> str:
    return f"{value} ({interval[0]:{form}} to {interval[1]:{form}})"
