"""CVAT's XML: tracks (“CVAT for video”) and tags of frames (“CVAT for images”), in the numbers of frames."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from finetune.annotations.annotation import MAX_FRAME, Annotation, AnnotationFile, one_frame_is_a_point
from finetune.annotations.document import Document
from finetune.text import count

SHAPES = ("box", "ellipse", "polygon", "polyline", "points", "cuboid", "mask", "skeleton")
LABEL = "label"  # the tier of the labels themselves; the others are attributes


@dataclass(frozen=True)
class Task:
    """The recording of a task, the step between its annotated frames, its last and its first frame.

    `size` is the width and height of its pictures, where the file states it.
    """

    source: str
    step: int
    stop: int | None
    start: int = 0
    size: tuple[int, int] | None = None


def read(document: Document) -> AnnotationFile:
    """A label for the frames in which its track is present, not `outside`, and for runs of frames with a tag.

    A tier is an attribute of tracks or tags: its values are the classes. Frames count from 0. Source: CVAT's
    description of its XML format, version 1.1.
    """
    root = document.xml
    tasks = read_tasks(root, document)
    rows: list[Annotation] = []
    problems: list[str] = []
    for place, track in enumerate(root.iter("track")):
        where = f"track {track.get('id', place)}"
        try:
            rows += _track_rows(track, task_of(track, tasks), where)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    boxes = sum(shape.tag in SHAPES for image in root.iter("image") for shape in image)
    rows += _tag_rows(root, tasks, problems)
    tracks = sum(1 for _ in root.iter("track"))
    notes = [f"the boxes of {count(tracks, 'track')} left out; --as objects reads them"] if tracks else []
    notes += [f"{count(boxes, 'shape')} of single frames left out; --as objects reads them"] if boxes else []
    return AnnotationFile(rows, problems, notes, default_tiers=frozenset([LABEL]))


def read_tasks(root: Element, document: Document) -> dict[str, Task]:
    """The tasks by their IDs; the first one also by an empty text."""
    tasks: dict[str, Task] = {}
    meta = root.find("meta")
    elements = [] if meta is None else [element for element in meta.iter() if element.tag in {"task", "job"}]
    for element in elements:
        source = element.findtext("source") or element.findtext("name")
        source = source or root.findtext("meta/source") or str(document.source.with_suffix(""))
        step = re.search(r"step\s*=\s*(\d{1,9})", element.findtext("frame_filter") or "")
        size = tuple(_number(element.findtext(f"original_size/{side}")) for side in ("width", "height"))
        task = Task(
            source.strip(),
            max(int(step[1]), 1) if step else 1,
            _number(element.findtext("stop_frame")),
            _number(element.findtext("start_frame")) or 0,
            (size[0], size[1]) if size[0] and size[1] else None,
        )
        tasks[(element.findtext("id") or "").strip()] = task
        tasks.setdefault("", task)
    return tasks or {"": Task(root.findtext("meta/source") or str(document.source.with_suffix("")), 1, None)}


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def task_of(element: Element, tasks: dict[str, Task]) -> Task:
    return tasks.get(element.get("task_id", ""), tasks[""])


def frame_number(text: str | None) -> int:
    """Raises ValueError for what is no number of a frame."""
    if text is None or not re.fullmatch(r"\d{1,10}", text.strip()) or int(text) > MAX_FRAME:
        raise ValueError(f"{text!r:.40} is no number of a frame")
    return int(text)


def _track_rows(track: Element, task: Task, where: str) -> list[Annotation]:
    """One row for each run of frames in which the track is present, and for each run of an attribute's value.

    A shape stays until the next one that the file lists, the last one until the end of the task.
    """
    shapes = sorted(
        (frame_number(shape.get("frame")), place, shape) for place, shape in enumerate(track) if _is_shape(shape)
    )
    rows = []
    frames = [frame for frame, _, _ in shapes]
    last = frames[-1] + task.step if frames else 0
    if task.stop is not None:
        last = max(last, task.stop + task.step)
    values: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for (frame, _, shape), end in zip(shapes, [*frames[1:], last], strict=True):
        if shape.get("outside") == "1":
            continue
        values[LABEL].append((frame, end, track.get("label", "")))
        for attribute in shape.iter("attribute"):
            values[attribute.get("name", "")].append((frame, end, (attribute.text or "").strip()))
    for tier, runs in values.items():
        for start, end, label in _joined(runs):
            rows.append(_row(task, label, (start, end), tier, where))
    return rows


def _is_shape(element: Element) -> bool:
    return element.tag in SHAPES


def _row(task: Task, label: str, frames: tuple[int, int], tier: str, where: str) -> Annotation:
    return Annotation(task.source, label, frames=one_frame_is_a_point(*frames), tier=tier, where=where)


def _joined(runs: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Runs of the same value that follow each other without a gap as one."""
    joined: list[tuple[int, int, str]] = []
    for start, end, value in runs:
        if end <= start:
            continue
        if joined and joined[-1][1] == start and joined[-1][2] == value:
            joined[-1] = joined[-1][0], end, value
        else:
            joined.append((start, end, value))
    return joined


def _tag_rows(root: Element, tasks: dict[str, Task], problems: list[str]) -> list[Annotation]:
    """Tags of images, or of frames, as runs of frames with the same tag."""
    frames: dict[tuple[Task, str, str], set[int]] = defaultdict(set)
    for image in root.iter():
        tags: Sequence[Element] = list(image.iter("tag")) if image.tag == "image" else ()
        if image.tag == "tag" and image.get("frame") is not None:
            tags = [image]
        for tag in tags:
            try:
                frame = frame_number(image.get("frame") or image.get("id"))
            except ValueError as error:
                problems.append(f"tag {tag.get('label', '')}: {error}")
                continue
            task = task_of(image, tasks)
            frames[task, LABEL, tag.get("label", "")].add(frame)
            for attribute in tag.iter("attribute"):
                frames[task, attribute.get("name", ""), (attribute.text or "").strip()].add(frame)
    rows = []
    for (task, tier, label), numbers in frames.items():
        for start, end, _ in _joined((number, number + task.step, label) for number in sorted(numbers)):
            rows.append(_row(task, label, (start, end), tier, f"tag {label}"))
    return rows
