"""Read the runs of a comparison, and refuse those that cannot be compared."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune.errors import RunError
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.recipe.tasks import primary_task, require_classes
from finetune.report.compare.matched_clips import Row
from finetune.run.read import read_epochs, read_predictions, read_recipe, read_results, with_task_metrics
from finetune.run.results import Results
from finetune.storage.safe_read import damage_as_run_error

MAX_RUNS = len(string.ascii_uppercase)


class ComparedRun(NamedTuple):
    """A run as its folder describes it; `task` is its primary task, `table` its predictions."""

    mark: str
    name: str
    folder: Path
    results: Results
    task: dict[str, Any]
    table: list[Row]
    epochs: list[dict[str, Any]]
    recipe: dict[str, Any] | None


def load_runs(runs: Sequence[Path], split: str | None) -> list[ComparedRun]:
    """Read the runs. Raises RunError that names every run that cannot be compared."""
    if len(runs) < 2:
        raise RunError(f"compare needs at least two runs, got {len(runs)}: finetune compare RUN RUN")
    if len(runs) > MAX_RUNS:
        raise RunError(f"compare takes at most {MAX_RUNS} runs, got {len(runs)}; name fewer")
    folders = [run.resolve() for run in runs]
    if repeated := [str(run) for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1]:
        raise RunError(f"{repeated[0]}: is named more than once; name different runs")
    loaded, problems = [], []
    for mark, run, name in zip(string.ascii_uppercase, runs, _short_run_names(folders), strict=False):
        try:
            with damage_as_run_error(run):
                loaded.append(_load_run(mark, name, run, split))
        except RunError as error:
            problems.append(str(error))
    if problems:
        raise RunError("\n".join(problems))
    return loaded


_RUNS_LISTS_METRICS = "`finetune runs` lists the metrics of runs side by side"


def _load_run(mark: str, name: str, run: Path, split: str | None) -> ComparedRun:
    results = read_results(run, split)
    primary = primary_task(results["tasks"])
    require_classes(results["tasks"], run, "a comparison clip by clip", advice=_RUNS_LISTS_METRICS)
    table, epochs, recipe = read_predictions(run, split), read_epochs(run), read_recipe(run)
    epochs = with_task_metrics(primary, epochs)
    return ComparedRun(mark, name, run, results, results["tasks"][primary], table, epochs, recipe)


def common_split(runs: Sequence[ComparedRun]) -> str:
    """The split of all runs. Training evaluates a run without a test split on val."""
    splits = {run.name: str(run.results["split"]) for run in runs}
    if len(set(splits.values())) > 1:
        listed = ", ".join(f"{name} on {split}" for name, split in splits.items())
        raise RunError(f"the runs were not evaluated on the same split: {listed}; choose one with --split")
    return next(iter(splits.values()))


def _short_run_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make the names different."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def common_kind(runs: Sequence[ComparedRun]) -> str:
    """The kind of the primary task of all runs. Raises RunError where it differs."""
    kinds = {str(run.task.get("kind")) for run in runs}
    if len(kinds) > 1 or not kinds <= set(HEADLINE_METRICS):
        listed = ", ".join(f"{run.folder}: {run.task.get('kind')}" for run in runs)
        raise RunError(f"these runs have different kinds of task ({listed}); compare runs of one kind")
    return kinds.pop()
