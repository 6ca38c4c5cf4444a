"""Train a recipe with several seeds: how much the result varies by chance in training alone."""

import os
from collections.abc import Sequence
from pathlib import Path

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Recipe
from finetune.report.run.page import write_report
from finetune.run.results import SeedResult
from finetune.run.write import write_results
from finetune.study.several_runs import FinishedRun, StudyRun, evaluation_split, finish_runs, study_folder


def train_seeds(recipe: Recipe, manifest: Manifest, *, seeds: int, out: Path) -> list[FinishedRun]:
    """Train, evaluate and report a recipe with its own seed and the next ones, `seeds` in all.

    All use the same rows, and are evaluated on the split test, else val. Each is a run in `out/seed-<n>`, and its
    report links to the others. An interrupted study resumes.
    """
    numbers = range(recipe.seed, recipe.seed + seeds)
    runs = [StudyRun(f"seed-{seed}", recipe.model_copy(update={"seed": seed}), manifest) for seed in numbers]
    with study_folder(out, recipe, manifest, {"seeds": seeds}):
        finished = list(finish_runs(runs, out=out, split=evaluation_split(manifest), what="seed"))
        for run in finished:
            _add_seeds(run, finished, numbers)
            write_report(run.folder, evaluation=run.evaluation.path)
    return finished


def _add_seeds(run: FinishedRun, runs: Sequence[FinishedRun], numbers: Sequence[int]) -> None:
    """Add the headline metric of all seeds to a run's results.json, with links to their reports."""
    listed: list[SeedResult] = [
        {
            "seed": seed,
            "value": other.headline[1],
            "href": Path(os.path.relpath(other.evaluation.report, run.evaluation.path)).as_posix(),
        }
        for seed, other in zip(numbers, runs, strict=True)
    ]
    write_results(run.evaluation.path, {**run.results, "seeds": listed})
