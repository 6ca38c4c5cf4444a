"""`finetune predict`: predictions for videos, as text, JSON or CSV, and drawn on the videos."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune.annotations.format_names import ObjectExportFormat
from finetune.cli.arguments import OwnParts, RunArgument, Views
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.predict_objects import ObjectOptions, predict_objects
from finetune.cli.progress import progress_bars
from finetune.cli.wrap import print_wrapped
from finetune.errors import DataError, RunError, VideoError
from finetune.recipe.own_parts import import_named_parts
from finetune.recipe.tasks import DENSE_KINDS
from finetune.storage.atomic import check_writable
from finetune.text import escape_control_characters, spreadsheet_row

if TYPE_CHECKING:
    from finetune.prediction.predict import Prediction, TaskPrediction
    from finetune.run.read import Run

    Write = Callable[[Prediction], None]


def predict(
    run: RunArgument,
    paths: Annotated[
        list[Path], typer.Argument(metavar="VIDEO", help="Videos, images, folders of them, or a CSV path[,start,end].")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV file instead of printing.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Number of classes listed per video.")] = 5,
    views: Views = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Calibrate probabilities with the temperature fitted on val.")
    ] = False,
    reject: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Reject clips that look like none of the classes; SHARE of the val clips would be rejected: 0.05.",
        ),
    ] = None,
    image_sequences: Annotated[
        bool | None,
        typer.Option(
            "--image-sequences/--single-images",
            help="A folder of numbered images is one clip, or each of its images is one. Default: as in training.",
        ),
    ] = None,
    drawn: Annotated[
        Path | None,
        typer.Option(
            "--draw", metavar="FILE|DIR", help="Draw predictions on a copy of the video; with several videos, a folder."
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Objects: detect in every Nth frame, track in between.")
    ] = 1,
    score: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, metavar="SCORE", help="Objects: the lowest score. Default: the best on val."),
    ] = None,
    to: Annotated[
        ObjectExportFormat | None, typer.Option(help="Objects: also write annotations, to be corrected or imported.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="With --to: a new file (coco) or folder (mot, cvat).")
    ] = None,
    on_error: Annotated[
        Literal["skip", "fail"],
        typer.Option(help="With unreadable files: predict the others and exit with 1, or stop."),
    ] = "skip",
    parts: OwnParts = None,
) -> None:
    """Predict classes, boxes, motion, numbers or objects for videos.

    Predictions are written file by file: Ctrl-C keeps those of finished files.
    If files are unreadable, the others are predicted and the exit status is 1.

    Example: finetune predict runs/mine new_clips/ --csv predictions.csv
    """
    from finetune.run.manifest import reads_image_sequences
    from finetune.run.read import open_run

    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    _check_inputs(paths)
    _check_rejection(opened, reject, views)
    together = reads_image_sequences(opened) if image_sequences is None else image_sequences
    _check_csv(csv_file, paths)
    targets = _drawn_paths(paths, drawn, image_sequences=together)
    if image_sequences is None:
        _print_image_sequence_mode(paths, together)
    if any(output.kind in DENSE_KINDS for output in opened.outputs.values()):
        _refuse_options({"--csv": csv_file, "--views": views, "--calibrated": calibrated}, "clips", opened)
        of_objects = ObjectOptions(every, score, as_json, targets, to, out, on_error)
        predicted, skipped = predict_objects(opened, _recordings(paths, image_sequences=together), of_objects)
    else:
        _refuse_options({"--every": every > 1, "--score": score, "--to": to, "--out": out}, "objects", opened)
        options = {
            "views": views,
            "top_k": top_k,
            "calibrated": calibrated,
            "reject": reject,
            "image_sequences": together,
            "on_error": on_error,
        }
        with _writer(csv_file, as_json, paths) as write:
            predicted, skipped = _predict_clips(opened, paths, write, targets, options)
    for written in filter(None, (csv_file, None if as_json else drawn)):
        print(written)
    if skipped:
        print(f"finetune: {skipped} of {predicted + skipped} files have no complete prediction", file=sys.stderr)
        raise typer.Exit(1)


def _predict_clips(
    run: Run, paths: Sequence[Path], write: Write, targets: Sequence[Path], options: dict[str, Any]
) -> tuple[int, int]:
    """Write and draw the predictions of `iter_predictions`; count files predicted and files skipped."""
    import_quickly("finetune.prediction.predict")
    from finetune.prediction.predict import iter_predictions

    def finish(number: int, result: Prediction) -> None:
        write(result)
        if targets:
            _draw(result, targets[number], image_rate=run.recipe.data.image_rate)

    with progress_bars() as progress:
        return _write_predictions(iter_predictions(run, paths, progress=progress, **options), finish)


def _refuse_options(options: dict[str, object], what: str, run: Run) -> None:
    """Raises RunError for options that are set and that are for runs of another kind."""
    if wrong := [name for name, value in options.items() if value]:
        raise RunError(f"{run.folder}: {', '.join(wrong)} is for runs that predict {what}; this run does not")


def _recordings(paths: Sequence[Path], *, image_sequences: bool) -> list[Path]:
    """The files of a run of objects. Raises RunError for a CSV."""
    from finetune.data.read import find_media
    from finetune.data.tables import is_table

    if tables := [path for path in paths if is_table(path)]:
        raise RunError(f"{tables[0]}: objects are predicted in whole recordings, not in the rows of a CSV")
    return [file for path in paths for file in find_media(path, image_sequences=image_sequences)]


def _check_inputs(paths: Sequence[Path]) -> None:
    """Raises DataError where no path exists: before torch is imported, which takes seconds."""
    if not any(path.exists() for path in paths):
        raise DataError("\n".join(f"{path}: there is no such file" for path in paths))


def _check_rejection(run: Run, reject: float | None, views: int | None) -> None:
    """Raises RunError or ArgumentError where clips cannot be rejected by this share."""
    from finetune.prediction.rejection import choose_rejection

    if reject is not None:
        choose_rejection(run, reject, views=views)


def _drawn_paths(paths: Sequence[Path], drawn: Path | None, *, image_sequences: bool) -> list[Path]:
    """With --draw, the file to draw into for each input file. Raises RunError where they cannot be written."""
    if drawn is None:
        return []
    from finetune.data.tables import is_table
    from finetune.prediction.render import output_paths

    if tables := [path for path in paths if is_table(path)]:
        raise RunError(f"{tables[0]}: --draw draws whole videos, not the rows of a CSV; name the videos")
    targets = output_paths(paths, drawn, image_sequences=image_sequences)
    for target in targets[:1]:
        check_writable(target)
    return targets


def _draw(prediction: Prediction, target: Path, *, image_rate: float) -> None:
    from finetune.prediction.render import draw  # with OpenCV, which predictions alone do not need

    draw(prediction, target, image_rate=image_rate)


def _check_csv(csv_file: Path | None, paths: Sequence[Path]) -> None:
    """Raises RunError where the CSV file cannot be written."""
    if csv_file is None:
        return
    if any(csv_file.resolve() == path.resolve() for path in paths):
        raise RunError(f"{csv_file}: is also an input file; write the CSV to another file")
    check_writable(csv_file)


def _write_predictions(
    results: Iterator[tuple[Path, Prediction | VideoError]], finish: Callable[[int, Prediction], None]
) -> tuple[int, int]:
    """Write predictions; count files predicted and files skipped, which are named on stderr.

    Raises DataError where no file can be read.
    """
    predicted = skipped = 0
    try:
        for number, (_, result) in enumerate(results):
            try:
                if isinstance(result, VideoError):
                    raise result
                finish(number, result)
                predicted += 1
            except VideoError as error:
                skipped += 1
                print(f"finetune: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"Stopped; predictions of {predicted} files are complete", file=sys.stderr)
        raise
    if not predicted:
        raise DataError(f"none of {skipped} files can be read" if skipped > 1 else "the file cannot be read")
    return predicted, skipped


@contextmanager
def _writer(csv_file: Path | None, as_json: bool, paths: Sequence[Path]) -> Iterator[Write]:
    """A function that writes one prediction; the output is valid even if it is interrupted."""
    from finetune.data.tables import is_table, read_table

    if csv_file is not None:
        with ExitStack() as opened:
            tables = [read_table(path) for path in paths if is_table(path)]
            boxes = ("boxes",) if any(table.filled("boxes") for table in tables) else ()
            yield _CsvRows(csv_file, opened, places=("start", "end", *boxes) if tables else ())
    elif as_json:
        items = _JsonItems()
        try:
            yield items
        finally:
            items.close()
    else:
        # Progress bars of Rich replace sys.stdout, and with it SanitizedOutput.
        yield lambda prediction: print_wrapped(
            escape_control_characters(f"{prediction.name}\n{_prediction_text(prediction)}")
        )


class _JsonItems:
    """A JSON list on stdout, written item by item; without items, nothing is written."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, prediction: Prediction) -> None:
        item = json.dumps(_prediction_json(prediction), indent=1, ensure_ascii=False).replace("\n", "\n ")
        print(f"{',' if self.count else '['}\n {item}", end="", flush=True)
        self.count += 1

    def close(self) -> None:
        if self.count:
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


def _print_image_sequence_mode(paths: Sequence[Path], together: bool) -> None:
    """Print how folders of numbered images are read, if there are any."""
    from finetune.data.read import find_media
    from finetune.storage.numbered_images import group_into_clips
    from finetune.text import count

    files = [file for path in paths if path.is_dir() for file in find_media(path, image_sequences=False)]
    folders = sum(clip.is_dir() for clip in group_into_clips(files)[0])
    if not folders:
        return
    if together:
        words = "one clip each; --single-images treats each image as a clip"
    else:
        words = "each image is a clip, as in training; --image-sequences treats each folder as one clip"
    print(f"{count(folders, 'folder')} of numbered images: {words}", file=sys.stderr)


def _prediction_text(prediction: Prediction) -> str:
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


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
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
