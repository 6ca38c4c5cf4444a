"""Write the timelines of recordings into a folder: timeline.csv, events.csv and the page timeline.html."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.cli.progress import recording_progress
from finetune.errors import RunError
from finetune.report.pages.timeline import MAX_PICTURES, chosen_events, write_timeline_page
from finetune.run.folder import TIMELINE_PAGE
from finetune.run.read import Run
from finetune.timeline.pictures import event_pictures
from finetune.timeline.timeline import Timeline
from finetune.timeline.write import EVENTS_FILE, PROBABILITIES_FILE, write_events, write_probabilities

Show = Callable[[str, int, int | None], None]


def write_timelines(folder: Path, timelines: Sequence[Timeline], *, run: str) -> list[Path]:
    """The paths of the three files; `run` is the name of the run, for the page. Raises RunError."""
    probabilities, events, page = (folder / name for name in (PROBABILITIES_FILE, EVENTS_FILE, TIMELINE_PAGE))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_probabilities(probabilities, timelines)
        write_events(events, timelines)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
    with_picture = {
        place: [found.event for found in of_recording]
        for place, of_recording in chosen_events(timelines, MAX_PICTURES).items()
    }
    write_timeline_page(timelines, event_pictures(timelines, with_picture), path=page, run=run)
    return [probabilities, events, page]


def evaluate_events(run: Run, folder: Path, show: Show, **how: Any) -> dict[str, Any]:
    """Evaluate the events of a run's recordings, and write their timelines into `folder`; the metrics.

    `how` are the options of `evaluate_timeline`.
    """
    from finetune.timeline.evaluate_timeline import evaluate_timeline

    metrics, timelines = evaluate_timeline(run, out=folder, progress=recording_progress(show), **how)
    write_timelines(folder, timelines, run=run.folder.resolve().name)
    return metrics
