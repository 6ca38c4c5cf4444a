"""Label Studio's JSON: boxes that follow objects through a video, and rectangles in images, in percent."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from finetune.annotations.annotation import MAX_FRAME
from finetune.annotations.document import Document, Part, check_json
from finetune.annotations.find_videos import path_parts
from finetune.annotations.format_names import Content
from finetune.annotations.label_studio import FPS_KEYS, full_form, media_of
from finetune.annotations.objects.frame_objects import MAX_BOXES, FrameObjects, LabelledRange, ObjectFile, Size
from finetune.annotations.objects.identities import Box, Identities, boxes_between
from finetune.data.object_labels import LabelledObject
from finetune.storage.numbered_images import VIDEO_SUFFIXES
from finetune.text import count

_Frame = Annotated[int, Field(ge=1, le=MAX_FRAME)]


class _Keyframe(Part):
    frame: _Frame
    x: float
    y: float
    width: float
    height: float
    rotation: float | None = 0.0
    enabled: bool = True


class _Value(Part):
    sequence: list[_Keyframe] | None = None
    framesCount: Annotated[float, Field(ge=0, le=MAX_FRAME)] | None = None
    duration: float | None = None
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    rotation: float | None = 0.0
    labels: list[str] = []
    rectanglelabels: list[str] = []


class _Result(Part):
    id: str = ""
    value: _Value = _Value()
    original_width: int | None = None
    original_height: int | None = None
    score: float | None = None


class _Answer(Part):
    """The annotation of one person, or a prediction of a model."""

    result: list[_Result] = []
    was_cancelled: bool | None = None
    ground_truth: bool | None = None


class _Task(Part):
    id: str | None = None
    data: dict[str, Any] = {}
    annotations: list[_Answer] = []
    predictions: list[_Answer | str | int] = []


def contents(value: Any) -> set[Content]:
    """Whether the results of a file are boxes, which are objects, or labels of times and videos, which are events."""
    kinds: set[Content] = set()
    for record in map(full_form, value if isinstance(value, list) else [value]):
        answers = [*_list(record, "annotations"), *_list(record, "predictions")]
        for result in [result for answer in answers for result in _list(answer, "result")]:
            region = result.get("value") if isinstance(result, dict) else None
            if isinstance(region, dict):
                kinds |= {"objects"} if {"sequence", "rectanglelabels"} & region.keys() else set()
                kinds |= {"events"} if {"timelinelabels", "choices", "ranges"} & region.keys() else set()
    return kinds


def _list(record: Any, key: str) -> list[Any]:
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, list) else []


def read(document: Document) -> ObjectFile:
    """Boxes of the ground truth of a task, else of its last annotation; predictions where there are none.

    Frames count from 1. Between two keyframes a box moves linearly, unless the first of them is not `enabled`: the
    object leaves after it. All frames of a video are labelled, and every image with an annotation.
    """
    records = document.json if isinstance(document.json, list) else [document.json]
    tasks = check_json([*map(full_form, records)], list[_Task], document.source, "Label Studio")
    frames: list[FrameObjects] = []
    ranges: list[LabelledRange] = []
    problems: list[str] = []
    counts: Counter[str] = Counter()
    for number, task in enumerate(tasks, 1):
        where = f"task {(task.id or str(number))[:40]}"
        answers = [answer for answer in task.annotations if not answer.was_cancelled]
        predicted = [answer for answer in task.predictions if isinstance(answer, _Answer)]
        chosen = [answer for answer in answers if answer.ground_truth] or answers or predicted
        counts["several"] += len(answers) > 1
        counts["predicted"] += not answers and bool(predicted)
        counts["unlabelled"] += not chosen
        media = media_of(task.data) or _image_of(task.data)
        if media is None:
            problems.append(f"{where}: its data names no video or image")
        elif chosen and any(result.value.sequence is not None for result in chosen[-1].result):
            try:
                video_frames, labelled = _read_video(media, task, chosen[-1].result, where, counts)
                frames += video_frames
                ranges.append(labelled)
            except ValueError as error:
                problems.append(f"{where}: {error}")
        elif chosen and _is_video(media):
            counts["empty videos"] += 1
        elif chosen:
            frames.append(_read_image(media, chosen[-1].result, where, counts))
    return ObjectFile(frames, ranges, problems, _notes(counts))


def _image_of(data: dict[str, Any]) -> str | None:
    value = data.get("image")
    return value if isinstance(value, str) and value.strip() else None


def _is_video(media: str) -> bool:
    return Path((path_parts(media) or [""])[-1]).suffix.lower() in VIDEO_SUFFIXES


def _read_video(
    media: str, task: _Task, results: Sequence[_Result], where: str, counts: Counter[str]
) -> tuple[list[FrameObjects], LabelledRange]:
    """The frames with objects, and all frames of the video. Raises ValueError for too many boxes."""
    regions = [result for result in results if result.value.sequence]
    counts["others"] += len(results) - len(regions)
    number = max((int(result.value.framesCount or 0) for result in regions), default=0)
    rate = _rate(task, regions)
    identities = Identities()
    of_frame: dict[int, list[LabelledObject]] = defaultdict(list)
    for place, result in enumerate(regions):
        keyframes = _keyframes(result.value.sequence or [])
        last = max(number - 1, keyframes[-1][0])
        counts["boxes"] += last - keyframes[0][0] + 1
        if counts["boxes"] > MAX_BOXES:
            raise ValueError(f"its frames up to {last + 1} make more than {MAX_BOXES:,} boxes of the file")
        counts["rotated"] += any(keyframe.rotation for keyframe in result.value.sequence or [])
        identity = identities.number(place, str(place))
        for label in result.value.labels or result.value.rectanglelabels or [""]:
            for frame, (left, top, width, height) in boxes_between(keyframes, last):
                box = left / 100, top / 100, width / 100, height / 100
                of_frame[frame].append(LabelledObject(label.strip(), *box, identity))
    last_frame = max([number, *(frame + 1 for frame in of_frame)])
    frames = [
        FrameObjects(media, frame, tuple(items), rate=rate, in_fractions=True, where=f"{where}, frame {frame + 1}")
        for frame, items in sorted(of_frame.items())
    ]
    return frames, LabelledRange(media, range(number or last_frame), rate, is_whole_video=number > 0)


def _keyframes(sequence: Sequence[_Keyframe]) -> list[tuple[int, Box, bool]]:
    """The keyframes from 0, as `boxes_between` takes them: one more ends an object that is not enabled any more."""
    ordered = sorted({keyframe.frame: keyframe for keyframe in sequence}.values(), key=lambda keyframe: keyframe.frame)
    keyframes: list[tuple[int, Box, bool]] = []
    for place, keyframe in enumerate(ordered):
        box = keyframe.x, keyframe.y, keyframe.width, keyframe.height
        keyframes.append((keyframe.frame - 1, box, True))
        is_followed = place + 1 < len(ordered) and ordered[place + 1].frame == keyframe.frame + 1
        if not keyframe.enabled and not is_followed:
            keyframes.append((keyframe.frame, box, False))
    return keyframes


def _rate(task: _Task, regions: Sequence[_Result]) -> float | None:
    """The frame rate in the task's data, or that which its boxes state by a number of frames and a duration."""
    for name in FPS_KEYS:
        rate = task.data.get(name)
        if isinstance(rate, int | float) and 0 < rate < 10_000:
            return float(rate)
    for value in (region.value for region in regions):
        if value.framesCount and value.duration and 0 < value.framesCount / value.duration < 10_000:
            return value.framesCount / value.duration
    return None


