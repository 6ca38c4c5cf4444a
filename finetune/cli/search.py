"""`finetune lr-find` and `sweep`: which rate, which settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.errors import RecipeError
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Schedule

if TYPE_CHECKING:
    from finetune.study.sweep import SweepPoint

POINTS_SHOWN = 30


def lr_find(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
    phase: Annotated[int, typer.Option(min=0, help="Which of the recipe's phases, counted from 0.")] = 0,
    low: Annotated[float, typer.Option(help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The last rate.")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, help="Steps from the one to the other.")] = 100,
    out: Annotated[Path | None, typer.Option(help="The picture, an .svg file.")] = None,
) -> None:
    """Raise the learning rate from step to step until the loss explodes; say which rate to take, and draw it.

    Nothing of it is kept but the picture. The rate is that of what is new, the backbone's follows as in the recipe.
    """
    settings = load_recipe(recipe, overrides or [])
    if not 0 < low < high:
        raise RecipeError(f"--low {low} and --high {high} are no range of rates")

    from finetune.cli.manifest import load_manifest
    from finetune.report.pages.lr_range import draw_lr_range_test
    from finetune.study.lr_find import find_lr

    manifest = load_manifest(settings)
    test = find_lr(settings, manifest, phase=phase, low=low, high=high, steps=steps)
    picture = out or Path("runs") / f"{Path(recipe).stem}-phase-{phase}-rates.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_lr_range_test(picture, test.rates, test.losses, test.smoothed, chosen=test.steepest)
    print("    rate    loss  running mean")
    every = max(1, len(test.rates) // 15)
    for rate, loss, mean in list(zip(test.rates, test.losses, test.smoothed, strict=True))[::every]:
        print(f"{rate:8.1e}  {loss:6.3f}  {mean:12.3f}")
    if test.steepest is None:
        print(f"No rate up to {test.rates[-1]:.1e} lowered the loss: try more --steps, or a higher --high.")
    else:
        print(f"The loss falls fastest at {test.steepest:.1e}; from {test.lowest:.1e} on it rises.")
        key = f"phases.{phase}.lr"
        if isinstance(settings.phases, Schedule):
            key = "phases.lr" if phase == 0 else "phases.backbone_lr"
        print(f"In the recipe: {key}={test.steepest:.1e}")
    print(f"picture {picture}")


def sweep(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")],
    overrides: Annotated[
        list[str],
        typer.Argument(help="Values to try, key.sub=a,b (commas in brackets are part of a value); others are fixed."),
    ],
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Search instead: so many trials; ranges are written key.sub=low..high (Optuna)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; what was interrupted goes on there.")] = None,
) -> None:
    """Train a recipe with every combination of some settings, or search among them, and list them by the split val.

    Test clips are not looked at: score the chosen run with `finetune evaluate`. The last line printed is the folder.
    """
    load_recipe(recipe)

    from finetune.cli.manifest import load_manifest
    from finetune.study.compare_on_val import val_units
    from finetune.study.sweep import fixed_settings, grid, load_point_recipes, sweep, swept_keys

    points = grid(overrides)
    folder = out or Path("runs") / f"{Path(recipe).stem}-sweep"
    if trials is not None:
        from finetune.study.search import parse_search_space, search

        settings = load_recipe(recipe, parse_search_space(recipe, overrides)[1])
        manifest = load_manifest(settings)
        found, ended = search(recipe, overrides, manifest, trials=trials, out=folder)
        print(f"{len(found)} settings trained to the end, {ended} were ended early")
    else:
        if not swept_keys(points):
            raise RecipeError("nothing to sweep: give a key several values, as phases.0.lr=1e-3,1e-2")
        load_point_recipes(recipe, points)
        settings = load_recipe(recipe, fixed_settings(points))
        manifest = load_manifest(settings)
        found = sweep(recipe, points, manifest, out=folder)
    print(points_table(found))
    print(
        f"{_evidence(found, *val_units(manifest))} Picking the best of many inflates its score. "
        f"To test it: finetune evaluate {folder / found[0].run}"
    )
    print(folder, flush=True)


def _evidence(points: "list[SweepPoint]", num_units: int, unit: str) -> str:
    """From which other settings the best is shown to differ."""
    from finetune.metrics.paired_tests import too_few_units_text

    others = [point for point in points[1:] if not point.has_diverged]
    if not others:
        return "No other setting was trained to its end."
    if few := too_few_units_text(num_units, unit):
        return f"No evidence that the first setting is better than others: {few}."
    as_good = sum(point.behind_interval[1] >= 0 for point in others)
    if not as_good:
        return "The first setting is better than all others: no interval includes 0."
    return f"No evidence that the first setting is better than {as_good} of {len(others)} others: intervals include 0."


def points_table(points: "list[SweepPoint]") -> str:
    """One line a setting, the best first."""
    names = [" ".join(point.settings) for point in points[:POINTS_SHOWN]]
    width = max(map(len, names))
    lines = [f"{'setting':{width}}  on val                  loss    vs. best (95 % together)"]
    for name, each in zip(names, points, strict=False):
        if each.has_diverged:
            lines.append(f"{name:{width}}  its loss was not a number")
            continue
        low, high = each.interval
        less, more = each.behind_interval
        loss = "" if each.loss is None else f"{each.loss:.3f}"
        behind = "" if each is points[0] else f"{each.behind:+.3f} ({less:+.3f} to {more:+.3f})"
        lines.append(f"{name:{width}}  {each.figure:.3f} ({low:.3f} to {high:.3f})  {loss:6}  {behind}".rstrip())
    if len(points) > POINTS_SHOWN:
        lines.append(f"and {len(points) - POINTS_SHOWN} more, in sweep.json")
    return "\n".join(lines)
