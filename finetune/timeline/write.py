"""Write the timelines of recordings as timeline.csv and events.csv."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from finetune.storage.atomic import atomic_file
from finetune.text import spreadsheet_row
from finetune.timeline.timeline import Timeline

PROBABILITIES_FILE, EVENTS_FILE = "timeline.csv", "events.csv"


def write_probabilities(path: Path, timelines: Sequence[Timeline]) -> None:
    """One row for each window: its recording, its middle in seconds, and the probability of each class.

    With several tasks, columns of all but the first carry the task's name: `level.high`.
    """
    names = [
        name if place == 0 else f"{task}.{name}"
        for place, (task, of_task) in enumerate(timelines[0].tasks.items())
        for name in of_task.classes
    ]
    _write(path, ["path", "time", *names], (row for timeline in timelines for row in _probability_rows(timeline)))


def _probability_rows(timeline: Timeline) -> Iterator[list[object]]:
    tables = [of_task.probabilities_WK for of_task in timeline.tasks.values()]
    for window, time in enumerate(timeline.times_W.tolist()):
        probabilities = [f"{value:.6g}" for table_WK in tables for value in table_WK[window].tolist()]
        yield [timeline.path, f"{time:.3f}", *probabilities]


def write_events(path: Path, timelines: Sequence[Timeline]) -> None:
    """One row for each event, in the order of recordings and of starts; times in seconds.

    With several tasks, the column `task` says whose event it is.
    """
    several = len(timelines[0].tasks) > 1
    columns = ["path", "start", "end", "label", "score", *(["task"] if several else [])]
    rows = (row if several else row[:-1] for timeline in timelines for row in _event_rows(timeline))
    _write(path, columns, rows)


def _event_rows(timeline: Timeline) -> Iterator[list[object]]:
    events = [(event, task) for task, of_task in timeline.tasks.items() for event in of_task.events]
    for event, task in sorted(events, key=lambda pair: pair[0]):
        label = timeline.tasks[task].classes[event.label]
        yield [timeline.path, f"{event.start:.3f}", f"{event.end:.3f}", label, f"{event.score:.4f}", task]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(spreadsheet_row(columns))
        writer.writerows(spreadsheet_row(row) for row in rows)
