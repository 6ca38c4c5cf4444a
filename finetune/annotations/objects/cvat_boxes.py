"""CVAT's XML: boxes of tracks (“CVAT for video”) and of single images (“CVAT for images”); read and written."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from finetune.annotations.cvat import SHAPES, Task, frame_number, read_tasks, task_of
from finetune.annotations.document import Document
from finetune.annotations.format_names import Content
from finetune.annotations.objects.frame_objects import MAX_BOXES, FrameObjects, LabelledRange, ObjectFile
from finetune.annotations.objects.identities import Box, Identities, boxes_between
from finetune.annotations.times import parse_number
from finetune.data.object_labels import LabelledObject
from finetune.storage.numbered_images import VIDEO_SUFFIXES
from finetune.text import count

IGNORE_ATTRIBUTES = ("ignore", "iscrowd", "is_crowd")
_CORNERS = ("xtl", "ytl", "xbr", "ybr")


def contents(root: Element) -> set[Content]:
    """Whether a file holds shapes in frames, which are objects, and tags of frames, which are events."""
    tags = {element.tag for element in root.iter()}
    objects: set[Content] = {"objects"} if tags & set(SHAPES) else set()
    return objects | {"events"} if "tag" in tags else objects


def read(document: Document) -> ObjectFile:
    """Tracks with their identity, in each frame in which they are not `outside`, and the boxes of images.

    Between the shapes that a track lists its box moves linearly; the last one stays until the end of the task. All
    frames of a task with tracks are labelled, and all images that are listed. Shapes that are no boxes, and rotated
    boxes, are read as the box around them. Source: CVAT's description of its XML format, version 1.1.
    """
    root = document.xml
    tasks = read_tasks(root, document)
    problems: list[str] = []
    counts: Counter[str] = Counter()
    of_frame: dict[tuple[Task, int], list[LabelledObject]] = defaultdict(list)
    identities = Identities()
    for place, track in enumerate(root.iter("track")):
        where = f"track {track.get('id', place):.40}"
        try:
            _add_track(track, task_of(track, tasks), identities.number(place, track.get("id")), of_frame, counts)
            counts["tracks"] += 1
        except ValueError as error:
            problems.append(f"{where}: {error}")
    frames = [
        FrameObjects(task.source, frame, tuple(objects), size=task.size, where=f"frame {frame}")
        for (task, frame), objects in of_frame.items()
    ]
    images = list(root.iter("image"))
    for image in images:
        frames.append(_read_image(image, task_of(image, tasks), counts, problems))
    ranges = [] if images else _ranges(tasks, of_frame)
    return ObjectFile(frames, ranges, problems, _notes(counts))


def _ranges(tasks: Mapping[str, Task], of_frame: Mapping[tuple[Task, int], object]) -> list[LabelledRange]:
    """The frames of each task: from its first to its last one, or to the last one with an object."""
    last: dict[Task, int] = {}
    for task, frame in of_frame:
        last[task] = max(frame, last.get(task, 0))
    stops = {task: last.get(task, -1) if task.stop is None else task.stop for task in dict.fromkeys(tasks.values())}
    return [LabelledRange(task.source, range(task.start, stop + 1, task.step)) for task, stop in stops.items()]


def _add_track(
    track: Element,
    task: Task,
    identity: int | None,
    of_frame: dict[tuple[Task, int], list[LabelledObject]],
    counts: Counter[str],
) -> None:
    """Add the boxes of a track to their frames. Raises ValueError for shapes that cannot be read."""
    shapes = sorted(
        ((frame_number(shape.get("frame")), place, shape) for place, shape in enumerate(track) if shape.tag in SHAPES),
        key=lambda entry: entry[:2],
    )
    keyframes: dict[int, tuple[int, Box, bool]] = {}  # of two shapes of one frame the last counts
    is_ignored: dict[int, bool] = {}  # from each keyframe to the next
    attributes: dict[str, str] = {}  # one that a keyframe does not list has the value of the keyframe before
    for frame, _, shape in shapes:
        keyframes[frame] = frame, _box(shape, counts), shape.get("outside") != "1"
        attributes |= _attributes(shape)
        is_ignored[frame] = _marks_ignored(attributes)
    if not keyframes:
        raise ValueError("has no shapes")
    last = max(keyframes) if task.stop is None else task.stop
    boxes = (max(last, *keyframes) - min(keyframes)) // task.step + len(keyframes)
    counts["boxes"] += boxes
    if counts["boxes"] > MAX_BOXES:
        counts["boxes"] -= boxes
        raise ValueError(f"its frames up to {max(last, *keyframes)} make more than {MAX_BOXES:,} boxes of the file")
    name, starts = (track.get("label") or "").strip(), sorted(keyframes)
    for frame, box in boxes_between(list(keyframes.values()), last, task.step):
        keyframe = starts[bisect_right(starts, frame) - 1]
        of_frame[task, frame].append(LabelledObject(name, *box, identity, is_ignored[keyframe]))


def _attributes(shape: Element) -> dict[str, str]:
    """The values of a shape's attributes by name, in lower case."""
    return {element.get("name", ""): (element.text or "").strip().lower() for element in shape.iter("attribute")}


