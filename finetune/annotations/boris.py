"""BORIS projects (.boris): observations of media files with state and point events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from finetune.annotations.annotation import Annotation, AnnotationFile, Recording, WrittenFile, unique_names
from finetune.annotations.boris_events import Moment, Player, annotations_of_moments
from finetune.annotations.document import Document, Part
from finetune.text import count

PROJECT_FORMAT = "7.0"
STATE = "State event"


class _Behavior(Part):
    code: str
    type: str


class _MediaInfo(Part):
    length: dict[str, float | None] = {}


class _Observation(Part):
    type: str = "MEDIA"
    file: dict[str, list[str]] | list[str] = {}
    events: list[list[Any]] = []
    media_info: _MediaInfo = _MediaInfo()
    time_offset: float | None = Field(None, alias="time offset")

    @property
    def players(self) -> dict[str, list[str]]:
        """The files of each player; very old projects list one file for each."""
        if isinstance(self.file, dict):
            return self.file
        return {str(number): [file] for number, file in enumerate(self.file, 1)}


class _Project(Part):
    behaviors_conf: dict[str, _Behavior]
    observations: dict[str, _Observation]


def is_boris(value: Any) -> bool:
    return isinstance(value, dict) and {"observations", "behaviors_conf"} <= value.keys()


def read(document: Document) -> AnnotationFile:
    """One annotation for each point event and each pair of state events; a tier is a subject.

    Times of events include the observation's time offset. The files of player 1 follow each other; an event that runs
    from one into the next is divided. Other players show the same time, and are not read.
    """
    project = document.json_as(_Project, "BORIS")
    rows: list[Annotation] = []
    problems: list[str] = []
    further_players = without_videos = 0
    for name, observation in project.observations.items():
        files = observation.players.get("1", [])
        further_players += sum(bool(others) for player, others in observation.players.items() if player != "1")
        if observation.type != "MEDIA" or not files:
            without_videos += bool(observation.events)
            continue
        moments, malformed = _moments(project, name, observation)
        lengths = {file: seconds for file, seconds in observation.media_info.length.items() if seconds is not None}
        observation_rows, unpaired = annotations_of_moments(Player(name, files, lengths), moments)
        rows += observation_rows
        problems += malformed + unpaired
    notes = [f"{count(further_players, 'further player')} left out: only player 1 is read"] if further_players else []
    if without_videos:
        notes.append(f"{count(without_videos, 'observation')} without videos left out (live, or of images)")
    return AnnotationFile(rows, problems, notes)


def _moments(project: _Project, name: str, observation: _Observation) -> tuple[list[Moment], list[str]]:
    """The events of an observation, and messages about those that are malformed or of an unknown behavior."""
    kinds = {behavior.code: behavior.type for behavior in project.behaviors_conf.values()}
    states = {code for code, kind in kinds.items() if kind.startswith("State")}
    moments, problems = [], []
    for number, event in enumerate(observation.events, 1):
        where = f"observation {name}, event {number}"
        moment = _moment(event, states, observation.time_offset or 0, where)
        if moment is None:
            problems.append(f"{where}: is no time, subject and behavior: {str(event)[:60]}")
        elif moment.label not in kinds:
            problems.append(f"{where}: behavior {moment.label[:40]!r} is not in the project's ethogram")
        else:
            moments.append(moment)
    return moments, problems


def _moment(event: list[Any], states: set[str], offset: float, where: str) -> Moment | None:
    """The event of a project, [time, subject, code, modifiers, …]; None if it is not such a list."""
    if len(event) < 3 or not all(isinstance(text, str) for text in event[1:3]):
        return None
    try:
        seconds = float(event[0]) - offset
    except (TypeError, ValueError, OverflowError):
        return None
    if not abs(seconds) < float("inf"):
        return None
    modifiers = str(event[3]) if len(event) > 3 else ""
    return Moment(seconds, event[1], event[2], modifiers, is_state=event[2] in states, where=where)


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """A project with one observation for each recording; times to milliseconds.

    BORIS pairs starts with stops by class and subject, so events of one class that overlap are joined.
    """
    labels = sorted({event.label for event in events})
    subjects = sorted({event.subject for event in events} - {""})
    names = unique_names(recordings)
    observations, joined = {}, 0
    for recording in recordings.values():
        own = [event for event in events if event.video == recording.name]
        merged = _join_overlapping(own)
        joined += len(own) - len(merged)
        observations[names[recording.name]] = _written_observation(recording, merged)
    project = {
        "time_format": "hh:mm:ss",
        "project_date": "2000-01-01T00:00:00",
        "project_name": "events",
        "project_description": "",
        "project_format_version": PROJECT_FORMAT,
        "subjects_conf": {
            str(number): {"key": "", "name": name, "description": ""} for number, name in enumerate(subjects)
        },
        "behaviors_conf": {str(number): _written_behavior(number, label) for number, label in enumerate(labels)},
        "observations": observations,
        "behavioral_categories": [],
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
    notes = [f"{count(joined, 'event')} joined with one of the same class that it overlaps"] if joined else []
    return WrittenFile(json.dumps(project, indent=1, ensure_ascii=False) + "\n", notes)


def _join_overlapping(events: Sequence[Annotation]) -> list[Annotation]:
    """(start, end) in seconds of each event, those of one class and subject that overlap as one."""
    merged: list[Annotation] = []
    last: dict[tuple[str, str], int] = {}
    for event in sorted(events, key=lambda event: (event.start or 0, event.end or 0)):
        assert event.start is not None and event.end is not None
        key = event.label, event.subject
        previous = merged[last[key]] if key in last else None
        if previous is not None and previous.end is not None and event.start < previous.end:
            end = max(previous.end, event.end)
            merged[last[key]] = Annotation(event.video, event.label, previous.start, end, subject=event.subject)
        else:
            last[key] = len(merged)
            merged.append(event)
    return merged


def _written_observation(recording: Recording, events: Sequence[Annotation]) -> dict[str, Any]:
    path = str(recording.path)
    moments = [
        [round(seconds or 0, 3), event.subject, event.label, "", "" if event.score is None else f"score {event.score}"]
        for event in events
        for seconds in (event.start, event.end)
    ]
    return {
        "file": {"1": [path], **{str(player): [] for player in range(2, 9)}},
        "type": "MEDIA",
        "date": "2000-01-01T00:00:00",
        "description": "",
        "time offset": 0.0,
        "events": sorted(moments, key=lambda moment: moment[0]),
        "observation time interval": [0, 0],
        "independent_variables": {},
        "visualize_spectrogram": False,
        "visualize_waveform": False,
        "close_behaviors_between_videos": False,
        "media_info": {
            "length": {path: recording.seconds},
            "fps": {path: recording.fps},
            "hasVideo": {path: True},
            "hasAudio": {path: False},
            "offset": {"1": 0.0},
        },
    }


def _written_behavior(number: int, label: str) -> dict[str, Any]:
    """The first 35 classes get a key: 1 to 9, then letters."""
    keys = "123456789abcdefghijklmnopqrstuvwxyz"
    return {
        "type": STATE,
        "key": keys[number] if number < len(keys) else "",
        "code": label,
        "description": "",
        "color": "",
        "category": "",
        "modifiers": "",
        "excluded": "",
        "coding map": "",
    }
