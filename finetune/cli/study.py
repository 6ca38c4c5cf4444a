"""`finetune kfold`, `sweep-stages` and `average`: several runs seen as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.errors import RunError
from finetune.recipe.load import load_recipe
from finetune.run.folder import RunFolder

if TYPE_CHECKING:
    from finetune.study.sweep_stages import StageResult


def kfold(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the clips are divided into, by whole groups.")] = 5,
    leave_one_group_out: Annotated[bool, typer.Option(help="A fold for each group instead.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the folds; what was interrupted goes on there.")] = None,
) -> None:
    """Cross-validate: train a model for each fold, test each clip once, report on all of them together.

    Splits that the data has are set aside. The last line printed is the folder.
    """
    settings = load_recipe(recipe, overrides or [])

    import statistics

    from finetune.cli.manifest import load_manifest
    from finetune.metrics.headline import format_headline
    from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
    from finetune.metrics.intervals import FOLD_ERROR_NOTE
    from finetune.recipe.tasks import primary_task
    from finetune.study import kfold as study

    manifest = load_manifest(settings, whole=True)
    name = "leave-one-group-out" if leave_one_group_out else f"{folds}-fold"
    folder = out or Path("runs") / f"{Path(recipe).stem}-{name}"
    count = None if leave_one_group_out else folds
    results = study.kfold(settings, manifest, folds=count, out=folder)
    task = results["tasks"][primary_task(results["tasks"])]
    key, name = HEADLINE_METRICS[task["kind"]]
    print(f"fold  clips  {name}")
    for number, fold in enumerate(results["folds"], 1):
        low, high = fold[f"{key}_ci"] or metric_range(task["kind"])
        print(f"{number:4}  {fold['num_rows']:5}  {fold[key]:.3f} (95 % interval {low:.3f} to {high:.3f})")
    values = [fold[key] for fold in results["folds"]]
    print(f"mean of folds {statistics.mean(values):.3f}, standard deviation {statistics.stdev(values):.3f}")
    print(f"together {format_headline(task)} on {results['num_rows']} clips (interval {FOLD_ERROR_NOTE})")
    print(f"report {RunFolder(folder).evaluation().report}\n{folder}", flush=True)


def tasks_ablation(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe with several tasks, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often, with other seeds.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; what was interrupted goes on there.")] = None,
) -> None:
    """Train each task alone and all together, and say what training together gains. The last line is the folder."""
    settings = load_recipe(recipe, overrides or [])

    from finetune.cli.manifest import load_manifest
    from finetune.report.pages.tasks_ablation import verdict
    from finetune.study import tasks_ablation as study

    folder, name = out or Path("runs") / f"{Path(recipe).stem}-ablation", Path(recipe).stem
    ablation = study.tasks_ablation(settings, load_manifest(settings), name=name, seeds=seeds, out=folder)
    width = max(map(len, ablation["tasks"]))
    print(f"{'task':{width}}  metric       alone  together     gain")
    for task, metrics in ablation["tasks"].items():
        alone, together = (sum(metrics[key]) / len(metrics[key]) for key in ("alone", "together"))
        gain = _percent(metrics["gain"], metrics["gain_ci"])
        print(f"{task:{width}}  {metrics['name']:11}  {alone:.3f}  {together:8.3f}  {gain}")
    print(f"ΔM {_percent(ablation['delta_m'], ablation['delta_m_ci'])}\n{verdict(ablation)}")
    print(f"report {folder / 'ablation.html'}\n{folder}", flush=True)


def _percent(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:+.1f} %" + ("" if interval is None else f" ({interval[0]:+.1f} to {interval[1]:+.1f})")


def sweep_stages(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
    probe_epochs: Annotated[int, typer.Option(min=1, help="Epochs of the head alone, before all else.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each stage.")] = 3,
    lr: Annotated[float, typer.Option(min=0, help="PositiveFloat of each stage.")] = 1e-4,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; one that was interrupted goes on.")] = None,
) -> None:
    """Train each stage of the backbone alone for a few epochs and say which one pays.

    Scores are those of the split val. The recipe's own phases are not used.
    """
    settings = load_recipe(recipe, overrides or [])

    from finetune.cli.manifest import load_manifest
    from finetune.study import sweep_stages as stages
    from finetune.study.compare_on_val import val_units

    manifest = load_manifest(settings)
    folder = out or Path("runs") / f"{Path(recipe).stem}-stages"
    outcomes = stages.sweep_stages(settings, manifest, probe_epochs=probe_epochs, epochs=epochs, lr=lr, out=folder)
    table = _outcome_table(outcomes)
    (folder / "stages.txt").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n{_verdict(outcomes, *val_units(manifest))}\n{folder}")


def average(
    runs: Annotated[list[Path], typer.Argument(help="Run folders: one for wise_ft, several for a soup.")],
    method: Annotated[
        str | None, typer.Option(help="wise_ft, greedy or uniform; by default wise_ft of one run, greedy of several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new run folder; by default beside in runs/.")] = None,
) -> None:
    """Average weights after training, choose on the split val, score the result on test, write its report."""
    chosen = method or ("wise_ft" if len(runs) == 1 else "greedy")
    if chosen not in {"wise_ft", "greedy", "uniform"}:
        raise RunError(f"--method is wise_ft, greedy or uniform, not {method!r}")
    if (chosen == "wise_ft") != (len(runs) == 1):
        raise RunError(
            f"{chosen} takes {'one run' if chosen == 'wise_ft' else 'two runs or more'}, these are {len(runs)}"
        )

    from finetune.cli.train import evaluate_and_report
    from finetune.metrics.headline import epoch_sort_key
    from finetune.study.average import soup, wise_ft

    if chosen == "wise_ft":
        folder, tried = wise_ft(runs[0], out=out)
    else:
        folder, tried = soup(runs, greedy=chosen == "greedy", out=out)
    width = max(len(candidate.name) for candidate in tried)
    words = {"val_score": "score", "val_map": "mAP"}
    name = next((words[key] for key in words if key in tried[0].figures), "top-1")
    print(f"{'on val':{width}}  {name:5}    loss")
    for each in tried:
        value, loss = epoch_sort_key(each.figures)
        print(f"{each.name:{width}}  {value:.3f}  {-loss:6.3f}" + "  taken" * each.taken)
    evaluate_and_report(folder)


def _outcome_table(outcomes: "list[StageResult]") -> str:
    width = max(len("stage"), *(len(outcome.what) for outcome in outcomes))
    lines = [f"{'stage':{width}}  {'learning':>12}  on val                  vs. head alone (95 % together)"]
    for each in outcomes:
        low, high = each.interval
        less, more = each.gain_interval
        lines.append(
            f"{each.what:{width}}  {each.parameters:12,}  {each.figure:.3f} ({low:.3f} to {high:.3f})"
            f"  {each.gain:+.3f} ({less:+.3f} to {more:+.3f})"
        )
    return "\n".join(lines)


def _verdict(outcomes: "list[StageResult]", num_units: int, unit: str) -> str:
    """What the outcomes are evidence for; nothing is recommended without evidence."""
    from finetune.metrics.paired_tests import too_few_units_text

    best = outcomes[0]
    if best.what == "head" or best.gain <= 0:
        return "No stage scores above the head alone: keep the backbone frozen, or try more epochs or clips."
    if few := too_few_units_text(num_units, unit):
        return f"Best: {best.what}, {best.gain:+.3f}, but no evidence that it helps: {few}."
    low, high = best.gain_interval
    if low <= 0:
        return (
            f"Best: {best.what}, {best.gain:+.3f}, but the interval includes 0: no evidence that it helps. "
            "Keep the backbone frozen, or try more epochs or clips."
        )
    advice = "phases=full" if best.what == "all" else f"phases=surgical:{best.what}"
    return (
        f"Best: {best.what}, {best.gain:+.3f} against the head alone (interval {low:+.3f} to {high:+.3f}), "
        f"with one seed. In a recipe: {advice}"
    )
