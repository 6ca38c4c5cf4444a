"""Predictions of clips as text, JSON or CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetune.cli.wrap import print_wrapped
from finetune.errors import RunError
from finetune.text import escape_control_characters, spreadsheet_row

if TYPE_CHECKING:
    from finetune.prediction.predict import Prediction, TaskPrediction

    Write = Callable[[Prediction], None]


@contextmanager
def prediction_writer(csv_file: Path | None, as_json: bool, paths: Sequence[Path]) -> Iterator[Write]:
    """A function that writes one prediction; the output is valid even if it is interrupted."""
    from finetune.data.tables import is_table, read_table

    if csv_file is not None:
        with ExitStack() as opened:
            tables = [read_table(path) for path in paths if is_table(path)]
            boxes = ("boxes",) if any(table.filled("boxes") for table in tables) else ()
            yield _CsvRows(csv_file, opened, places=("start", "end", *boxes) if tables else ())
    elif as_json:
        with json_items() as write_item:
            yield lambda prediction: write_item(prediction_json(prediction))
    else:
        # Progress bars of Rich replace sys.stdout, and with it SanitizedOutput.
        yield lambda prediction: print_wrapped(
            escape_control_characters(f"{prediction.name}\n{prediction_text(prediction)}")
        )


@contextmanager
def json_items() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes an item of a JSON list on stdout; the list is valid even if it is interrupted.

    Without items, nothing is written.
    """
    separator = "["

    def write(item: dict[str, Any]) -> None:
        nonlocal separator
        text = json.dumps(item, indent=1, ensure_ascii=False).replace("\n", "\n ")
        print(f"{separator}\n {text}", end="", flush=True)
        separator = ","

    try:
        yield write
    finally:
        if separator == ",":
            print("\n]")


class _CsvRows:
    """A CSV file, opened with the first prediction and written row by row.

    The first columns are those of the clip, with its `places`, and of the primary task if it has classes; with --reject
    also `rejected`, true or false. Columns of the other tasks carry the task's name: `box.x`, `box.frame`,
    `level.predicted`.
    """

    def __init__(self, path: Path, opened: ExitStack, *, places: tuple[str, ...]) -> None:
        self.path = path
        self.places = places
        self.opened = opened
        self.file: IO[str] | None = None
        self.others: list[str] = []

    def __call__(self, prediction: Prediction) -> None:
        if self.file is None:
            self._begin(prediction)
        start, end = _times(prediction)
        first = [
            prediction.path,
            *({"start": start, "end": end, "boxes": prediction.boxes}[column] for column in self.places),
            *(prediction.predicted, prediction.probability),
            json.dumps(prediction.top_k, ensure_ascii=False),
            *([] if prediction.rejected is None else [json.dumps(prediction.rejected)]),
        ]
        self._write(
            [*first, *(cell for name in self.others for cell in _task_csv_cells(prediction.tasks[name]).values())]
        )

    def _begin(self, prediction: Prediction) -> None:
        from finetune.recipe.tasks import primary_task

        tasks = prediction.tasks
        self.others = [name for name in tasks if not (name == primary_task(tasks) and tasks[name].top_k)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.opened.enter_context(self.path.open("w", newline="", encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from None
        columns = [f"{name}.{part}" for name in self.others for part in _task_csv_cells(tasks[name])]
        rejected = () if prediction.rejected is None else ("rejected",)
        self._write(["path", *self.places, "predicted", "probability", "top_k", *rejected, *columns])

    def _write(self, cells: Sequence[object]) -> None:
        assert self.file is not None
        csv.writer(self.file).writerow(spreadsheet_row(cells))
        self.file.flush()


def _times(prediction: Prediction) -> tuple[str, str]:
    """The columns start and end, in seconds; end is empty at the end of the file."""
    from finetune.data.intervals import seconds_text

    return seconds_text(prediction.start), seconds_text(prediction.end)


def prediction_text(prediction: Prediction) -> str:
    if not prediction.tasks:
        named = () if prediction.rejected else prediction.named
        verdict = "" if named is None else f"    is {', '.join(named) or 'none of the classes'}\n"
        return f"{verdict}    {_top_k_text(prediction.top_k)}"
    longest = max(map(len, prediction.tasks))
    return "\n".join(f"    {name:{longest}}   {_task_text(task)}" for name, task in prediction.tasks.items())


def _task_text(task: TaskPrediction) -> str:
    if not task.top_k:
        frame = "" if task.frame is None else f"   at frame {task.frame}"
        return "   ".join(f"{name} {value:.6g}" for name, value in task.numbers.items()) + frame
    verdict = "" if task.named is None else f"is {', '.join(task.named) or 'none of the classes'}:   "
    return verdict + _top_k_text(task.top_k)


def _top_k_text(top_k: Sequence[tuple[str, float]]) -> str:
    return "   ".join(f"{name} {probability:.3f}" for name, probability in top_k)


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    end = prediction.end if math.isfinite(prediction.end) else None
    is_interval = prediction.start > 0 or end is not None
    return {
        "path": str(prediction.path),
        **({"start": prediction.start, "end": end} if is_interval else {}),
        **({"boxes": prediction.boxes} if prediction.boxes else {}),
        "predicted": prediction.predicted,
        "probability": prediction.probability,
        **({} if prediction.rejected is None else {"rejected": prediction.rejected}),
        **({} if prediction.named is None else {"named": list(prediction.named)}),
        "top_k": _top_k_json("class", prediction.top_k),
        **({"tasks": {name: _task_json(task) for name, task in prediction.tasks.items()}} if prediction.tasks else {}),
    }


def _task_json(task: TaskPrediction) -> dict[str, Any]:
    if not task.top_k:
        return {"kind": task.kind, **task.numbers, **({} if task.frame is None else {"frame": task.frame})}
    if task.named is not None:
        return {"kind": task.kind, "classes": list(task.named), "top_k": _top_k_json("class", task.top_k)}
    what = "level" if task.kind == "ordinal" else "class"
    likeliest, probability = task.top_k[0]
    return {"kind": task.kind, what: likeliest, "probability": probability, "top_k": _top_k_json(what, task.top_k)}


def _top_k_json(what: str, top_k: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{what: name, "probability": probability} for name, probability in top_k]


def _task_csv_cells(task: TaskPrediction) -> dict[str, Any]:
    if task.top_k:
        listed = json.dumps(task.top_k, ensure_ascii=False)
        return {"predicted": task.predicted, "probability": task.top_k[0][1], "top_k": listed}
    numbers = {name: f"{value:.6g}" for name, value in task.numbers.items()}
    return numbers if task.frame is None else numbers | {"frame": task.frame}
