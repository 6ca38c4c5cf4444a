"""Write and read the predictions of an evaluation: predictions.csv and probabilities.npy."""

import csv
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.intervals import clip_name
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
    """One row; `path` is the clip's name, see `Manifest.clip_name`, and `group` may be empty.

    `top_k` has up to five classes with their probabilities, likeliest first.
    """

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
        """The probability of the likeliest class minus that of the next."""
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
) -> list[PredictionRow]:
    """Write predictions.csv with one row for each of `rows` (N,), and probabilities.npy (N, K); the rows as values.

    Where a clip may have several classes, `predicted_NK` marks those that are predicted, and the probability is that
    of the likeliest class. `task` is part of the file names for all tasks but the primary one. A text that a
    spreadsheet would run as a formula gets an apostrophe in front, which reading removes.
    """
    files = EvaluationFolder(folder)
    save_array(files.outputs(task), probs_NK)
    predictions = [
        _prediction_row(manifest, row, probs_K, None if predicted_NK is None else predicted_NK[index])
        for index, (row, probs_K) in enumerate(zip(rows, probs_NK, strict=True))
    ]
    with atomic_file(files.predictions(task)) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow([*manifest.clip_columns, *COLUMNS[1:]])
        for number, row in zip(rows.tolist(), predictions, strict=True):
            top_k = json.dumps(list(row.top_k.items()), ensure_ascii=False)
            cells = [row.label, row.predicted, row.probability, top_k, row.group]
            writer.writerow(spreadsheet_row([*manifest.clip_cells(number), *cells]))
    return predictions


def _prediction_row(manifest: Manifest, row: int, probs_K: np.ndarray, predicted_K: np.ndarray | None) -> PredictionRow:
    top = top_classes(probs_K, manifest.classes, count=5)
    predicted = top[0][0] if predicted_K is None else join_labels(manifest.classes, predicted_K)
    group = "" if manifest.groups is None else str(manifest.groups[row])
    return PredictionRow(manifest.clip_name(row), manifest.label(row), predicted, top[0][1], dict(top), group)


def write_numeric_predictions(
    folder: Path,
    manifest: Manifest,
    rows: np.ndarray,
    predictions_NK: np.ndarray,
    *,
    task: str,
    extra: Mapping[str, np.ndarray],
) -> None:
    """Write the predictions (N, K) of a task of numbers for `rows` (N,); `extra` are more columns, of (N,) values.

    Where a row has no label, the cells of the true values and of `extra` are empty.
    """
    files, labels = EvaluationFolder(folder), manifest.tasks[task]
    save_array(files.outputs(task), predictions_NK)
    with atomic_file(files.predictions(task)) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        columns = [column for name in labels.names for column in (name, f"{name}_said")]
        writer.writerow([*manifest.clip_columns, "group", *columns, *extra])
        for index, row in enumerate(rows):
            known, predicted_K = bool(labels.known[row]), predictions_NK[index]
            true = [f"{value:.6g}" if known else "" for value in labels.values[row]]
            pairs = [
                text for pair in zip(true, (f"{value:.6g}" for value in predicted_K), strict=True) for text in pair
            ]
            extra_cells = [f"{values[index]:.4f}" if known else "" for values in extra.values()]
            group = "" if manifest.groups is None else manifest.groups[row]
            writer.writerow(spreadsheet_row([*manifest.clip_cells(row), group, *pairs, *extra_cells]))


def clip_name_of(row: Mapping[str, str]) -> str:
    """The name of the clip in a row of a predictions file."""
    path = from_spreadsheet_cell(row["path"])
    return clip_name(path, float(row.get("start") or 0), float(row.get("end") or math.inf), row.get("boxes") or "")


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array of any shape as float32."""
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.save(file, values.astype(np.float32))


def top_classes(probs_K: np.ndarray, classes: tuple[str, ...], *, count: int) -> list[tuple[str, float]]:
    """The `count` likeliest of K classes with their probabilities to six digits, likeliest first."""
    order = np.argsort(-probs_K, kind="stable")[:count]
    return [(classes[code], round(float(probs_K[code]), 6)) for code in order]


def read_prediction_rows(folder: Path) -> list[PredictionRow] | None:
    """The rows of `predictions.csv` in a folder, in order; None where there is no such file.

    Files of older versions have no groups. Raises RunError for a damaged file.
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
    """Names of the clips and predictions (N, K) of one task; `tasks` are those of results.json.

    K are classes, or the numbers that the task predicts.
    """
    is_primary = task == primary_task(tasks) and tasks[task]["kind"] in CATEGORICAL_KINDS
    file = "" if is_primary else task
    return read_clip_names(evaluation.predictions(file)), read_array(evaluation.outputs(file))


def read_clip_names(path: Path) -> list[str]:
    """The names of the clips in a predictions file of any task, in order."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return [clip_name_of(row) for row in csv.DictReader(file)]


def _parse_rows(file: Iterator[str], path: Path) -> Iterator[PredictionRow]:
    rows = csv.DictReader(file)
    for number in itertools.count(2):
        try:
            if (row := next(rows, None)) is None:
                return
            top_k = {str(name): float(probability) for name, probability in json.loads(row["top_k"] or "[]")}
            cells = clip_name_of(row), row["label"], row["predicted"], float(row["probability"])
            if None in cells or not math.isfinite(cells[3]):
                raise ValueError("a column is missing, or the probability is not a finite number")
            label, predicted = map(from_spreadsheet_cell, cells[1:3])
            yield PredictionRow(
                cells[0], label, predicted, cells[3], top_k, from_spreadsheet_cell(row.get("group") or "")
            )
        except (KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:
            what = f"{path}, row {number}: cannot be read as path,label,predicted,probability,top_k ({error!r})"
            raise RunError(f"{what}; evaluate the run again") from error
