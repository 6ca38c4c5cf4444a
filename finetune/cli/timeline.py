"""`finetune timeline`: the classes of a run over time in recordings, the events in them, and a page to look at them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.arguments import OwnParts, RunArgument, check_positive_seconds
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import FileCounts, find_videos
from finetune.cli.progress import progress_bars, recording_progress
from finetune.errors import VideoError
from finetune.recipe.own_parts import import_named_parts
from finetune.storage.atomic import check_writable
from finetune.text import count

if TYPE_CHECKING:
    from finetune.run.read import Run
    from finetune.timeline.events import EventSettings
    from finetune.timeline.timeline import Timeline
    from finetune.timeline.timelines import TimelineOptions


def timeline(
    run: RunArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Recordings, or folders of them.")],
    step: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Seconds from window to window. Default: a quarter of a window."),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Length of a window. Default: that of the run's training clips."),
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Calibrate probabilities with the temperature fitted on val.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("timeline"),
    parts: OwnParts = None,
) -> None:
    """Find events in recordings: when does which class happen?

    Writes timeline.csv (probabilities over time), events.csv and timeline.html. Ctrl-C keeps finished recordings.

    Example: finetune timeline runs/mine recordings/ --step 0.5
    """
    from finetune.run.folder import TIMELINE_PAGE
    from finetune.run.read import open_run, require_checkpoint

    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    require_checkpoint(opened, "a timeline")
    videos = _recordings(opened, paths)
    check_positive_seconds({"--window": window, "--step": step})
    check_writable(out / TIMELINE_PAGE)

    import_quickly("finetune.timeline.timelines")
    from finetune.timeline.timelines import TimelineOptions

    options = TimelineOptions(
        window or print_window_length(opened), step, calibrated=calibrated, events=print_event_settings(opened)
    )
    timelines: list[Timeline] = []
    try:
        counts = _collect(opened, videos, options, timelines)
    except KeyboardInterrupt:
        if timelines:
            print(f"Stopped; writing {count(len(timelines), 'finished recording')}", file=sys.stderr)
            _write(out, timelines, opened)
        raise
    counts.require_done()
    _write(out, timelines, opened)
    if counts.skipped:
        print(f"finetune: {counts.skipped} of {len(videos)} recordings have no timeline", file=sys.stderr)
        raise typer.Exit(1)


def _recordings(run: Run, paths: Sequence[Path]) -> list[Path]:
    from finetune.run.manifest import reads_image_sequences

    return find_videos(paths, image_sequences=reads_image_sequences(run))


def print_window_length(run: Run) -> float:
    """The length of the run's windows in seconds; prints where it is from."""
    from finetune.timeline.window_length import window_length

    seconds, origin = window_length(run)
    print(f"windows of {seconds:.3g} s: {origin}", file=sys.stderr)
    return seconds


def print_event_settings(run: Run) -> EventSettings:
    """The settings that were fitted on the run's val recordings, or else the defaults; prints which."""
    from finetune.timeline.event_settings import stored_event_settings
    from finetune.timeline.events import EventSettings

    stored = stored_event_settings(run)
    how = (
        "defaults: `finetune evaluate RUN --timeline` fits them on recordings of val" if stored is None else stored.how
    )
    print(f"event thresholds: {how}", file=sys.stderr)
    return EventSettings() if stored is None else stored.settings


def _collect(run: Run, videos: Sequence[Path], options: TimelineOptions, timelines: list[Timeline]) -> FileCounts:
    """Append the timeline of each recording to `timelines`; name those that cannot be read, and count them."""
    from finetune.timeline.timelines import iter_timelines

    counts = FileCounts()
    with progress_bars() as progress:
        for _, result in iter_timelines(run, videos, options, progress=recording_progress(progress)):
            with counts.count_file():
                if isinstance(result, VideoError):
                    raise result
                timelines.append(result)
    return counts


def _write(out: Path, timelines: Sequence[Timeline], run: Run) -> None:
    """Write the three files, and print a line for each recording and the path of each file."""
    from finetune.cli.timeline_files import write_timelines

    files = write_timelines(out, timelines, run=run.folder.resolve().name)
    for timeline in timelines:
        events = sum(len(of_task.events) for of_task in timeline.tasks.values())
        short = ", shorter than a window: one window has all its frames" if timeline.is_short else ""
        print(f"{timeline.path}: {count(events, 'event')} in {timeline.seconds:.1f} s{short}")
    print("\n".join(map(str, files)))