def _read_image(media: str, results: Sequence[_Result], where: str, counts: Counter[str]) -> FrameObjects:
    objects, scores = [], []
    size: Size | None = None
    for result in results:
        value = result.value
        if value.x is None or value.y is None or value.width is None or value.height is None:
            counts["others"] += 1
            continue
        if result.original_width and result.original_height:
            size = result.original_width, result.original_height
        counts["rotated"] += bool(value.rotation)
        box = (value.x / 100, value.y / 100, value.width / 100, value.height / 100)
        if value.rotation and size is not None:
            box = _around_rotated(box, value.rotation, size)
        for label in value.rectanglelabels or value.labels or [""]:
            objects.append(LabelledObject(label.strip(), *box))
            scores.append(result.score)
    known = tuple(score for score in scores if score is not None)
    return FrameObjects(
        "",
        None,
        tuple(objects),
        known if scores and len(known) == len(scores) else None,
        size=size,
        image=media,
        in_fractions=True,
        where=where,
    )


def _around_rotated(box: Box, degrees: float, size: Size) -> Box:
    """The box around one that is rotated around its left upper corner, all in fractions of a picture."""
    left, top, width, height = (value * side for value, side in zip(box, size * 2, strict=True))
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x * cosine - y * sine, x * sine + y * cosine) for x in (0, width) for y in (0, height)]
    xs, ys = zip(*corners, strict=True)
    return (
        (left + min(xs)) / size[0],
        (top + min(ys)) / size[1],
        (max(xs) - min(xs)) / size[0],
        (max(ys) - min(ys)) / size[1],
    )


def _notes(counts: Counter[str]) -> list[str]:
    texts = {
        "others": "{} of other kinds left out",
        "several": "{} with several annotations: the ground truth is used, or the last one",
        "predicted": "{} with predictions only: they are used, though nobody confirmed them",
        "unlabelled": "{} without annotations left out",
        "empty videos": "{} of videos without a box left out: the file does not say how long they are",
        "rotated": "{} with a rotation: that of images is read as the box around it, that of videos is left out",
    }
    nouns = {"others": "result", "rotated": "region"}
    return [text.format(count(counts[key], nouns.get(key, "task"))) for key, text in texts.items() if counts[key]]
