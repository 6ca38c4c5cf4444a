"""List the runs in a folder, newest first, and write index.html with links to their reports."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune.errors import RunError
from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.report.headline_text import KIND_NAMES, headline_row
from finetune.report.html_page import load_template, page_assets, write_page
from finetune.run.folder import RunFolder
from finetune.run.read import (
    evaluate_command,
    read_environment,
    read_epochs,
    read_recipe,
    read_results,
    training_seconds,
)
from finetune.storage.atomic import try_exclusive_lock
from finetune.storage.safe_read import MALFORMED_DATA_ERRORS
from finetune.text import count

_SPLITS = ("test", "val", "train")  # the first with results is listed
_REGRESSION_KIND_NAMES = {KIND_NAMES[kind] for kind in set(HEADLINE_METRICS) - set(CATEGORICAL_KINDS)}
_DEFAULT_PHASE_EPOCHS = 5  # if a recipe gives neither epochs nor steps


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """One row per run directly in `folder`, newest first; `problem` says what is wrong with damaged files.

    A folder with results or a recipe is a run; each seed of a study is one. Raises RunError if there is none.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder; name the folder of your runs: finetune runs FOLDER")
    runs = [_row(run, folder) for run in _runs_in(folder)]
    if not runs:
        raise RunError(f"{folder}: contains no runs; name the folder of your runs: finetune runs FOLDER")
    return sorted(runs, key=lambda run: -run["time"])


def write_index(folder: Path) -> Path:
    """Write `index.html` into `folder`."""
    runs = list_runs(folder)
    html = load_template("index.html.j2").render(
        folder=folder.resolve().name,
        runs=runs,
        evaluations_differ=evaluations_differ(runs),
        other_kinds=any(row["kind"] in _REGRESSION_KIND_NAMES for run in runs for row in run["headlines"]),
        **page_assets("index.css"),
    )
    path = folder / "index.html"
    try:
        write_page(path, html)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def is_index(path: Path) -> bool:
    """Whether a file was written by `write_index`, so that it may be replaced."""
    try:
        with path.open("rb") as file:
            return b'content="finetune runs"' in file.read(4000)
    except OSError:
        return False