def _marks_ignored(attributes: Mapping[str, str]) -> bool:
    """Whether an attribute marks a shape as one that is not to count."""
    return any(attributes.get(name) in {"true", "1"} for name in IGNORE_ATTRIBUTES)


def _box(shape: Element, counts: Counter[str]) -> Box:
    """Left, top, width and height. Raises ValueError where a shape has no coordinates."""
    if shape.get("rotation", "0").strip("0.") or shape.tag != "box":
        counts["around"] += 1
    if shape.tag == "box":
        left, top, right, bottom = (_coordinate(shape, name) for name in _CORNERS)
        if shape.get("rotation", "0").strip("0."):
            return _around_rotated((left, top, right, bottom), _coordinate(shape, "rotation"))
    elif shape.tag == "ellipse":
        x, y, radius_x, radius_y = (_coordinate(shape, name) for name in ("cx", "cy", "rx", "ry"))
        left, top, right, bottom = x - radius_x, y - radius_y, x + radius_x, y + radius_y
    elif shape.tag == "mask":
        left, top = (_coordinate(shape, name) for name in ("left", "top"))
        return left, top, _coordinate(shape, "width"), _coordinate(shape, "height")
    else:
        xs, ys = _points(shape)
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    return left, top, right - left, bottom - top


def _around_rotated(corners: Box, degrees: float) -> Box:
    """The box around one that is rotated around its centre."""
    left, top, right, bottom = corners
    width, height, angle = right - left, bottom - top, math.radians(degrees)
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    around_width, around_height = width * cosine + height * sine, width * sine + height * cosine
    return (
        (left + right - around_width) / 2,
        (top + bottom - around_height) / 2,
        around_width,
        around_height,
    )


def _coordinate(shape: Element, name: str) -> float:
    number = parse_number(shape.get(name) or "")
    if number is None:
        raise ValueError(f"the {name} of a {shape.tag}, {(shape.get(name) or '')[:40]!r}, is no number")
    return number


def _points(shape: Element) -> tuple[list[float], list[float]]:
    """The x and y of the points of a polygon, a skeleton or a cuboid."""
    texts = [element.get("points") or "" for element in (shape, *shape)]
    numbers = [parse_number(number) for number in re.split(r"[;,]", ";".join(filter(None, texts)))]
    values = [number for number in numbers if number is not None]
    if shape.tag == "cuboid":
        named = [
            (shape.get(f"x{corner}"), shape.get(f"y{corner}"))
            for corner in ("tl1", "tr1", "bl1", "br1", "tl2", "tr2", "bl2", "br2")
        ]
        values = [number for pair in named for text in pair if (number := parse_number(text or "")) is not None]
        numbers = list(values)
    if None in numbers or len(values) < 4 or len(values) % 2:
        raise ValueError(f"the points of a {shape.tag} are no list of x,y;x,y")
    return values[0::2], values[1::2]


def _read_image(image: Element, task: Task, counts: Counter[str], problems: list[str]) -> FrameObjects:
    """An image, or a frame: its number counts where the task is a video, else its name."""
    name = (image.get("name") or "").strip()
    where = f"image {image.get('id', '')[:40]} {name[:60]}".strip()
    objects = []
    for shape in image:
        if shape.tag in SHAPES:
            try:
                name_of_class = (shape.get("label") or "").strip()
                is_ignored = _marks_ignored(_attributes(shape))
                objects.append(LabelledObject(name_of_class, *_box(shape, counts), ignore=is_ignored))
            except ValueError as error:
                problems.append(f"{where}: {error}")
    try:
        number = frame_number(image.get("frame") or image.get("id"))
    except ValueError as error:
        problems.append(f"{where}: {error}")
        number = None
    width, height = (parse_number(image.get(side) or "") for side in ("width", "height"))
    size = (int(width), int(height)) if width and height and min(width, height) >= 1 else task.size
    is_video = any(task.source.lower().endswith(suffix) for suffix in VIDEO_SUFFIXES)
    video = task.source if is_video else ""
    return FrameObjects(video, number if is_video else None, tuple(objects), size=size, image=name, where=where)


