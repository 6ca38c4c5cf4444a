"""The same recipe with several seeds: how far chance in training alone moves the figure."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.recipe.schema import Recipe
from finetune.report.run.page import write_report
from finetune.run.read import evaluation_folder
from finetune.storage.atomic import write_json
from finetune.storage.safe_read import read_json
from finetune.study.study_runs import primary_task_metrics, study_folder, train_and_evaluate

Announce = Callable[[str], None]


def train_seeds(
    recipe: Recipe, manifest: Manifest, *, seeds: int, out: Path, announce: Announce = lambda text: None
) -> tuple[str, list[Path]]:
    """Train, score and report a recipe with so many seeds, from its own upwards; the split and the runs.

    All learn from the same rows and are scored on the same: test, else val. Each is a run in a folder of `out`, and its
    report names the others. What is finished there is not done again.
    """
    split = next((name for name in ("test", "val") if len(manifest.rows(name))), "train")
    numbers = range(recipe.seed, recipe.seed + seeds)
    with study_folder(out, recipe, manifest, seeds=seeds):
        runs: list[Path] = []
        for seed in numbers:
            announce(f"seed {seed}, {len(runs) + 1} of {seeds}")
            seeded = recipe.model_copy(update={"seed": seed})
            runs.append(train_and_evaluate(seeded, manifest, out=out / f"seed-{seed}", split=split))
        _name_each_other(runs, numbers, split)
    return split, runs


def _name_each_other(runs: Sequence[Path], numbers: Sequence[int], split: str) -> None:
    folders = [evaluation_folder(run, split) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        results = read_json(folder / "results.json")
        results["seeds"] = [
            _listed(other, seed, split, there, folder)
            for other, seed, there in zip(runs, numbers, folders, strict=True)
        ]
        write_json(folder / "results.json", results)
        write_report(run, evaluation=folder)


def _listed(run: Path, seed: int, split: str, there: Path, here: Path) -> dict[str, Any]:
    figures = primary_task_metrics(run, split)
    href = Path(os.path.relpath(there / "report.html", here)).as_posix()
    return {"seed": seed, "value": figures[HEADLINE_METRICS[figures["kind"]][0]], "href": href}
