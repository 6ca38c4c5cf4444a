"""`finetune summarize`: the parts of recordings that show most, within a length."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.annotations.format_names import ExportFormat
from finetune.cli.arguments import DATA_RECIPE, OwnParts
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import FileCounts, find_videos
from finetune.cli.progress import progress_bars
from finetune.cli.summary_figures import print_figures, read_references
from finetune.cli.summary_files import SummaryOptions, SummaryWriter, open_writer
from finetune.errors import DataError, RecipeError, RunError, VideoError
from finetune.recipe.load import load_recipe
from finetune.recipe.own_parts import import_named_parts, own_parts
from finetune.recipe.schema import Recipe
from finetune.summaries.length import DEFAULT_SHARE, SummaryLength
from finetune.text import count

if TYPE_CHECKING:
    from finetune.run.read import Run
    from finetune.summaries.recordings import RunSummarizer, Summarizer
    from finetune.summaries.summary import Summary

DEFAULT_BACKBONE = "mobilenetv2_100"  # small: most time of a summary is decoding and features
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+=")


def summarize(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO... [KEY=VALUE]...", help="Recordings, or folders of them; recipe settings."),
    ],
    share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of a recording to show. [default: 0.15]")
    ] = None,
    seconds: Annotated[float | None, typer.Option(metavar="SECONDS", help="Seconds to show instead.")] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Choose N single frames instead.")] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Show the events first that this run finds in the recordings.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("summary"),
    exact: Annotated[
        bool, typer.Option("--exact", help="Encode the summary's video, so that parts need not begin at keyframes.")
    ] = False,
    video: Annotated[bool, typer.Option("--video/--no-video", help="Write the summary as a video.")] = True,
    to: Annotated[
        ExportFormat | None, typer.Option(help="Write the parts as an annotation file too: elan, boris, ...")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Labelled events, path,start,end,label: print how many summaries show."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Scores of people, as in TVSum: print the rank correlation with them."),
    ] = None,
    parts: OwnParts = None,
) -> None:
    """Summarize recordings: the parts that show most.

    Shots are found and divided into segments of similar frames. The segments
    that represent the recording best are chosen. Ctrl-C keeps finished
    recordings.

    Example: finetune summarize recordings/ --share 0.1 --out summary
    """
    length = SummaryLength(DEFAULT_SHARE if seconds is None and frames is None else None, seconds, frames)
    if share is not None:
        length = SummaryLength(share, seconds, frames)
    paths, overrides = _split(arguments)
    source: Recipe | Run = _recipe(overrides) if run is None else _open_run(run, overrides, parts or ())
    videos = list(dict.fromkeys(find_videos(paths)))
    if events is not None and length.frames is not None:
        raise RunError(
            "--events measures how long events are shown, and --frames shows single frames; omit one of them"
        )
    if exact and (length.frames is not None or not video):
        raise RunError("--exact is for the summary's video, which --frames and --no-video leave out; omit --exact")
    if to is not None and length.frames is not None:
        raise RunError("--to writes intervals, and --frames chooses single frames, which have none; omit one of them")
    references = read_references(videos, events, scores)
    image_rate = (source if isinstance(source, Recipe) else source.recipe).data.image_rate
    writer = open_writer(SummaryOptions(out, video, exact, to, image_rate), videos)

    import_quickly("finetune.summaries.recordings")
    summaries: list[Summary] = []
    try:
        counts = _collect(source, length, videos, summaries, writer)
    except KeyboardInterrupt:
        if summaries:
            print(f"Stopped; writing {count(len(summaries), 'finished recording')}", file=sys.stderr)
            _write(writer, summaries)
        raise
    counts.require_done()
    _write(writer, summaries)
    print_figures(summaries, references)
    if counts.skipped:
        print(f"finetune: {counts.skipped} of {count(len(videos), 'recording')} have no summary", file=sys.stderr)
        raise typer.Exit(1)


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The videos, and the settings KEY=VALUE. Raises DataError where there is no video."""
    overrides = [text for text in arguments if _OVERRIDE.match(text) and not Path(text).exists()]
    paths = [Path(text) for text in arguments if text not in overrides]
    if not paths:
        raise DataError("no recording is given; name a video, or a folder of videos, before the settings")
    return paths, overrides


def _recipe(overrides: Sequence[str]) -> Recipe:
    """The recipe of a frozen backbone. Raises RecipeError for own parts, which need a run."""
    recipe = load_recipe(DATA_RECIPE, [f"model.backbone={DEFAULT_BACKBONE}", *overrides])
    if named := own_parts(recipe):
        raise RecipeError(f"{', '.join(named)}: own parts cannot be used here; train a run, and give it as --run")
    return recipe


def _open_run(folder: Path, overrides: Sequence[str], parts: Sequence[str]) -> Run:
    from finetune.run.read import open_run, require_checkpoint

    if overrides:
        raise RunError(f"{', '.join(overrides)}: settings are those of the run {folder}; omit them, or --run")
    run = open_run(open_run(folder), parts=import_named_parts(parts))
    require_checkpoint(run, "a summary")
    return run


def _summarizer(source: Recipe | Run, length: SummaryLength, progress: Any) -> Summarizer | RunSummarizer:
    from finetune.cli.timeline import print_event_settings, print_window_length
    from finetune.summaries.recordings import RunSummarizer, Summarizer
    from finetune.timeline.timelines import TimelineOptions

    if isinstance(source, Recipe):
        return Summarizer(source, length, progress=progress)
    options = TimelineOptions(print_window_length(source), events=print_event_settings(source))
    return RunSummarizer(source, length, options, progress=progress)


def _collect(
    source: Recipe | Run, length: SummaryLength, videos: Sequence[Path], summaries: list[Summary], writer: SummaryWriter
) -> FileCounts:
    """Append the summary of each recording to `summaries`, and write its files; name those that cannot be read."""
    from finetune.summaries.recordings import iter_summaries

    counts = FileCounts()
    with progress_bars() as show:

        def progress(done: float, total: float) -> None:
            show("summarizing, seconds", round(done), max(1, round(total)))

        for _, result in iter_summaries(_summarizer(source, length, progress), videos):
            with counts.count_file():
                if isinstance(result, VideoError):
                    raise result
                for written in writer.write_recording(result, show):
                    print(written)
                summaries.append(result)
    return counts


def _write(writer: SummaryWriter, summaries: Sequence[Summary]) -> None:
    """Write the files of all recordings; print a line for each recording, and the path of each file."""
    files = writer.write_all(summaries)
    for summary in summaries:
        of = f"{summary.seconds:.1f} s, {count(len(summary.shots) + 1, 'shot')}: {summary.method}"
        if summary.is_storyboard:
            print(f"{summary.path}: {count(len(summary.parts), 'frame')} of {of}")
        else:
            print(f"{summary.path}: {count(len(summary.parts), 'part')}, {summary.shown_seconds:.1f} s of {of}")
    print("\n".join(map(str, files)))
