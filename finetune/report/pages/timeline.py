"""Write timeline.html: what a run found in recordings, over time; a click plays the video there.

The page holds everything but the videos, which it plays from their own paths. Its sentences are in
templates/timeline.html.j2; this file selects and scales what the page shows.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.errors import RunError
from finetune.metrics.event_matching import Event
from finetune.report.html_page import load_template, page_assets, picture_uri, write_page
from finetune.text import clock
from finetune.timeline.timeline import TaskTimeline, Timeline

MAX_EVENTS, MAX_PICTURES = 1000, 100  # on the page; those with the highest scores
MAX_CURVES = 12  # of one task of a recording
MAX_POINTS, MAX_POINTS_OF_PAGE, MIN_POINTS = 2000, 80_000, 60  # of a curve, of all curves
NUM_COLOURS = 8  # then they repeat, with stripes
TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000)
MAX_TICKS = 8


class PageEvent(NamedTuple):
    """An event of a task of the recording `place`."""

    event: Event
    task: str
    place: int


def chosen_events(timelines: Sequence[Timeline], limit: int) -> dict[int, list[PageEvent]]:
    """The `limit` events with the highest scores, by recording, in the order of their starts."""
    everything = (
        PageEvent(event, task, place)
        for place, timeline in enumerate(timelines)
        for task, of_task in timeline.tasks.items()
        for event in of_task.events
    )
    chosen: dict[int, list[PageEvent]] = {}
    for found in heapq.nlargest(limit, everything, key=lambda found: found.event.score):
        chosen.setdefault(found.place, []).append(found)
    return {place: sorted(events) for place, events in sorted(chosen.items())}


def write_timeline_page(
    timelines: Sequence[Timeline], pictures: Mapping[tuple[int, Event], bytes], *, path: Path, run: str
) -> None:
    """Write the page; `pictures` are JPEG bytes by recording, a place in `timelines`, and event."""
    shown = chosen_events(timelines, MAX_EVENTS)
    num_events = sum(len(of_task.events) for timeline in timelines for of_task in timeline.tasks.values())
    num_curves = sum(min(MAX_CURVES, len(of_task.classes)) for each in timelines for of_task in each.tasks.values())
    points = min(MAX_POINTS, max(MIN_POINTS, MAX_POINTS_OF_PAGE // max(1, num_curves)))
    colours = _colours(timelines[0])
    html = load_template("timeline.html.j2").render(
        run=run,
        recordings=[
            _recording(place, timeline, shown.get(place, []), pictures, (colours, points))
            for place, timeline in enumerate(timelines)
        ],
        legend=_legend(timelines, colours),
        num_events=num_events,
        num_shown=sum(map(len, shown.values())),
        num_pictures=len(pictures),
        several_tasks=len(timelines[0].tasks) > 1,
        window_seconds=timelines[0].window_seconds,
        step_seconds=timelines[0].step_seconds,
        seconds=sum(timeline.seconds for timeline in timelines),
        clock=clock,
        **page_assets("timeline.css", script="timeline.js"),
    )
    try:
        write_page(path, html)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def _colours(timeline: Timeline) -> dict[tuple[str, int], int]:
    """The number of each class of each task, by which it gets its colour."""
    counts = [0, *accumulate(len(of_task.classes) for of_task in timeline.tasks.values())]
    return {
        (task, label): first + label
        for (task, of_task), first in zip(timeline.tasks.items(), counts, strict=False)
        for label in range(len(of_task.classes))
    }


def _legend(timelines: Sequence[Timeline], colours: Mapping[tuple[str, int], int]) -> list[tuple[str, str]]:
    """(style class, name) of each class that has events."""
    found = {
        (task, event.label)
        for timeline in timelines
        for task, of_task in timeline.tasks.items()
        for event in of_task.events
    }
    names = {task: of_task.classes for task, of_task in timelines[0].tasks.items()}
    return [(colour_class(colours[key]), names[key[0]][key[1]]) for key in sorted(found, key=lambda key: colours[key])]


def colour_class(number: int) -> str:
    """The style class of a class of events: one of NUM_COLOURS colours, after the first ones with stripes."""
    return f"c{number % NUM_COLOURS + 1} s{number // NUM_COLOURS % 3}"


def _recording(
    place: int,
    timeline: Timeline,
    events: Sequence[PageEvent],
    pictures: Mapping[tuple[int, Event], bytes],
    drawing: tuple[Mapping[tuple[str, int], int], int],
) -> dict[str, Any]:
    colours, points = drawing
    video = timeline.path.absolute()
    rows = [
        {
            "id": f"r{place}e{number}",
            "start": found.event.start,
            "end": found.event.end,
            "score": found.event.score,
            "name": timeline.tasks[found.task].classes[found.event.label],
            "task": found.task,
            "style": colour_class(colours[found.task, found.event.label]),
            "left": 100 * found.event.start / timeline.seconds,
            "width": 100 * (found.event.end - found.event.start) / timeline.seconds,
            "picture": picture_uri(picture) if (picture := pictures.get((place, found.event))) else None,
        }
        for number, found in enumerate(events)
    ]
    return {
        "id": f"r{place}",
        "path": str(timeline.path),
        "seconds": timeline.seconds,
        "is_short": timeline.is_short,
        "video": video.as_uri() if video.is_file() else "",
        "lanes": _lanes(rows),
        "events": rows,
        "num_events": sum(len(of_task.events) for of_task in timeline.tasks.values()),
        "curves": [
            curve
            for task, of_task in timeline.tasks.items()
            for curve in _curves(timeline, task, of_task, (colours, points))
        ],
        "num_classes": sum(len(of_task.classes) for of_task in timeline.tasks.values()),
        "span": _span(timeline),
        "ticks": time_ticks(timeline.seconds),
    }


def _lanes(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Events, in the order of their starts, in as few lanes as hold them side by side."""
    lanes: list[list[dict[str, Any]]] = []
    for row in rows:
        free = next((lane for lane in lanes if lane[-1]["end"] <= row["start"] + 1e-6), None)
        if free is None:
            lanes.append([row])
        else:
            free.append(row)
    return lanes


