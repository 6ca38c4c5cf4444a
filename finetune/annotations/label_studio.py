"""Label Studio's JSON: labels on the timeline of a video, choices for whole videos; boxes are counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from finetune.annotations.annotation import (
    MAX_FRAME,
    Annotation,
    AnnotationFile,
    Recording,
    WrittenFile,
    one_frame_is_a_point,
)
from finetune.annotations.document import Document, Part, check_json
from finetune.storage.numbered_images import is_media
from finetune.text import count

FROM_NAME, TO_NAME = "videoLabels", "video"  # the names of tags in Label Studio's own template
FPS_KEYS = ("fps", "frame_rate", "framerate", "frameRate")
_Frame = Annotated[int, Field(ge=0, le=MAX_FRAME)]


class _Range(Part):
    start: _Frame
    end: _Frame


class _Value(Part):
    ranges: list[_Range] | None = None
    timelinelabels: list[str] = []
    choices: list[str] | str = []
    labels: list[str] = []
    start: float | None = None
    end: float | None = None
    sequence: list[Any] | None = None
    framesCount: float | None = None
    duration: float | None = None


class _Result(Part):
    from_name: str = ""
    value: _Value = _Value()
    score: float | None = None


class _Answer(Part):
    """The annotation of one person, or a prediction of a model."""

    result: list[_Result] = []
    was_cancelled: bool | None = None
    ground_truth: bool | None = None
    score: float | None = None


class _Task(Part):
    id: str | None = None
    data: dict[str, Any] = {}
    annotations: list[_Answer] = []
    predictions: list[_Answer | str | int] = []


def is_label_studio(value: Any) -> bool:
    """Whether it is a list of tasks, or of their short form (JSON-MIN), in which data and labels are side by side."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and (isinstance(first.get("data"), dict) or "annotation_id" in first)


def read(document: Document) -> AnnotationFile:
    """Ranges count frames from 1, the last one included; a tier is the name of the tag that was used (`from_name`).

    Of several annotations of a task the ground truth is taken, else the last one; predictions where there are none.
    """
    records = document.json if isinstance(document.json, list) else [document.json]
    tasks = check_json([*map(full_form, records)], list[_Task], document.source, "Label Studio")
    rows: list[Annotation] = []
    counts: Counter[str] = Counter()
    problems = []
    for number, task in enumerate(tasks, 1):
        where = f"task {task.id or number}"
        answers = [answer for answer in task.annotations if not answer.was_cancelled]
        predicted = [answer for answer in task.predictions if isinstance(answer, _Answer)]
        chosen = [answer for answer in answers if answer.ground_truth] or answers or predicted
        counts["several"] += len(answers) > 1
        counts["predicted"] += not answers and bool(predicted)
        video = media_of(task.data)
        if video is None:
            problems.append(f"{where}: its data names no video")
        elif chosen:
            fps = _stated_fps(task, chosen[-1])
            for result in chosen[-1].result:
                rows += _rows(result, Annotation(video, "", fps=fps, score=chosen[-1].score, where=where), counts)
    return AnnotationFile(rows, problems, _notes(counts))


def full_form(record: Any) -> Any:
    """A task of the short form as one with `data` and `annotations`; others as they are."""
    if not isinstance(record, dict) or "data" in record:
        return record
    results = []
    for name, value in record.items():
        if isinstance(value, dict) and "choices" in value:
            results.append({"from_name": name, "value": value})
        elif name in {"choice", "choices"} and isinstance(value, str):
            results.append({"from_name": name, "value": {"choices": value}})
        elif isinstance(value, list):
            results += [{"from_name": name, "value": region} for region in value if isinstance(region, dict)]
    return {"id": record.get("id"), "data": record, "annotations": [{"result": results}]}


def media_of(data: Mapping[str, Any]) -> str | None:
    """The path or URL of the task's video: under a usual name, or the first that has the suffix of a video."""
    texts = {name: value for name, value in data.items() if isinstance(value, str) and value.strip()}
    named = [texts[name] for name in ("video", "video_url", "url") if name in texts]
    return next(iter([*named, *(text for text in texts.values() if is_media(re.split(r"[/\\?#=]", text)[-1]))]), None)


def _stated_fps(task: _Task, answer: _Answer) -> float | None:
    """The frame rate in the task's data, or that of its boxes, which state a number of frames and a duration."""
    for name in FPS_KEYS:
        rate = task.data.get(name)
        if isinstance(rate, int | float) and 0 < rate < 10_000:
            return float(rate)
    for value in (result.value for result in answer.result):
        if value.framesCount and value.duration and 0 < value.framesCount / value.duration < 10_000:
            return value.framesCount / value.duration
    return None


def _rows(result: _Result, task: Annotation, counts: Counter[str]) -> list[Annotation]:
    """The rows of a result; `task` has what all rows of a task share."""
    value = result.value
    if value.sequence is not None:
        counts["boxes"] += 1
        return []
    choices = [value.choices] if isinstance(value.choices, str) else value.choices
    labels = [*value.timelinelabels, *choices, *value.labels]
    shared = replace(task, tier=result.from_name, score=task.score if result.score is None else result.score)
    if value.ranges is not None:
        spans = [one_frame_is_a_point(max(span.start - 1, 0), span.end) for span in value.ranges]
        return [replace(shared, label=label, frames=span) for label in labels for span in spans]
    if choices or (labels and value.start is not None):
        return [replace(shared, label=label, start=value.start, end=value.end) for label in labels]
    counts["others"] += 1
    return []


def _notes(counts: Counter[str]) -> list[str]:
    texts = {
        "boxes": "{} left out; --as objects reads them",
        "others": "{} of other kinds left out",
        "several": "{} with several annotations: the ground truth is used, or the last one",
        "predicted": "{} with predictions only: they are used, though nobody confirmed them",
    }
    nouns = {"boxes": ("box", "boxes"), "others": ("result", "results")}
    return [
        text.format(count(counts[key], *nouns.get(key, ("task", "tasks"))))
        for key, text in texts.items()
        if counts[key]
    ]


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """Tasks to import, one for each recording, with the events as predictions; times to the frame.

    `fps` in a task's data is for the tag <Video value="$video" frameRate="$fps">: Label Studio counts at that rate.
    """
    tasks = []
    for recording in recordings.values():
        own = [event for event in events if event.video == recording.name]
        results = [_result(number, event, recording.fps or 1) for number, event in enumerate(own)]
        scores = [event.score for event in own if event.score is not None]
        prediction: dict[str, Any] = {"model_version": "finetune", "result": results}
        if scores:
            prediction["score"] = sum(scores) / len(scores)
        data = {"video": recording.path.as_posix(), "fps": recording.fps}
        tasks.append({"data": data, "predictions": [prediction]})
    note = (
        f'label with <Video name="{TO_NAME}" value="$video" frameRate="$fps"/> and '
        f'<TimelineLabels name="{FROM_NAME}" toName="{TO_NAME}">; `video` has to be a path that your server serves'
    )
    return WrittenFile(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", [note])


def _result(number: int, event: Annotation, fps: float) -> dict[str, Any]:
    start, end = event.start or 0, event.end or 0
    first = round(start * fps)
    last = first + 1 if start == end else max(round(end * fps), first + 2)  # a single frame is a point
    result = {
        "id": f"event{number}",
        "type": "timelinelabels",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "value": {"ranges": [{"start": first + 1, "end": last}], "timelinelabels": [event.label]},
    }
    return result if event.score is None else result | {"score": event.score}
