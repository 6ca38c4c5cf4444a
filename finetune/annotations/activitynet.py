"""ActivityNet's JSON: segments of named videos, as ground truth (`database`) or as predictions (`results`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from finetune.annotations.annotation import Annotation, AnnotationFile, Recording, WrittenFile, unique_names
from finetune.annotations.document import Document, Part
from finetune.text import count

_Segment = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Event(Part):
    segment: _Segment
    label: str
    score: float | None = None


class _Video(Part):
    subset: str = ""
    annotations: list[_Event] = []


class _File(Part):
    database: dict[str, _Video] = {}
    results: dict[str, list[_Event]] = {}


def is_activitynet(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("database", value.get("results")), dict)


def read(document: Document) -> AnnotationFile:
    """`subset` becomes the split. Source: the format of the ActivityNet challenge."""
    content = document.json_as(_File, "ActivityNet")
    rows = [
        _row(name, number, event, video.subset)
        for name, video in content.database.items()
        for number, event in enumerate(video.annotations)
    ]
    rows += [
        _row(name, number, event, "")
        for name, events in content.results.items()
        for number, event in enumerate(events if not content.database else [])
    ]
    unlabelled = sum(not video.annotations for video in content.database.values())
    return AnnotationFile(rows, notes=[f"{count(unlabelled, 'video')} without segments"] if unlabelled else [])


def _row(video: str, number: int, event: _Event, split: str) -> Annotation:
    start, end = event.segment
    return Annotation(
        video, event.label, start, end, score=event.score, split=split, where=f"{video}, segment {number}"
    )


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """Predictions where events have scores, else ground truth; videos are named without suffix where that is clear."""
    names = unique_names(recordings)
    by_video: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for event in events:
        score = {} if event.score is None else {"score": event.score}
        by_video[names[event.video]].append({"label": event.label, **score, "segment": [event.start, event.end]})
    content: dict[str, Any] = {"version": "VERSION 1.3"}
    if events and all(event.score is not None for event in events):
        content |= {"results": by_video, "external_data": {}}
    else:
        seconds = {names[name]: recording.seconds for name, recording in recordings.items()}
        content["database"] = {
            name: ({} if seconds[name] is None else {"duration": seconds[name]}) | {"annotations": segments}
            for name, segments in by_video.items()
        }
    return WrittenFile(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
