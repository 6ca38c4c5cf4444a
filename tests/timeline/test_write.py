"""timeline.csv and events.csv of runs with several tasks."""

import csv
from pathlib import Path

import numpy as np

from finetune.metrics.event_matching import Event
from finetune.timeline.timeline import TaskTimeline, Timeline
from finetune.timeline.write import write_events, write_probabilities


def timeline_of(path, tasks):
    times = np.array([1.0, 2.0, 3.0])
    return Timeline(Path(path), 4.0, (96, 128), times, np.array([25, 50, 75]), 2.0, 1.0, tasks)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_further_tasks_name_their_columns_and_events_their_task(tmp_path):
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)
    tasks = {
        "action": TaskTimeline(("run", "=stop"), False, probabilities, [Event(2.0, 4.0, 0, 0.75)]),
        "level": TaskTimeline(("low", "high"), False, probabilities[:, ::-1], [Event(0.0, 2.5, 1, 0.5)]),
    }
    timelines = [timeline_of("a.mp4", tasks), timeline_of("=b.mp4", tasks)]
    write_probabilities(tmp_path / "timeline.csv", timelines)
    header, first, *_, last = rows_of(tmp_path / "timeline.csv")
    assert header == ["path", "time", "run", "'=stop", "level.low", "level.high"]
    assert first == ["a.mp4", "1.000", "0.25", "0.75", "0.75", "0.25"]
    assert last == ["'=b.mp4", "3.000", "1", "0", "0", "1"]
    write_events(tmp_path / "events.csv", timelines)
    assert rows_of(tmp_path / "events.csv")[:3] == [
        ["path", "start", "end", "label", "score", "task"],
        ["a.mp4", "0.000", "2.500", "high", "0.5000", "level"],
        ["a.mp4", "2.000", "4.000", "run", "0.7500", "action"],
    ]


def test_the_picture_of_an_event_is_of_the_window_in_its_middle():
    timeline = timeline_of("a.mp4", {})
    assert [timeline.middle_frame(Event(start, end, 0)) for start, end in ((0, 1), (1.5, 3), (3, 4))] == [25, 50, 75]
