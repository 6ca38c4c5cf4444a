"""Each of several tasks alone against all of them together: the same recipe, the same rows, several seeds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError, shorten_list
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import Multitask
from finetune.report.pages.tasks_ablation import write_ablation
from finetune.report.run.page import write_report
from finetune.run.read import evaluation_folder
from finetune.storage.atomic import write_json
from finetune.storage.safe_read import read_json
from finetune.study.relative_gains import relative_gains
from finetune.study.study_runs import study_folder, train_and_evaluate

Announce = Callable[[str], None]


def tasks_ablation(
    recipe: Recipe,
    manifest: Manifest,
    *,
    name: str,
    seeds: int,
    out: Path,
    announce: Announce = lambda text: None,
) -> Path:
    """Train all tasks together and each alone, with so many seeds; the folder, with ablation.json and its page.

    All are scored on the same rows: test, else val. ΔM is the mean over tasks of the relative gain of training
    together (arXiv:1904.08918 measures so); its interval is from resamples of groups, or clips, and of seeds. What is
    finished in the folder is not done again. Raises RecipeError for a recipe with fewer than two tasks, and DataError
    where no row that is scored has the label of a task.
    """
    if len(recipe.tasks) < 2:
        raise RecipeError(f"{name}: has {len(recipe.tasks)} tasks; together and alone differ from two tasks on")
    split = next((each for each in ("test", "val") if len(manifest.rows(each))), "train")
    if odd := [task for task, labels in manifest.tasks.items() if not labels.known[manifest.rows(split)].any()]:
        raise DataError(
            f"{manifest.source}: no row of the split {split!r} has a label of {shorten_list(odd)} to compare by"
        )
    numbers = range(recipe.seed, recipe.seed + seeds)
    with study_folder(out, recipe, manifest, ablation=seeds):
        runs: dict[tuple[str, int], Path] = {}
        wanted = [(task, seed) for seed in numbers for task in ("", *recipe.tasks)]
        for count, (task, seed) in enumerate(wanted, 1):
            announce(f"{task or 'all together'}, seed {seed}: {count} of {len(wanted)}")
            part, rows = (recipe, manifest) if not task else single_task(recipe, manifest, task)
            folder = out / f"seed-{seed}" / (task or "together")
            runs[task, seed] = train_and_evaluate(part.model_copy(update={"seed": seed}), rows, out=folder, split=split)
            write_report(runs[task, seed], evaluation=evaluation_folder(folder, split))
        write_json(out / "ablation.json", {"recipe": name} | _compare_runs(recipe, runs, list(numbers), split, out))
        write_ablation(out)
    return out


def single_task(recipe: Recipe, manifest: Manifest, task: str) -> tuple[Recipe, Manifest]:
    """The recipe with one of its tasks, which then has the whole backbone, and the rows as it sees them."""
    settings = recipe.tasks[task].model_copy(update={"tower": None})
    rows = replace(manifest, tasks={task: manifest.tasks[task]})
    part = recipe.model_copy(update={"tasks": {task: settings}, "multitask": Multitask()})
    return part, rows.for_task(task)


def _compare_runs(
    recipe: Recipe, runs: Mapping[tuple[str, int], Path], seeds: list[int], split: str, out: Path
) -> dict[str, Any]:
    pairs = {(task, seed): (runs["", seed], runs[task, seed]) for task in recipe.tasks for seed in seeds}
    by_task, mean = relative_gains(pairs, split=split)
    told, rows = {}, 0
    for task, gain in by_task.items():
        key, words = HEADLINE_METRICS[recipe.tasks[task].kind]
        together, single_task = (
            [_read_task_metrics(pairs[task, seed][which], task, split) for seed in seeds] for which in (0, 1)
        )
        rows = max(rows, together[0]["num_rows"])
        told[task] = {
            "kind": recipe.tasks[task].kind,
            "headline": key,
            "name": words,
            "alone": [each[key] for each in single_task],
            "together": [each[key] for each in together],
            "gain": gain.percent,
            "gain_ci": gain.interval,
        }
    return {
        "schema": 1,
        "split": split,
        "num_rows": rows,
        "seeds": seeds,
        "tasks": told,
        "delta_m": mean.percent,
        "delta_m_ci": mean.interval,
        "runs": [
            {
                "href": (evaluation_folder(run, split) / "report.html").relative_to(out).as_posix(),
                "tasks": [task] if task else list(recipe.tasks),
                "seed": seed,
            }
            for (task, seed), run in runs.items()
        ],
    }


def _read_task_metrics(run: Path, task: str, split: str) -> dict[str, Any]:
    """What an evaluation of a run says of one of its tasks, and of how many rows."""
    results = read_json(evaluation_folder(run, split) / "results.json")
    return {"num_rows": results["num_rows"], **results["tasks"][task]}
