"""What summaries show of labelled events, beside uniform and random summaries; and their memory for 5 and 60 minutes.

    python benchmarks/summaries.py --events <folder>/events.csv [--run RUN] [--share 0.15] [KEY=VALUE …]
    python benchmarks/summaries.py --memory <folder>

`events.csv` has path,start,end,label of recordings, as `finetune data quickstart --recordings` and joined_recordings.py
write it; with a column `split`, --split takes the rows of one. Besides the summaries of `finetune summarize`, this
prints those of other choices from the same features: by similarity alone, by activity alone, and pieces at random.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from clips import repeat
from timeline import SMALL_MINUTE, make

from finetune.data.manifest import Manifest
from finetune.recipe.load import load_recipe
from finetune.run.read import open_run
from finetune.summaries import summarize as summarize_module
from finetune.summaries.choose import Pieces
from finetune.summaries.figures import coverage_figures
from finetune.summaries.length import SummaryLength
from finetune.summaries.recordings import RunSummarizer, Summarizer
from finetune.summaries.references import read_events
from finetune.summaries.samples import Samples
from finetune.summaries.summarize import summarize
from finetune.summaries.summary import Summary
from finetune.timeline.event_settings import stored_event_settings
from finetune.timeline.events import EventSettings
from finetune.timeline.timelines import TimelineOptions
from finetune.timeline.window_length import window_length

MEMORY_MINUTES = (5, 60)
BUILD = summarize_module.build_pieces


def similarity_alone(*given: object) -> Pieces:
    pieces = BUILD(*given)
    return replace(pieces, activity_C=np.ones_like(pieces.activity_C))


def activity_alone(*given: object) -> Pieces:
    pieces = BUILD(*given)
    return replace(pieces, similarity_CC=np.eye(len(pieces), dtype=np.float32))


def at_random(*given: object) -> Pieces:
    pieces = BUILD(*given)
    rng = np.random.default_rng(len(pieces))
    return replace(
        pieces, similarity_CC=np.eye(len(pieces), dtype=np.float32), activity_C=rng.random(len(pieces), np.float32)
    )


CHOICES: dict[str, Callable[..., Pieces]] = {
    "similarity and activity": BUILD,
    "similarity alone": similarity_alone,
    "activity alone": activity_alone,
    "random segments": at_random,
}


def compare(events_csv: Path, split: str | None, length: SummaryLength, overrides: list[str], run: Path | None) -> None:
    events = read_events(events_csv)
    manifest = Manifest.from_csv(events_csv, whole=split is None, checked=False)
    rows = manifest.rows(split) if split else np.arange(len(manifest))
    videos = sorted({manifest.path(int(row)).resolve() for row in rows})
    seen: list[Samples] = []

    def keep(samples: Samples, *given: object, **how: object) -> Summary:
        seen.append(samples)
        return summarize(samples, *given, **how)  # type: ignore[arg-type]

    print("| choice | at least half shown | any part shown | parts | share shown |\n|---|---|---|---|---|")
    with patch("finetune.summaries.recordings.summarize", keep):
        if run is not None:
            opened = open_run(run)
            stored = stored_event_settings(opened)
            settings = EventSettings() if stored is None else stored.settings
            options = TimelineOptions(window_length(opened).seconds, events=settings)
            print_row(
                "events of the run first", [RunSummarizer(opened, length, options)(video) for video in videos], events
            )
        else:
            summarizer = Summarizer(load_recipe("folder", ["model.backbone=mobilenetv2_100", *overrides]), length)
            for video in videos:
                summarizer(video)
    for name, build in CHOICES.items():
        with patch.object(summarize_module, "build_pieces", build):
            summaries = [summarize(samples, length) for samples in seen]
        print_row(name, summaries, events)
    summaries = [summarize(samples, length) for samples in seen]
    figures = coverage_figures(summaries, events)
    for name in ("uniform", "random"):
        print(f"| {name} | {cell(figures[name], 'half')} | {cell(figures[name], 'any')} | | |")


def print_row(name: str, summaries: list[Summary], events: dict) -> None:
    figures = coverage_figures(summaries, events)["summary"]
    parts = np.mean([len(summary.parts) for summary in summaries])
    shown = np.mean([summary.shown_seconds / summary.seconds for summary in summaries])
    print(f"| {name} | {cell(figures, 'half')} | {cell(figures, 'any')} | {parts:.1f} | {shown:.3f} |", flush=True)


def cell(figures: dict, name: str) -> str:
    interval = figures.get(f"{name}_ci")
    return f"{figures[name]:.3f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def memory(folder: Path) -> None:
    minute = make(folder, SMALL_MINUTE)
    print("| recording | peak memory, MB |\n|---|---|")
    for minutes in MEMORY_MINUTES:
        path = repeat(minute, folder / f"summary_{minutes}.mp4", minutes)
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", path], check=True, capture_output=True, text=True
        )
        print(f"| {minutes} minutes | {float(done.stdout):.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--memory", type=Path, metavar="FOLDER")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    length = SummaryLength(share=options.share)
    if options.memory_of:
        settings = ["model.backbone=test_resnet", "model.weights=none", "clip.size=32", "train.device=cpu"]
        Summarizer(load_recipe("folder", settings), length)(options.memory_of)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif options.memory:
        memory(options.memory)
    elif options.events:
        compare(options.events, options.split, length, options.overrides, options.run)
    else:
        parser.error("--events FILE or --memory FOLDER is needed")


if __name__ == "__main__":
    main()
