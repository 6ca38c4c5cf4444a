"""Read what a run has left in its folder, as its files are: no torch, and no file need be there but those asked for."""

import csv
import io
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError, RunError
from finetune.recipe.load import read_yaml
from finetune.recipe.renamed_keys import rename_recipe_keys
from finetune.run.predictions_csv import read_prediction_rows
from finetune.run.results import EpochRecord, Results
from finetune.storage.safe_read import parse_json, read_json, read_text, validate_type

SCHEMA = 1
SPLITS = ("test", "val", "train")
_PREDICTIONS = ("path", "label", "predicted", "probability")


def evaluation_folder(run: Path, split: str) -> Path:
    """Where `finetune evaluate` writes what a run scores on a split."""
    return run / "evaluation" if split == "test" else run / "evaluation" / split


def find_evaluation(run: Path, split: str | None) -> Path:
    """Where a run's results on a split are; None: on that which it was scored on when it was trained.

    Training scores a run without a split test on val, and writes that into the same place.
    """
    main = run / "evaluation"
    if split is None:
        others = [evaluation_folder(run, name) for name in SPLITS]
        return next((each for each in (main, *others) if (each / "results.json").is_file()), main)
    there = evaluation_folder(run, split)
    if not (there / "results.json").is_file() and (main / "results.json").is_file():
        with suppress(RunError):
            if read_json(main / "results.json", dict[str, Any]).get("split") == split:
                return main
    return there


def read_results(run: Path, split: str | None) -> dict[str, Any]:
    """Raises RunError with the command that makes them where they are missing."""
    path = find_evaluation(run, split) / "results.json"
    if not path.is_file():
        raise RunError(f"{run}: {_missing_results_message(run, split or 'test')}")
    return read_results_file(path)


def read_results_file(path: Path) -> dict[str, Any]:
    """Raises RunError where it is missing, of another version, or has no task."""
    if not path.is_file():
        raise RunError(f"{path}: there is no such file, so there is nothing to report; evaluate the run first")
    results = read_json(path)
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path}: schema is {schema!r}, this version reads {SCHEMA}; evaluate the run again")
    if results.get("split") not in SPLITS:
        raise RunError(f"{path}: there is no split {results.get('split')!r}; it is damaged: evaluate the run again")
    if not results.get("tasks"):
        raise RunError(f"{path}: has no task in it; it is damaged: evaluate the run again")
    return validate_type(results, Results, path)


def _missing_results_message(run: Path, split: str) -> str:
    if not run.is_dir():
        return "there is no such folder; name run folders, as `finetune train` printed them"
    if (run / "study.json").is_file() and not (run / "metrics.jsonl").is_file():
        return f"several runs that have no result on {split} together; name one of them, or end the study first"
    where = (evaluation_folder(run, split) / "results.json").relative_to(run).as_posix()
    return f"has no {where}; make it with `{evaluate_command(run, split)}`"


def evaluate_command(run: Path, split: str) -> str:
    return f"finetune evaluate {shlex.quote(str(run))}" + f" --split {split}" * (split != "test")


def read_predictions(run: Path, split: str | None) -> list[dict[str, Any]]:
    """A dictionary for each clip: path, label, predicted, probability, and group, which is None where there is none."""
    folder = find_evaluation(run, split)
    answers = read_prediction_rows(folder)
    if answers is None:
        command = evaluate_command(run, split or "test")
        raise RunError(f"{folder / 'predictions.csv'}: there is no such file; make it with `{command}`")
    rows = [{key: getattr(each, key) for key in _PREDICTIONS} | {"group": each.group or None} for each in answers]
    return rows if any(row["group"] for row in rows) else _with_groups(rows, run / "manifest.csv")


def _with_groups(rows: list[dict[str, Any]], manifest: Path) -> list[dict[str, Any]]:
    """The same rows, their groups taken from the rows that the run trained on, if they have any."""
    listed = csv.DictReader(io.StringIO(read_text(manifest) or ""))
    groups = {row.get("path"): row.get("group") for row in listed}
    return [row | {"group": groups.get(row["path"]) or None} for row in rows]


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """One record an epoch, in order; an epoch written twice, as after a resume, counts as written last."""
    path = run / "metrics.jsonl"
    lines = (read_text(path) or "").split("\n")[:-1]  # a last line without its end was cut off when a run was killed
    records = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not all(isinstance(record, dict) and isinstance(record.get("epoch"), int) for record in records):
        raise RunError(f"{path}: a line without the number of its epoch; it is damaged: train again")
    for record in records:
        validate_type(record, EpochRecord, f"{path}, epoch {record['epoch']}")
    last = {record["epoch"]: record for record in records}
    return [last[epoch] for epoch in sorted(last)]


def with_task_metrics(task: str, epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same records, which then say of a run what they say of this task where they say nothing of the run itself."""
    found = []
    for epoch in epochs:
        own = (epoch.get("tasks") or {}).get(task) or {}
        found.append(epoch | {key: value for key, value in own.items() if epoch.get(key) is None})
    return found


def read_recipe(run: Path) -> dict[str, Any] | None:
    """A run's recipe as plain values, by the keys of this version; None where the run has none.

    No reference in it is followed, and no key is refused: another version may have written it.
    """
    path = run / "recipe.yaml"
    text = read_text(path)
    if text is None:
        return None
    try:
        recipe = read_yaml(text, where=path)
    except RecipeError as error:
        raise RunError(str(error)) from None
    if not isinstance(recipe, dict):
        raise RunError(f"{path}: a recipe is a mapping of sections")
    try:
        return rename_recipe_keys({str(key): value for key, value in recipe.items()})[0]
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def training_seconds(epochs: list[dict[str, Any]]) -> float:
    """What training took: all epochs, and what frozen work was done ahead of their phases."""
    ahead = {epoch.get("phase"): epoch.get("cache", {}).get("seconds", 0.0) for epoch in reversed(epochs)}
    return sum(sum(epoch.get("seconds", {}).values()) for epoch in epochs) + sum(ahead.values())
