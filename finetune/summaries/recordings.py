"""Summarise recordings one by one, each in one pass over its frames, with a frozen backbone or with a run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from finetune.errors import VideoError
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.recipe.schema import Recipe
from finetune.run.read import Run
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.summaries.events_first import NamedEvent
from finetune.summaries.frames import RecordingReader
from finetune.summaries.length import SummaryLength
from finetune.summaries.summarize import summarize
from finetune.summaries.summary import Summary
from finetune.timeline.timelines import TimelineOptions, TimelinePredictor

Progress = Callable[[float, float], None]


class Summarizer:
    """Summarises one recording at a time by what a frozen backbone sees; `recipe` has its settings."""

    def __init__(self, recipe: Recipe, length: SummaryLength, *, progress: Progress | None = None) -> None:
        """Raises ModelError for a backbone that does not exist, or whose weights are missing."""
        self.recipe, self.length, self.progress = recipe, length, progress
        device = resolve_device(recipe.train.device)
        torch.manual_seed(recipe.seed)
        self.model = _frozen_model(recipe).to(device).eval()
        self.precision = resolve_precision(recipe.train.precision, device)

    def __call__(self, path: Path) -> Summary:
        """Raises VideoError for a file that cannot be read."""
        reader = _reader(path, self.model, self.recipe, self.precision)
        with closing(reader.batches()) as batches:
            for numbers, _ in batches:
                if self.progress is not None:
                    self.progress(float(reader.times_N[numbers[-1]]), reader.seconds)
        if self.progress is not None:
            self.progress(reader.seconds, reader.seconds)
        return summarize(reader.samples(), self.length)


class RunSummarizer:
    """Summarises one recording at a time by the events of the primary task that a run finds in it."""

    def __init__(
        self, run: Run, length: SummaryLength, options: TimelineOptions, *, progress: Progress | None = None
    ) -> None:
        """Raises RunError for a run without classes."""
        self.length = length
        self.predictor = TimelinePredictor(run, options, progress=progress)

    def __call__(self, path: Path) -> Summary:
        """Raises VideoError for a file that cannot be read."""
        predictor = self.predictor
        reader = _reader(path, predictor.model, predictor.run.recipe, predictor.precision)
        windows = predictor.plan(path, reader.times_N)
        size = reader.info.height, reader.info.width
        with closing(reader.batches(windows.sampled_frames)) as batches:
            timeline = predictor.predict(path, windows, batches, seconds=reader.seconds, picture_size=size)
        task = timeline.primary
        events = [NamedEvent(start, end, task.classes[label], score) for start, end, label, score in task.events]
        return summarize(reader.samples(), self.length, events=events)


def iter_summaries(
    summarizer: Summarizer | RunSummarizer, paths: Sequence[Path]
) -> Iterator[tuple[Path, Summary | VideoError]]:
    """The summary of each recording, or why it cannot be read."""
    for path in paths:
        try:
            yield path, summarizer(path)
        except VideoError as error:
            yield path, error


def _frozen_model(recipe: Recipe) -> VideoClassifier:
    """The backbone that a recipe names, with a head that is not used."""
    settings = recipe.model.model_copy(update={"fusion": "late", "temporal": "mean", "head": "linear"})
    return build_from_settings(settings, ("0", "1"), num_frames=recipe.clip.num_frames, size=recipe.clip.size)


def _reader(path: Path, model: VideoClassifier, recipe: Recipe, precision: str) -> RecordingReader:
    return RecordingReader(path, model, recipe.clip, image_rate=recipe.data.image_rate, precision=precision)