def evaluations_differ(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether data, split, number of clips or metric differ between runs, so that they cannot be compared."""
    evaluated = [run for run in runs if run["value"] is not None]
    return len({tuple(run[key] for key in ("source", "split", "clips", "metric")) for run in evaluated}) > 1


def _is_run(run: Path) -> bool:
    with suppress(OSError):
        evaluated = any(RunFolder(run).evaluation(split).exists() for split in _SPLITS)
        return evaluated or (RunFolder(run).recipe.is_file() and not RunFolder(run).study.is_file())
    return False


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, and those inside a study that has no results of its own, such as several seeds."""
    runs: list[Path] = []
    for path in sorted(folder.iterdir()):
        if _is_run(path):
            runs.append(path)
        elif RunFolder(path).study.is_file():
            runs += [run for run in sorted(path.iterdir()) if _is_run(run)]
    return runs


def _row(run: Path, folder: Path) -> dict[str, Any]:
    """The row of one run; damaged files are reported in `problem`, so that the other runs are still listed."""
    row: dict[str, Any] = dict.fromkeys(("link", "metric", "value", "ci", "split", "clips", "classes", "seconds"))
    row |= {"headlines": []}
    row |= dict.fromkeys(("model", "source", "progress", "state", "todo", "problem"), "")
    row |= {"name": run.relative_to(folder).as_posix(), "started": "", "time": 0.0}
    with suppress(OSError):
        row |= _format_time(run.stat().st_mtime)
    try:
        return row | _run_columns(run, folder)
    except (RunError, OSError) as error:
        return row | {"state": "damaged", "problem": str(error).removeprefix(f"{run}{os.sep}")}
    except MALFORMED_DATA_ERRORS as error:
        return row | {
            "state": "damaged",
            "problem": f"malformed file: {error!r}; evaluate the run again",
        }


def _run_columns(run: Path, folder: Path) -> dict[str, Any]:
    recipe, epochs = read_recipe(run) or {}, read_epochs(run)
    columns = _recipe_columns(recipe) | _start_time(run)
    splits = [split for split in _SPLITS if RunFolder(run).evaluation(split).exists()]
    columns |= {"progress": _progress(epochs), "seconds": training_seconds(epochs) if epochs else None}
    if not splits:
        return columns | _state(run, epochs, _planned_epochs(recipe))
    results = read_results(run, splits[0])
    if folds := results.get("folds"):
        columns |= {"progress": count(len(folds), "fold"), "seconds": float(results["seconds"])}
    return columns | _score_columns(run, splits[0], results, folder) | {"state": "finished"}


def _recipe_columns(recipe: Mapping[str, Any]) -> dict[str, str]:
    model, data = recipe.get("model") or {}, recipe.get("data") or {}
    source = next((str(data[key]) for key in ("manifest", "folder", "packed") if data.get(key)), "")
    parts = [str(model[key]) for key in ("backbone", "temporal") if model.get(key)]
    return {"model": ", ".join(parts), "source": source}


def _start_time(run: Path) -> dict[str, Any]:
    environment = read_environment(run)
    started = None if environment is None else environment.get("started")
    return {} if started is None else _format_time(datetime.fromisoformat(started).timestamp())


def _format_time(time: float) -> dict[str, Any]:
    return {"time": time, "started": datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M")}


def _progress(epochs: Sequence[Mapping[str, Any]]) -> str:
    if not epochs:
        return ""
    phases = len({epoch.get("phase") for epoch in epochs})
    return f"{count(phases, 'phase')}, {count(int(epochs[-1]['epoch']), 'epoch')}"


def _planned_epochs(recipe: Mapping[str, Any]) -> int | None:
    """The number of epochs in a recipe; None where it counts steps or names a phase preset."""
    phases = recipe.get("phases")
    if not isinstance(phases, list) or any(phase.get("steps") for phase in phases):
        return None
    return sum(int(phase.get("epochs") or _DEFAULT_PHASE_EPOCHS) for phase in phases)


def _state(run: Path, epochs: Sequence[Mapping[str, Any]], planned: int | None) -> dict[str, str]:
    """The state of a run without results, and the command to continue."""
    done = int(epochs[-1]["epoch"]) if epochs else 0
    if _is_locked(RunFolder(run).lock):
        return {"state": "training"}
    if planned is not None and done >= planned:
        return {"state": "trained, not evaluated", "todo": evaluate_command(run, "test")}
    of = "" if planned is None else f" of {planned}"
    return {"state": f"stopped after epoch {done}{of}", "todo": f"finetune train --resume {shlex.quote(str(run))}"}


def _is_locked(lock: Path) -> bool:
    """Whether a process is training in the folder; False where that is unknown."""
    if not lock.is_file() or not os.access(lock, os.W_OK):
        return False
    with try_exclusive_lock(lock) as free:
        return not free


def _score_columns(run: Path, split: str, results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    name = primary_task(results["tasks"])
    task = results["tasks"][name]
    row = headline_row(name, task)
    page = RunFolder(run).evaluation(split).report
    link = quote(os.fsencode(page.relative_to(folder).as_posix())) if page.is_file() else None
    _check_range(row, task["kind"])
    return {
        "metric": row["metric"],
        "value": float(row["value"]),
        "ci": [float(end) for end in row["interval"]] if row["interval"] else None,
        "headlines": [row, *_other_headlines(results["tasks"], name)],
        "split": str(results["split"]),
        "clips": int(results["num_rows"]),
        "classes": len(task["classes"]) if "classes" in task else None,
        "link": link,
    }


def _other_headlines(tasks: Mapping[str, Mapping[str, Any]], first: str) -> list[dict[str, Any]]:
    return [
        headline_row(name, task) for name, task in tasks.items() if name != first and task["kind"] in HEADLINE_METRICS
    ]


def _check_range(row: Mapping[str, Any], kind: str) -> None:
    low, high = metric_range(kind)
    for value in (row["value"], *(row["interval"] or [])):
        if not low <= float(value) <= high:
            raise ValueError(f"{value} is not between {low:g} and {high:g}")