def _curves(
    timeline: Timeline, task: str, of_task: TaskTimeline, drawing: tuple[Mapping[tuple[str, int], int], int]
) -> Iterator[dict[str, Any]]:
    """The classes that have events, then those with the highest probabilities, at most MAX_CURVES."""
    colours, points = drawing
    spans: dict[int, list[Event]] = {}
    for event in of_task.events:
        spans.setdefault(event.label, []).append(event)
    peaks_K = of_task.probabilities_WK.max(0)
    order = sorted(range(len(of_task.classes)), key=lambda label: (label not in spans, -float(peaks_K[label])))
    for label in sorted(order[:MAX_CURVES]):
        yield {
            "name": of_task.classes[label],
            "style": colour_class(colours[task, label]),
            "points": min(points, len(timeline.times_W)),
            "line": curve_path(of_task.probabilities_WK[:, label], points),
            "spans": _spans_path(spans.get(label, []), timeline.seconds),
            "peak": float(peaks_K[label]),
        }


def curve_path(values_W: np.ndarray, points: int) -> str:
    """An SVG path through values (W,) in 0…1: x is the number of a point, y 100 for 0 and 0 for 1.

    Of more than `points` values each point is the highest of as many successive ones, so that no peak is lost.
    """
    count = min(points, len(values_W))
    starts = np.arange(count) * len(values_W) // count
    heights = 100 - np.rint(100 * np.maximum.reduceat(values_W, starts)).astype(int)
    if count == 1:
        return f"M0 {heights[0]}h1"
    steps = "".join(f" 1{'' if step < 0 else ' '}{step}" for step in np.diff(heights).tolist())
    return f"M0 {heights[0]}l{steps.lstrip()}"


def _spans_path(events: Sequence[Event], seconds: float) -> str:
    """An SVG path of rectangles that fill the time of events, in ten thousandths of the recording."""
    ends = [(round(1e4 * event.start / seconds), round(1e4 * event.end / seconds)) for event in events]
    return "".join(f"M{start} 0h{max(1, end - start)}v1h-{max(1, end - start)}z" for start, end in ends)


def _span(timeline: Timeline) -> tuple[float, float]:
    """Where curves begin, and how wide they are, in percent of the recording: from the first to the last window."""
    first, last = (100 * float(timeline.times_W[place]) / timeline.seconds for place in (0, -1))
    return (first, last - first) if last > first else (0.0, 100.0)


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """(percent, text) of the ticks of a time axis; none where its text would not fit before the end."""
    days = 86400 * (1 + seconds // (86400 * MAX_TICKS))
    step = next((step for step in TICK_SECONDS if seconds / step <= MAX_TICKS), days)
    places = np.arange(0, 0.9 * seconds, step).tolist()
    return [(100 * place / seconds, clock(place, tenths=False)) for place in places]
