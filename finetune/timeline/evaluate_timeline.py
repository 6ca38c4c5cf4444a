"""Evaluate the timeline of a run on annotated recordings: metrics of events, and settings of events fitted on val."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.data.intervals import WHOLE
from finetune.data.manifest import Manifest
from finetune.errors import DataError, RunError, VideoError
from finetune.evaluation.external_set import external_set_folder, read_external_set
from finetune.metrics.event_matching import Event
from finetune.metrics.localization import localization_metrics
from finetune.recipe.load import list_overrides
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run, open_run, read_results_file
from finetune.run.write import write_results
from finetune.timeline.event_settings import background_class, store_event_settings, stored_event_settings
from finetune.timeline.events import events_from_probabilities
from finetune.timeline.fit_events import AnnotatedProbabilities, FittedSettings, fit_event_settings
from finetune.timeline.timeline import Timeline
from finetune.timeline.timelines import Progress, TimelineOptions, TimelinePredictor
from finetune.timeline.window_length import window_length


class TimelineEvaluation(NamedTuple):
    """The metrics of events, see `localization_metrics`, and the timelines that they are of."""

    metrics: dict[str, Any]
    timelines: list[Timeline]


@dataclass(frozen=True)
class AnnotatedRecording:
    """A recording of a manifest and its labelled events; an end may be infinite."""

    path: Path
    group: str
    events: list[Event]


class RecordingsToEvaluate(NamedTuple):
    """The annotated recordings of a split, the run's own rows, and the folder of the split's evaluation."""

    recordings: list[AnnotatedRecording]
    split: str
    own: Manifest
    folder: Path


def recordings_to_evaluate(
    run: Run, overrides: str | Sequence[str] = (), *, split: str | None = None, data_root: Path | None = None
) -> RecordingsToEvaluate:
    """The recordings that `evaluate_timeline` takes. Raises RunError where no row of the split is an interval."""
    overrides = list_overrides(overrides)
    own = saved_manifest(run, data_root=data_root, needs_files=not overrides)
    if overrides:
        other = read_external_set(run, own, overrides, split=split, unknown_classes="skip")
        tested, split, folder = other.manifest, other.split, external_set_folder(run.folder, overrides)
    else:
        split = split or "test"
        tested, folder = own, RunFolder(run.folder).evaluation(split).path
    recordings = annotated_recordings(tested, split, background=run.recipe.data.background)
    if not recordings:
        raise RunError(
            f"{run.folder}: no row of the split {split!r} is an interval of a recording, so there are no events to "
            "find; the timeline is evaluated on rows with start and end"
        )
    return RecordingsToEvaluate(recordings, split, own, folder)


def evaluate_timeline(
    run: str | Path | Run,
    overrides: str | Sequence[str] = (),
    *,
    split: str | None = None,
    data_root: Path | None = None,
    out: Path | None = None,
    on_error: str | None = None,
    progress: Progress | None = None,
) -> TimelineEvaluation:
    """Metrics of the events that a run finds in the annotated recordings of a split, see `localization_metrics`.

    `overrides`, `split`, `data_root`, `out` and `on_error` are those of `evaluate`, which comes first: the metrics are
    added to its results.

    The settings of events are fitted on the run's recordings of val, and stored in the run, for `finetune timeline` and
    other labelled sets; results of val itself get a warning. Raises RunError where no row of the split is an interval.
    """
    opened = open_run(run)
    recordings, split, own, folder = recordings_to_evaluate(opened, overrides, split=split, data_root=data_root)
    predictor = TimelinePredictor(opened, TimelineOptions(window_length(opened).seconds), progress=progress)
    timelines = _Timelines(predictor, skip=(on_error or opened.recipe.data.on_error) == "skip")
    stored = stored_event_settings(opened) if list_overrides(overrides) else None  # the run's own files may be gone
    fitted = stored or _fit_settings(opened, timelines, own)
    found = [(recording, timeline) for recording in recordings if (timeline := timelines.of(recording.path))]
    if not found:
        raise DataError(f"{opened.folder}: none of the recordings of the split {split!r} can be read")
    found = [(recording, with_settings(timeline, fitted, opened)) for recording, timeline in found]
    result = _metrics(opened, *zip(*found, strict=True))
    result |= {"split": split, "settings": asdict(fitted.settings), "how": fitted.how}
    result |= {"skipped": timelines.skipped, "fitted_here": split == "val" and not list_overrides(overrides)}
    _add_to_results(EvaluationFolder(out or folder), result)
    return TimelineEvaluation(result, [timeline for _, timeline in found])


def annotated_recordings(manifest: Manifest, split: str, *, background: str | None) -> list[AnnotatedRecording]:
    """The recordings with interval rows in a split, in order of path, without events of the class `background`."""
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row in manifest.rows(split).tolist():
        if manifest.interval(row) != WHOLE:
            rows_of[manifest.paths[row]].append(row)
    names = manifest.classes
    recordings = []
    for path in sorted(rows_of):
        rows = rows_of[path]
        group = str(path if manifest.groups is None else manifest.groups[rows[0]])
        events = [
            Event(*manifest.interval(row), label)
            for row in rows
            for label in _labels(manifest, row)
            if names[label] != background
        ]
        recordings.append(AnnotatedRecording(manifest.path(rows[0]), group, sorted(events)))
    return recordings


def _labels(manifest: Manifest, row: int) -> list[int]:
    if manifest.targets is not None:
        return np.flatnonzero(manifest.targets[row]).tolist()
    return [int(manifest.labels[row])] if manifest.labels[row] < len(manifest.classes) else []


class _Timelines:
    """The timelines of recordings, each predicted once; with `skip`, files that cannot be read are left out."""

    def __init__(self, predictor: TimelinePredictor, *, skip: bool) -> None:
        self.predictor, self.skip = predictor, skip
        self.known: dict[Path, Timeline | None] = {}
        self.skipped: list[str] = []

    def of(self, path: Path) -> Timeline | None:
        """Raises DataError for a file that cannot be read, unless it is to be skipped."""
        if path not in self.known:
            try:
                self.known[path] = self.predictor(path)
            except VideoError as error:
                if not self.skip:
                    raise DataError(
                        f"{error}\nfix the file, remove its rows, or skip it with --on-error skip"
                    ) from None
                self.known[path] = None
                self.skipped.append(str(error))
        return self.known[path]


def _fit_settings(run: Run, timelines: _Timelines, manifest: Manifest) -> FittedSettings:
    """Settings fitted on the recordings of val, and stored in the run."""
    annotated = []
    for recording in annotated_recordings(manifest, "val", background=run.recipe.data.background):
        if timeline := timelines.of(recording.path):
            truth = _clipped(recording.events, timeline.seconds)
            borders, probabilities_NK = (0.0, timeline.seconds), timeline.primary.probabilities_WK
            annotated.append(AnnotatedProbabilities(timeline.times_W, probabilities_NK, borders, truth))
    output = next(iter(run.outputs.values()))
    fitted = fit_event_settings(
        annotated, multilabel=output.kind == "multilabel", background=background_class(run, output.names)
    )
    store_event_settings(run, fitted)
    return fitted


def with_settings(timeline: Timeline, fitted: FittedSettings, run: Run) -> Timeline:
    """The timeline with events of the primary task by other settings."""
    name, task = next(iter(timeline.tasks.items()))
    events = events_from_probabilities(
        timeline.times_W,
        task.probabilities_WK,
        (0.0, timeline.seconds),
        fitted.settings,
        multilabel=task.multilabel,
        background=background_class(run, task.classes),
    )
    return replace(timeline, tasks={**timeline.tasks, name: replace(task, events=events)})


def _metrics(run: Run, recordings: Sequence[AnnotatedRecording], timelines: Sequence[Timeline]) -> dict[str, Any]:
    background = background_class(run, timelines[0].primary.classes)
    first, groups = timelines[0], np.array([recording.group for recording in recordings])
    metrics = localization_metrics(
        [
            _clipped(recording.events, timeline.seconds)
            for recording, timeline in zip(recordings, timelines, strict=True)
        ],
        [timeline.primary.events for timeline in timelines],
        classes=first.primary.classes,
        seconds=[timeline.seconds for timeline in timelines],
        background=background,
        groups=groups if len(set(groups.tolist())) < len(groups) else None,
    )
    return metrics | {
        "background": None if background is None else first.primary.classes[background],
        "window_seconds": first.window_seconds,
        "step_seconds": first.step_seconds,
    }


def _clipped(events: list[Event], seconds: float) -> list[Event]:
    """Events cut off at the end of the recording; those beyond it are left out."""
    return [event._replace(end=min(event.end, seconds)) for event in events if event.start < seconds]


def _add_to_results(files: EvaluationFolder, result: dict[str, Any]) -> None:
    if not files.results.is_file():
        return
    results = read_results_file(files.results)
    warnings = [*results["warnings"], *({"what": f"Skipped: {reason}", "do": ""} for reason in result["skipped"])]
    if result["fitted_here"]:
        what = "Events in recordings: their thresholds were fitted on these recordings, so the results are too good."
        warnings.append({"what": what, "do": "Evaluate them on the split test."})
    write_results(files.path, {**results, "timeline": result, "warnings": warnings})
