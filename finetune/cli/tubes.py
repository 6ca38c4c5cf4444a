"""`finetune tubes`: the tracked objects of recordings as rows of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.arguments import OwnParts, RunArgument
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import FileCounts, check_inputs, find_recordings
from finetune.cli.progress import progress_bars
from finetune.cli.wrap import print_wrapped
from finetune.errors import DataError
from finetune.recipe.object_fields import MIN_SCORE
from finetune.recipe.own_parts import import_named_parts
from finetune.storage.atomic import check_writable
from finetune.text import count


def tubes(
    run: RunArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Videos, or folders of them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder in which tubes.csv is written.")],
    min_seconds: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Leave out shorter tracks.")] = 0.5,
    window: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="SECONDS", help="Cut longer tracks into rows of this length."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Detect in every Nth frame, track in between.")] = 1,
    score: Annotated[
        float | None,
        typer.Option(min=MIN_SCORE, max=1, metavar="SCORE", help="The lowest score. Default: the best on val."),
    ] = None,
    label_by_object: Annotated[
        bool, typer.Option("--label-by-object", help="Fill in the detector's class as the label.")
    ] = False,
    parts: OwnParts = None,
) -> None:
    """Write a manifest with a row for each tracked object of the videos.

    RUN detects objects. Fill in the column label of DIR/tubes.csv with what
    each object does, and train on it: a row's pictures follow its object.

    Example: finetune tubes runs/detector recordings/ --out data/tubes --window 2
    """
    from finetune.run.read import open_run, require_objects

    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    require_objects(opened)
    check_inputs(paths)
    files = find_recordings(paths)
    target = out / "tubes.csv"
    if target.exists():
        raise DataError(f"{target}: exists, perhaps with your labels; give another --out DIR")
    check_writable(target)

    import_quickly("finetune.objects.track_rows")
    from finetune.objects.predict_frames import ObjectPredictor
    from finetune.objects.track_rows import RowLengths, TrackRow, collect_tracks, rows_of_tracks, write_track_rows

    predictor = ObjectPredictor(opened, every=every, score=score)
    rows: list[TrackRow] = []
    counts = FileCounts()
    with progress_bars() as progress:
        for number, file in enumerate(files, 1):
            with counts.count_file():
                recording, frames = predictor(file)
                rows += rows_of_tracks(recording, collect_tracks(frames), RowLengths(min_seconds, window))
            progress("tracking objects", number, len(files))
    counts.require_done()
    if not rows:
        raise DataError(f"no object is tracked for {min_seconds:g} s in {count(len(files), 'file')}; lower --score")
    out.mkdir(parents=True, exist_ok=True)
    write_track_rows(target, rows, label_by_object=label_by_object)
    print_wrapped(f"{count(len(rows), 'row')} of {count(counts.done, 'file')}")
    print(target)
    if counts.skipped:
        raise typer.Exit(1)
