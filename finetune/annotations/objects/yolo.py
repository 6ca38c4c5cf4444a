"""YOLO's folders: a data.yaml with the names of classes, and a text file of boxes for each image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune.annotations.document import Document
from finetune.annotations.objects.frame_objects import FrameObjects, ObjectFile
from finetune.annotations.times import parse_number
from finetune.data.object_labels import LabelledObject
from finetune.errors import DataError
from finetune.storage.folder_walk import walk_files
from finetune.storage.numbered_images import IMAGE_SUFFIXES
from finetune.text import count

SPLITS = ("train", "val", "valid", "test")
MAX_LINES = 10_000  # of the text file of one image
MAX_DEPTH = 10


def is_yolo(document: Document) -> bool:
    """Whether it is a YAML mapping with `names` and a split."""
    lines = document.text.splitlines()[:2000]
    keys = {match[1] for line in lines if (match := re.match(r"['\"]?(\w+)['\"]?\s*:", line))}
    return "names" in keys and bool(keys & {*SPLITS, "path", "nc"})


def read(document: Document) -> ObjectFile:
    """The images of each split that have a text file; an empty file is a labelled image without objects.

    Without a split, these are the images in the folder `images`.

    A line is a class number and a box in fractions of the image, its centre first; a sixth value is a score, a seventh
    an identity. Lines of polygons are read as the box around them.
    """
    settings = _settings(document)
    names = _names(settings.get("names"), document.source)
    frames: list[FrameObjects] = []
    problems: list[str] = []
    counts: Counter[str] = Counter()
    splits = {split: settings[split] for split in SPLITS if settings.get(split)} or {"": "images"}
    for split, places in splits.items():
        for image, labels in _images(settings, places, document.source, problems):
            if labels is None:
                counts["unlabelled"] += 1
                continue
            try:
                text = labels.read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:
                problems.append(f"{labels}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")
                continue
            known_problems = len(problems)
            objects, scores = _read_labels(text, labels, names, counts, problems)
            if len(problems) == known_problems:  # else an object is not known: no labelled frame
                name = "val" if split == "valid" else split
                frames.append(
                    FrameObjects(
                        "", None, objects, scores, image=image, in_fractions=True, split=name, where=str(labels)
                    )
                )
    notes = []
    if counts["unlabelled"]:
        notes.append(
            f"{count(counts['unlabelled'], 'image')} without a text file left out (an empty file marks an image "
            "without objects)"
        )
    notes += [f"{count(counts['polygons'], 'polygon')} read as the box around it"] if counts["polygons"] else []
    if not frames and not problems:
        problems.append("lists no images that have text files of labels; train, val and test name folders of images")
    return ObjectFile(frames, problems=problems, notes=notes)


def _settings(document: Document) -> dict[str, Any]:
    """The mapping of a data.yaml. Aliases and deep nesting are refused, as they can exhaust the memory."""
    depth = 0
    try:
        for event in yaml.parse(document.text):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                raise DataError(f"{document.source}: has aliases, or nests deeply, which no data.yaml does")
        settings = yaml.safe_load(document.text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{document.source}: cannot be read as YAML: {reason}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{document.source}: is no mapping with names, train and val")
    return settings


def _names(names: Any, source: Path) -> dict[int, str]:
    """The classes by their numbers, from a list or a mapping."""
    items = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    classes: dict[int, str] = {}
    for key, name in items:
        number = str(key)
        if not number.isascii() or not number.isdecimal() or len(number) > 9 or isinstance(name, dict | list):
            raise DataError(f"{source}: names is no list of classes, and no mapping from numbers to classes")
        classes[int(number)] = str(name).strip()
    if not classes:
        raise DataError(f"{source}: names lists no classes")
    return classes


def _images(
    settings: Mapping[str, Any], places: Any, source: Path, problems: list[str]
) -> Iterator[tuple[str, Path | None]]:
    """The images of the places of a split, each with its file of labels, None where there is none."""
    for value in places if isinstance(places, list) else [places]:
        try:
            place = _place(settings.get("path"), value, source)
            if place is None:
                problems.append(f"{str(value)[:60]!r} is no folder of images or labels, and no list of images")
            elif not place.is_file():
                yield from _images_in(place)
            else:
                lines = place.read_text(encoding="utf-8-sig").splitlines()
                images = [place.parent / line.strip() for line in lines if line.strip()]
                yield from ((str(image), _existing(_labels_of(image))) for image in images)
        except (OSError, ValueError) as error:
            problems.append(f"{str(value)[:60]!r} cannot be read: {getattr(error, 'strerror', None) or error}")


def _place(root: Any, value: Any, source: Path) -> Path | None:
    """The folder or the list of a split: below `path`, or beside the file; also where only its labels are there."""
    if not isinstance(value, str):
        return None
    folders = [source.parent / root] if isinstance(root, str) and root else []
    names = [value, re.sub(r"^(\.\./)+", "", value)]  # some tools write ../ without meaning it
    places = [folder / name for folder in [*folders, source.parent] for name in names]
    given = next((path for path in places if path.exists()), None)
    return given or next((path for path in places if _labels_of(path / "image").parent.is_dir()), None)


def _images_in(folder: Path) -> Iterator[tuple[str, Path | None]]:
    files = [path for path in walk_files(folder)[0] if path.suffix.lower() in IMAGE_SUFFIXES] if folder.is_dir() else []
    if files:
        yield from ((str(path), _existing(_labels_of(path))) for path in files)
        return
    labels = _labels_of(folder / "image").parent
    for path in walk_files(labels)[0]:
        if path.suffix == ".txt":
            yield path.relative_to(labels).with_suffix("").as_posix(), path


def _labels_of(image: Path) -> Path:
    """The text file of an image: in `labels` instead of the last folder `images`, or beside it."""
    parts = list(image.parts[:-1])
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts, image.name).with_suffix(".txt") if image.name else image


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read_labels(
    text: str, labels: Path, names: Mapping[int, str], counts: Counter[str], problems: list[str]
) -> tuple[tuple[LabelledObject, ...], tuple[float, ...] | None]:
    """The objects of an image, boxes in fractions of it, and their scores where all have one."""
    objects, scores = [], []
    for number, line in enumerate(text.splitlines()[:MAX_LINES], 1):
        if line.strip():
            try:
                item, score = _read_line(line, names, counts)
            except ValueError as error:
                problems.append(f"{labels.name}, line {number}: {error}")
                continue
            objects.append(item)
            scores.append(score)
    known = tuple(score for score in scores if score is not None)
    return tuple(objects), known if scores and len(known) == len(scores) else None


def _read_line(line: str, names: Mapping[int, str], counts: Counter[str]) -> tuple[LabelledObject, float | None]:
    """An object and its score. Raises ValueError."""
    cells = line.split()
    values = [number for cell in cells if (number := parse_number(cell)) is not None]
    if len(values) < len(cells) or len(cells) < 5 or (len(cells) > 7 and len(cells) % 2 == 0):
        raise ValueError(f"{line.strip()[:60]!r} is no class, x, y, width and height")
    if values[0] != int(values[0]) or int(values[0]) not in names:
        raise ValueError(f"names has no class {values[0]:g}")
    name = names[int(values[0])]
    last_is_identity = cells[-1].isdecimal() and len(cells[-1]) <= 15
    if len(cells) > 7 or (len(cells) == 7 and not last_is_identity):
        counts["polygons"] += 1
        xs, ys = values[1::2], values[2::2]
        return LabelledObject(name, min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), None
    x, y, width, height = values[1:5]
    track = int(cells[-1]) if len(cells) > 5 and last_is_identity else None
    score = values[5] if len(cells) == 7 or (len(cells) == 6 and track is None) else None
    return LabelledObject(name, x - width / 2, y - height / 2, width, height, track), score
