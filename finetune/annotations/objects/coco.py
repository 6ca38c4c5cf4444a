"""COCO's JSON: boxes of images, which are frames of videos where the file says so; read and written."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from finetune.annotations.annotation import MAX_FRAME
from finetune.annotations.document import Document, Part
from finetune.annotations.objects.frame_objects import FrameObjects, ObjectFile, Size
from finetune.annotations.objects.identities import Identities
from finetune.data.object_labels import LabelledObject
from finetune.text import count

_Key = str  # IDs are numbers or texts; `Part` makes texts of numbers
_TRACK_KEYS = ("track_id", "instance_id")  # CVAT has the first one in `attributes`
_FRAME_KEYS = ("frame_index", "frame_id")


class _Category(Part):
    id: _Key
    name: str


class _Video(Part):
    id: _Key
    name: str = ""
    file_name: str = ""


class _Image(Part):
    id: _Key
    file_name: str = ""
    width: int | None = Field(None, ge=0, le=10**6)
    height: int | None = Field(None, ge=0, le=10**6)
    video_id: _Key | None = None
    frame_index: int | None = Field(None, ge=0, le=MAX_FRAME)
    frame_id: int | None = Field(None, ge=0, le=MAX_FRAME)


class _Box(Part):
    image_id: _Key
    category_id: _Key
    bbox: list[float] | None = None
    segmentation: Any = None
    iscrowd: int | None = 0
    score: float | None = None
    track_id: _Key | None = None
    instance_id: _Key | None = None
    attributes: dict[str, Any] | None = None


class _File(Part):
    images: list[_Image]
    annotations: list[_Box]
    categories: list[_Category] = []
    videos: list[_Video] = []


def is_coco(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("images"), list) and "annotations" in value


def read(document: Document) -> ObjectFile:
    """Every image that is listed is a labelled frame, also without boxes. IDs may be sparse and in any order.

    `track_id` or `instance_id` is the identity, `iscrowd` marks an object to ignore. Masks are left out; an object
    that has a polygon alone has the box around it.
    """
    content = document.json_as(_File, "COCO")
    counts: Counter[str] = Counter()
    problems: list[str] = []
    names = {category.id: category.name.strip() for category in content.categories}
    videos = {video.id: video.file_name or video.name for video in content.videos}
    images = {image.id: image for image in content.images}
    if len(images) < len(content.images):
        problems.append(f"{count(len(content.images) - len(images), 'image')} with an ID that another image has")
    of_image: dict[str, list[tuple[LabelledObject, float | None]]] = defaultdict(list)
    unusable: set[str] = set()  # images of which an object is not known
    identities: dict[str, Identities] = defaultdict(Identities)
    for number, box in enumerate(content.annotations):
        where = f"annotations[{number}]"
        if box.image_id not in images:
            problems.append(f"{where}: there is no image with the ID {box.image_id:.40}")
        elif box.category_id not in names:
            problems.append(f"{where}: there is no category with the ID {box.category_id:.40}")
            unusable.add(box.image_id)
        elif (corners := _box_of(box, counts)) is None:
            problems.append(f"{where}: its bbox is no left, top, width and height: {str(box.bbox)[:60]}")
            unusable.add(box.image_id)
        else:
            track = identities[images[box.image_id].video_id or ""].number(_identity(box))
            item = LabelledObject(names[box.category_id], *corners, track, bool(box.iscrowd))
            of_image[box.image_id].append((item, box.score))
    frames = [
        _frame(image, videos, of_image.get(image.id, [])) for image in images.values() if image.id not in unusable
    ]
    return ObjectFile(frames, problems=problems, notes=_notes(counts))


def _box_of(box: _Box, counts: Counter[str]) -> tuple[float, float, float, float] | None:
    """Left, top, width and height; None where there are none."""
    counts["masks"] += bool(box.segmentation) and bool(box.bbox)
    if box.bbox is not None and len(box.bbox) == 4:
        left, top, width, height = box.bbox
        return left, top, width, height
    rings = box.segmentation if isinstance(box.segmentation, list) else []
    if box.bbox or not rings or not all(isinstance(ring, list) and len(ring) > 5 for ring in rings):
        return None
    points = [value for ring in rings for value in ring]
    if not all(isinstance(value, int | float) and abs(value) < 1e9 for value in points):
        return None
    counts["polygons"] += 1
    xs, ys = ([value for ring in rings for value in ring[axis::2]] for axis in (0, 1))
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _identity(box: _Box) -> str | None:
    attributes = box.attributes or {}
    given = [getattr(box, key) or attributes.get(key) for key in _TRACK_KEYS]
    return next((str(value) for value in given if value is not None), None)


def _frame(
    image: _Image, videos: Mapping[str, str], boxes: Sequence[tuple[LabelledObject, float | None]]
) -> FrameObjects:
    frame = next((number for key in _FRAME_KEYS if (number := getattr(image, key)) is not None), None)
    size = (image.width, image.height) if image.width and image.height else None
    scores = [score for _, score in boxes]
    return FrameObjects(
        videos.get(image.video_id or "", "") if frame is not None else "",
        frame,
        tuple(item for item, _ in boxes),
        tuple(score for score in scores if score is not None) if scores and None not in scores else None,
        size,
        image.file_name,
        where=f"image {image.id:.40}",
    )


def _notes(counts: Counter[str]) -> list[str]:
    masks, polygons = counts["masks"], counts["polygons"]
    notes = [f"{count(masks, 'mask')} left out: only boxes are read"] if masks else []
    return notes + ([f"{count(polygons, 'polygon')} read as the box around it"] if polygons else [])


def write(frames: Sequence[FrameObjects]) -> str:
    """The frames as images `VIDEO/frame_000012.png`, with `video_id` and `frame_index`; scores where there are any.

    Frames of a folder of images have the paths of the images. Category IDs count from 1, in the order of names.
    """
    names = sorted({item.name for frame in frames for item in frame.objects})
    categories = {name: number for number, name in enumerate(names, 1)}
    videos = {name: number for number, name in enumerate(dict.fromkeys(frame.video for frame in frames), 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, frame in enumerate(frames, 1):
        images.append(_written_image(frame, number, videos[frame.video]))
        for place, item in enumerate(frame.objects):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories[item.name],
                    "bbox": [item.x, item.y, item.w, item.h],
                    "area": item.w * item.h,
                    "iscrowd": int(item.ignore),
                }
                | ({} if item.track is None else {"track_id": item.track})
                | ({} if frame.scores is None else {"score": frame.scores[place]})
            )
    content = {
        "info": {"description": "objects in frames of videos"},
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()],
        "videos": [{"id": number, "name": Path(name).stem, "file_name": name} for name, number in videos.items()],
        "images": images,
        "annotations": annotations,
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def _written_image(frame: FrameObjects, number: int, video: int) -> dict[str, Any]:
    size: Size = frame.size or (0, 0)
    return {
        "id": number,
        "file_name": frame.image or f"{Path(frame.video).stem}/frame_{frame.frame:06}.png",
        "width": size[0],
        "height": size[1],
        "video_id": video,
        "frame_index": frame.frame,
    }
