"""What a run said of each row it was tested on: predictions.csv and probabilities.npy, written and read."""

import csv
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.labels import join_labels
from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.run.folder import EvaluationFolder
from finetune.storage.atomic import atomic_file
from finetune.storage.safe_read import read_array
from finetune.text import from_spreadsheet_cell, spreadsheet_row

COLUMNS = ("path", "label", "predicted", "probability", "top_k", "group")


@dataclass(frozen=True)
class PredictionRow:
    """One row. `top_k` are up to five classes with their probabilities, the likeliest first; `group` may be empty."""

    path: str
    label: str
    predicted: str
    probability: float
    top_k: dict[str, float]
    group: str

    @property
    def is_correct(self) -> bool:
        return self.label == self.predicted

    @property
    def margin(self) -> float:
        """By how much the likeliest class is likelier than the next."""
        first, second = [*self.top_k.values(), 0.0, 0.0][:2]
        return first - second


def write_class_predictions(
    folder: Path,
    manifest: Manifest,
    rows: np.ndarray,
    probs_NK: np.ndarray,
    predicted_NK: np.ndarray | None = None,
    *,
    task: str = "",
) -> None:
    """predictions.csv, a line for each row, and probabilities.npy, float32 (N, K), with rows in the same order.

    Where rows may have several classes, predicted are those that `predicted_NK` names, and the probability is of the
    likeliest. Those of another `task` than the first have its name in theirs. Names that a spreadsheet would take for
    a formula have an apostrophe before them, which reading takes away.
    """
    files = EvaluationFolder(folder)
    save_array(files.outputs(task), probs_NK)
    with atomic_file(files.predictions(task)) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for index, row in enumerate(rows):
            top = top_classes(probs_NK[index], manifest.classes, count=5)
            predicted = top[0][0] if predicted_NK is None else join_labels(manifest.classes, predicted_NK[index])
            listed = json.dumps(top, ensure_ascii=False)
            group = "" if manifest.groups is None else manifest.groups[row]
            cells = [manifest.path(row), manifest.label(row), predicted, top[0][1], listed, group]
            writer.writerow(spreadsheet_row(cells))


def write_numeric_predictions(
    folder: Path,
    manifest: Manifest,
    rows: np.ndarray,
    predictions_NK: np.ndarray,
    *,
    task: str,
    beside: Mapping[str, np.ndarray],
) -> None:
    """predictions-<task>.csv and said-<task>.npy of a task that gives numbers; true ones are empty where they lack.

    So is what else is to be written `beside` them of each row (N,).
    """
    files, labels = EvaluationFolder(folder), manifest.tasks[task]
    save_array(files.outputs(task), predictions_NK)
    with atomic_file(files.predictions(task)) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        columns = [column for name in labels.names for column in (name, f"{name}_said")]
        writer.writerow(["path", "group", *columns, *beside])
        for index, row in enumerate(rows):
            known, said = bool(labels.known[row]), predictions_NK[index]
            true = [f"{value:.6g}" if known else "" for value in labels.values[row]]
            pairs = [text for pair in zip(true, (f"{value:.6g}" for value in said), strict=True) for text in pair]
            further = [f"{values[index]:.4f}" if known else "" for values in beside.values()]
            group = "" if manifest.groups is None else manifest.groups[row]
            writer.writerow(spreadsheet_row([manifest.path(row), group, *pairs, *further]))


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array of any shape as float32."""
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.save(file, values.astype(np.float32))


def top_classes(probs_K: np.ndarray, classes: tuple[str, ...], *, count: int) -> list[tuple[str, float]]:
    """The likeliest classes with their probabilities, to six digits, likeliest first."""
    order = np.argsort(-probs_K, kind="stable")[:count]
    return [(classes[code], round(float(probs_K[code]), 6)) for code in order]


def read_prediction_rows(folder: Path) -> list[PredictionRow] | None:
    """The rows of `predictions.csv` in a folder, in order; None where there is no such file.

    Files written before groups were noted have none. Raises RunError for a damaged one.
    """
    path = EvaluationFolder(folder).predictions()
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return list(_parse_rows(file, path))
    except FileNotFoundError:
        return None


def read_task_predictions(
    evaluation: EvaluationFolder, task: str, tasks: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], np.ndarray]:
    """Paths of the rows and predictions (N, K) of one task; `tasks` are those of results.json.

    K are classes, or the numbers that the task predicts.
    """
    is_primary = task == primary_task(tasks) and tasks[task]["kind"] in CATEGORICAL_KINDS
    file = "" if is_primary else task
    return read_prediction_paths(evaluation.predictions(file)), read_array(evaluation.outputs(file))


def read_prediction_paths(path: Path) -> list[str]:
    """The paths of the rows in a predictions file of any task, in order."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return [from_spreadsheet_cell(row["path"]) for row in csv.DictReader(file)]


def _parse_rows(file: Iterator[str], path: Path) -> Iterator[PredictionRow]:
    rows = csv.DictReader(file)
    for number in itertools.count(2):
        try:
            if (row := next(rows, None)) is None:
                return
            top_k = {str(name): float(probability) for name, probability in json.loads(row["top_k"] or "[]")}
            said = row["path"], row["label"], row["predicted"], float(row["probability"])
            if None in said or not math.isfinite(said[3]):
                raise ValueError("a column is missing, or the probability is no number")
            name, label, predicted = map(from_spreadsheet_cell, said[:3])
            yield PredictionRow(name, label, predicted, said[3], top_k, from_spreadsheet_cell(row.get("group") or ""))
        except (KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:
            what = f"{path}, row {number}: expected path,label,predicted,probability,top_k but {error!r}"
            raise RunError(f"{what}; evaluate the run again") from error
