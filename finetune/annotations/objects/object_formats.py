"""The formats of files of objects: how each is recognised by its content, and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from finetune.annotations.document import Document, open_document
from finetune.annotations.format_names import AnyFormat, Content, Format, ObjectFormat
from finetune.annotations.label_studio import is_label_studio
from finetune.annotations.objects import coco, cvat_boxes, label_studio_boxes, mot, voc, yolo
from finetune.annotations.objects.frame_objects import ObjectFile
from finetune.data.tables import is_table, read_table
from finetune.errors import DataError, shorten_list

OBJECT_FORMAT_WORDS: Mapping[ObjectFormat, str] = {
    "coco": "COCO's JSON",
    "yolo": "a data.yaml of YOLO",
    "cvat": "CVAT's XML, with shapes",
    "mot": "MOTChallenge's gt.txt",
    "voc": "Pascal VOC's XML",
    "label-studio": "Label Studio's JSON, with boxes",
}
OBJECTS_COLUMN = "objects"  # of a manifest of labelled frames
_EVENTS_OR_OBJECTS = ("cvat", "label-studio")
_READERS: Mapping[ObjectFormat, Callable[[Document], ObjectFile]] = {
    "coco": coco.read,
    "yolo": yolo.read,
    "cvat": cvat_boxes.read,
    "mot": mot.read,
    "voc": voc.read,
    "label-studio": label_studio_boxes.read,
}


def read_objects(document: Document, kind: ObjectFormat) -> ObjectFile:
    """The objects of a file of a given format. Raises DataError."""
    return _READERS[kind](document)


def recognise_objects(document: Document, *, with_events: bool = False) -> ObjectFormat | None:
    """The format of a file of objects by its content; None for a file that holds none.

    CVAT and Label Studio also write events, which go first: a file that holds both is one of objects only
    `with_events`. Raises DataError for content that cannot be parsed.
    """
    kind, contents = _format_and_contents(document)
    return kind if with_events or contents == {"objects"} else None


def _format_and_contents(document: Document) -> tuple[ObjectFormat | None, set[Content]]:
    """The format of objects that a file may have, and what it holds: objects, events, both or neither."""
    if document.is_xml:
        root = document.xml
        if root.tag == "annotations":
            return "cvat", cvat_boxes.contents(root)
        return ("voc", {"objects"}) if voc.is_voc(root) else (None, {"events"})
    if document.text.lstrip()[:1] in {"{", "["}:
        if coco.is_coco(document.json):
            return "coco", {"objects"}
        contents = label_studio_boxes.contents(document.json)
        return ("label-studio", contents) if is_label_studio(document.json) else (None, {"events"})
    if mot.is_mot(document):
        return "mot", {"objects"}
    return ("yolo", {"objects"}) if yolo.is_yolo(document) else (None, {"events"})


def is_object_table(path: Path) -> bool:
    """Whether it is a CSV file with a column of objects: a manifest of labelled frames."""
    try:
        return is_table(path) and OBJECTS_COLUMN in read_table(path)
    except DataError:
        return False


def is_empty_mot(path: Path, kind: ObjectFormat | None) -> bool:
    """Whether it is an empty file of MOTChallenge: a sequence without objects."""
    is_mot = kind == "mot" or (kind is None and path.name == "gt.txt")
    return is_mot and path.is_file() and not path.stat().st_size


def object_files(files: Sequence[Path]) -> list[Path]:
    """The files, and instead of a folder of YOLO, MOTChallenge or Pascal VOC the files in it that name the objects."""
    return [file for path in files for file in (_files_in(path) if path.is_dir() else [path])]


def _files_in(folder: Path) -> list[Path]:
    patterns = ("data.yaml", "data.yml", "dataset.yaml", "**/gt/gt.txt", "**/*.xml")
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files
    raise DataError(
        f"{folder}: is a folder without data.yaml (YOLO), gt/gt.txt (MOTChallenge) or .xml files (Pascal VOC); name "
        "the annotation files in it"
    )


def holds_objects(files: Sequence[Path], kind: AnyFormat | None, content: Content | None) -> bool:
    """Whether to read the files as annotations of objects, not of events; `content` decides where it is given.

    A file that holds neither, or cannot be parsed, goes with the others. Raises DataError where some files hold
    objects, and others events, or a file is a manifest of labelled frames.
    """
    if content != "events" and (manifest := next(filter(is_object_table, files), None)):
        raise DataError(
            f"{manifest}: has a column “{OBJECTS_COLUMN}”, so it is a manifest of labelled frames already; use it as "
            "data.manifest of a recipe; --as events reads its labels and times alone"
        )
    if content is not None:
        return content == "objects"
    if kind is not None and kind not in _EVENTS_OR_OBJECTS:
        return kind in OBJECT_FORMAT_WORDS
    with_objects: list[Path] = []
    with_events: list[Path] = []
    for path in files:
        try:
            is_known = path.is_dir() or is_empty_mot(path, None)
            contents = {"objects"} if is_known else _format_and_contents(open_document(path))[1]
        except DataError:
            continue
        if contents:
            (with_events if "events" in contents else with_objects).append(path)
    if with_objects and with_events:
        listed = shorten_list(with_objects, limit=3), shorten_list(with_events, limit=3)
        raise DataError(f"{listed[0]} hold objects, but {listed[1]} events; import them one after the other")
    return bool(with_objects)


def object_format(kind: AnyFormat | None) -> ObjectFormat | None:
    """The format of a file of objects; raises DataError for a format that holds events alone."""
    if kind is None:
        return None
    if kind not in OBJECT_FORMAT_WORDS:
        raise DataError(f"files of the format {kind} hold no objects; those of {', '.join(OBJECT_FORMAT_WORDS)} do")
    return cast(ObjectFormat, kind)


def event_format(kind: AnyFormat | None) -> Format | None:
    """The format of a file of events; raises DataError for a format that holds objects alone."""
    if kind in OBJECT_FORMAT_WORDS and kind not in _EVENTS_OR_OBJECTS:
        raise DataError(f"files of the format {kind} hold no events; those of {', '.join(get_args(Format))} do")
    return cast(Format | None, kind)
