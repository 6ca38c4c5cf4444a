"""Train several tasks together and each alone, with several seeds: what training them together gains."""

from collections.abc import Mapping, Sequence
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
from finetune.storage.atomic import write_json
from finetune.study.relative_gains import relative_gains
from finetune.study.several_runs import FinishedRun, StudyRun, evaluation_split, finish_runs, study_folder
from finetune.text import count

TOGETHER = ""  # in the place of a task's name: the run of all tasks
Runs = Mapping[tuple[str, int], FinishedRun]  # by task, or TOGETHER, and seed


def tasks_ablation(recipe: Recipe, manifest: Manifest, *, name: str, seeds: int, out: Path) -> dict[str, Any]:
    """Train all tasks together and each alone, with the recipe's seed and the next ones, `seeds` in all.

    All runs are evaluated on the same rows: the split test, else val. ΔM is the mean over tasks of the relative gain of
    training together (arXiv:1904.08918); its interval is from resamples of groups, or clips, and of seeds. An
    interrupted study resumes. Gives what is written to `out/ablation.json`; its page is beside it. Raises
    RecipeError for a recipe with fewer than two tasks, and DataError where no evaluated row has a label of some task.
    """
    if len(recipe.tasks) < 2:
        raise RecipeError(f"{name}: has {count(len(recipe.tasks), 'task')}; an ablation needs at least two")
    split = evaluation_split(manifest)
    _refuse_unlabelled(manifest, split)
    numbers = range(recipe.seed, recipe.seed + seeds)
    runs = {(task, seed): _run(recipe, manifest, task, seed) for seed in numbers for task in (TOGETHER, *recipe.tasks)}
    with study_folder(out, recipe, manifest, {"ablation": seeds}):
        finished = {}
        for key, run in zip(runs, finish_runs(list(runs.values()), out=out, split=split), strict=True):
            write_report(run.folder, evaluation=run.evaluation.path)
            finished[key] = run
        ablation = {"recipe": name} | _compare_runs(recipe, finished, numbers, split, out)
        write_json(out / "ablation.json", ablation)
        write_ablation(out, ablation)
    return ablation


def _refuse_unlabelled(manifest: Manifest, split: str) -> None:
    rows = manifest.rows(split)
    if unlabelled := [task for task, labels in manifest.tasks.items() if not labels.known[rows].any()]:
        raise DataError(
            f"{manifest.source}: no row of the split {split!r} has a label of {shorten_list(unlabelled)} to compare by"
        )


def _run(recipe: Recipe, manifest: Manifest, task: str, seed: int) -> StudyRun:
    if task != TOGETHER:
        recipe, manifest = single_task(recipe, manifest, task)
    name = f"seed-{seed}/{task or 'together'}"
    return StudyRun(name, recipe.model_copy(update={"seed": seed}), manifest)


def single_task(recipe: Recipe, manifest: Manifest, task: str) -> tuple[Recipe, Manifest]:
    """The recipe with one of its tasks alone, on the whole backbone, and the rows as that task sees them."""
    settings = recipe.tasks[task].model_copy(update={"tower": None})
    single = recipe.model_copy(update={"tasks": {task: settings}, "multitask": Multitask()})
    return single, replace(manifest, tasks={task: manifest.tasks[task]}).for_task(task)


def _compare_runs(recipe: Recipe, runs: Runs, seeds: Sequence[int], split: str, out: Path) -> dict[str, Any]:
    """The contents of ablation.json."""
    pairs = {
        (task, seed): (runs[TOGETHER, seed].folder, runs[task, seed].folder) for task in recipe.tasks for seed in seeds
    }
    gains, mean = relative_gains(pairs, split=split)
    tasks = {}
    for task, gain in gains.items():
        key, metric = HEADLINE_METRICS[recipe.tasks[task].kind]
        tasks[task] = {
            "kind": recipe.tasks[task].kind,
            "headline": key,
            "name": metric,
            "alone": [runs[task, seed].results["tasks"][task][key] for seed in seeds],
            "together": [runs[TOGETHER, seed].results["tasks"][task][key] for seed in seeds],
            "gain": gain.percent,
            "gain_ci": gain.interval,
        }
    return {
        "schema": 1,
        "split": split,
        "num_rows": _num_rows(runs[TOGETHER, seeds[0]], recipe.tasks),
        "seeds": list(seeds),
        "tasks": tasks,
        "delta_m": mean.percent,
        "delta_m_ci": mean.interval,
        "runs": [
            {
                "href": run.evaluation.report.relative_to(out).as_posix(),
                "tasks": list(recipe.tasks) if task == TOGETHER else [task],
                "seed": seed,
            }
            for (task, seed), run in runs.items()
        ],
    }


def _num_rows(run: FinishedRun, tasks: Mapping[str, Any]) -> int:
    """The rows that the task with the most labels is evaluated on."""
    return max(run.results["tasks"][task].get("num_rows", run.results["num_rows"]) for task in tasks)
