"""`finetune predict`: predictions for videos, as text, JSON or CSV, and drawn on the videos."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune.annotations.format_names import ObjectExportFormat
from finetune.cli.arguments import OwnParts, RunArgument, Views
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import check_inputs, count_predicted_files, find_recordings
from finetune.cli.predict_objects import ObjectOptions, predict_objects
from finetune.cli.predict_output import prediction_writer
from finetune.cli.predict_tracks import predict_tracks
from finetune.cli.progress import progress_bars
from finetune.errors import RunError, VideoError
from finetune.recipe.object_fields import MIN_SCORE
from finetune.recipe.own_parts import import_named_parts
from finetune.recipe.tasks import DENSE_KINDS
from finetune.storage.atomic import check_writable

if TYPE_CHECKING:
    from finetune.prediction.predict import Prediction
    from finetune.run.read import Run

    Write = Callable[[Prediction], None]

TOP_K = 5  # classes listed per video


def predict(
    run: RunArgument,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO", help="Videos, images, folders of them, or a CSV path[,start,end][,boxes]."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV file instead of printing.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of classes listed per video. Default: 5.")
    ] = None,
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
        int | None, typer.Option(min=1, metavar="N", help="Objects: detect in every Nth frame, track in between.")
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            min=MIN_SCORE, max=1, metavar="SCORE", help="Objects: the lowest score. Default: the best on val."
        ),
    ] = None,
    to: Annotated[
        ObjectExportFormat | None, typer.Option(help="Objects: also write annotations, to be corrected or imported.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="With --to: a new file (coco) or folder (mot, cvat).")
    ] = None,
    tracks: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Predict each object that this run detects and tracks, instead of the whole."),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="SECONDS", help="--tracks: predict parts of this length of longer tracks."),
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
    from finetune.run.read import open_run, require_objects

    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    check_inputs(paths)
    _check_rejection(opened, reject, views)
    together = reads_image_sequences(opened) if image_sequences is None else image_sequences
    _check_csv(csv_file, paths)
    targets = _drawn_paths(paths, drawn, image_sequences=together)
    if image_sequences is None:
        _print_image_sequence_mode(paths, together)
    of_objects = ObjectOptions(every or 1, score, as_json, targets, on_error)
    options = {"views": views, "top_k": top_k or TOP_K, "calibrated": calibrated, "reject": reject}
    options["image_sequences"] = together
    if any(output.kind in DENSE_KINDS for output in opened.outputs.values()):
        of_clips = {"--csv": csv_file, "--top-k": top_k, "--views": views, "--calibrated": calibrated}
        _refuse_options({**of_clips, "--tracks": tracks, "--window": window}, "clips", opened)
        if to is not None:
            require_objects(opened)
        files = find_recordings(paths, image_sequences=together)
        predicted, skipped = predict_objects(opened, files, of_objects, to=to, out=out)
    elif tracks is not None:
        if csv_file is not None or to is not None or out is not None:
            raise RunError("--csv, --to and --out are not for --tracks; use --json")
        detector = open_run(open_run(tracks), parts=import_named_parts(parts or ()))
        require_objects(detector)
        files = find_recordings(paths, image_sequences=together)
        predicted, skipped = predict_tracks(opened, detector, files, of_objects, options, window=window)
    else:
        if window is not None:
            raise RunError("--window cuts the tracks of --tracks RUN; omit it, or give this option too")
        _refuse_options({"--every": every, "--score": score, "--to": to, "--out": out}, "objects", opened)
        with prediction_writer(csv_file, as_json, paths) as write:
            predicted, skipped = _predict_clips(opened, paths, write, targets, {**options, "on_error": on_error})
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

    with progress_bars() as progress, count_predicted_files(options["on_error"]) as counts:
        for place, (_, result) in enumerate(iter_predictions(run, paths, progress=progress, **options)):
            with counts.count_file():
                if isinstance(result, VideoError):
                    raise result
                write(result)
                if targets:
                    _draw(result, targets[place], image_rate=run.recipe.data.image_rate)
    return counts.done, counts.skipped


def _refuse_options(options: dict[str, object], what: str, run: Run) -> None:
    """Raises RunError for options that are set and that are for runs of another kind."""
    if wrong := [name for name, value in options.items() if value]:
        raise RunError(f"{run.folder}: {', '.join(wrong)} is for runs that predict {what}; this run does not")


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