def _notes(counts: Counter[str]) -> list[str]:
    notes = [f"{count(counts['around'], 'shape')} read as the box around it"] if counts["around"] else []
    if counts["tracks"]:
        notes.append(f"{count(counts['tracks'], 'track')} read as objects; --as events reads the times of their labels")
    return notes


def write(frames: Sequence[FrameObjects]) -> str:
    """One video: “CVAT for video” where objects have identities, else “CVAT for images”, whose boxes have none.

    Frames are those of `frames` from the first to the last, with their step where all have the same. Coordinates are
    to 0.001 pixel.
    """
    frames = sorted(frames, key=lambda frame: frame.frame or 0)
    root = Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    has_identities = any(item.track is not None for frame in frames for item in frame.objects)
    _write_task(root, frames, "interpolation" if has_identities else "annotation")
    if has_identities:
        _write_tracks(root, frames)
    else:
        for frame in frames:
            width, height = frame.size or (0, 0)
            name = frame.image or f"frame_{frame.frame:06}"
            element = {"id": str(frame.frame), "name": name, "width": str(width), "height": str(height)}
            image = ElementTree.SubElement(root, "image", element)
            for item in frame.objects:
                _write_box(image, item, {"label": item.name, "occluded": "0"}, with_ignore=item.ignore)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _write_task(root: Element, frames: Sequence[FrameObjects], mode: str) -> None:
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    numbers = [frame.frame or 0 for frame in frames]
    step, (width, height) = _step(numbers), frames[0].size or (0, 0)
    texts = {
        "name": frames[0].video,
        "size": str(len(frames)),
        "mode": mode,
        "start_frame": str(numbers[0]),
        "stop_frame": str(numbers[-1]),
        "frame_filter": f"step={step}" if step > 1 else "",
        "source": frames[0].video,
    }
    for tag, text in texts.items():
        ElementTree.SubElement(task, tag).text = text
    labels = ElementTree.SubElement(task, "labels")
    for name in sorted({item.name for frame in frames for item in frame.objects}):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    size = ElementTree.SubElement(task, "original_size")
    ElementTree.SubElement(size, "width").text = str(width)
    ElementTree.SubElement(size, "height").text = str(height)


def _step(numbers: Sequence[int]) -> int:
    """The step between frames where all are as far apart, else 1."""
    steps = {following - number for number, following in pairwise(numbers)}
    return steps.pop() if len(steps) == 1 else 1


def _write_tracks(root: Element, frames: Sequence[FrameObjects]) -> None:
    """A track for each identity and class, and for each object without identity; it is outside where it is missing."""
    tracks: dict[tuple[str, int | tuple[int | None, int]], dict[int, LabelledObject]] = defaultdict(dict)
    for frame in frames:
        for place, item in enumerate(frame.objects):
            name_and_key = item.name, (frame.frame, place) if item.track is None else item.track
            tracks[name_and_key][frame.frame or 0] = item
    free = max((key for _, key in tracks if isinstance(key, int)), default=-1) + 1
    used: set[int] = set()
    for (name, key), items in tracks.items():
        number = key if isinstance(key, int) and key not in used else free
        free += number == free
        used.add(number)
        track = ElementTree.SubElement(root, "track", {"id": str(number), "label": name, "source": "manual"})
        _write_shapes(track, items, [frame.frame or 0 for frame in frames])


def _write_shapes(track: Element, items: Mapping[int, LabelledObject], numbers: Sequence[int]) -> None:
    with_ignore = any(item.ignore for item in items.values())  # all shapes, as CVAT keeps the value until the next one
    last = None
    for frame in numbers:
        item = items.get(frame)
        if item is None and last is None:
            continue
        shape = {"frame": str(frame), "keyframe": "1", "outside": str(int(item is None)), "occluded": "0"}
        if box := item or last:
            _write_box(track, box, shape, with_ignore=with_ignore)
        last = item


def _write_box(parent: Element, item: LabelledObject, attributes: Mapping[str, str], *, with_ignore: bool) -> None:
    box = ElementTree.SubElement(parent, "box", {**attributes, **_corners(item)})
    if with_ignore:
        ElementTree.SubElement(box, "attribute", {"name": "ignore"}).text = str(item.ignore).lower()


def _corners(item: LabelledObject) -> dict[str, str]:
    values = (item.x, item.y, item.x + item.w, item.y + item.h)
    return {name: f"{value:.3f}" for name, value in zip(_CORNERS, values, strict=True)}
