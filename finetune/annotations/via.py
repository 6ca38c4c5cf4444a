"""VGG Image Annotator 3's project JSON: temporal segments of videos, with attributes."""

from typing import Any

from finetune.annotations.annotation import Annotation, AnnotationFile
from finetune.annotations.document import Document, Part
from finetune.text import count


class _Attribute(Part):
    aname: str
    options: dict[str, str] = {}


class _File(Part):
    fname: str
    src: str = ""


class _View(Part):
    fid_list: list[str] = []


class _Metadata(Part):
    vid: str
    z: list[float] = []
    xy: list[Any] = []
    av: dict[str, str] = {}


class _Project(Part):
    attribute: dict[str, _Attribute]
    file: dict[str, _File]
    view: dict[str, _View] = {}
    metadata: dict[str, _Metadata]


def is_via(value: Any) -> bool:
    return isinstance(value, dict) and {"attribute", "file", "metadata"} <= value.keys()


def read(document: Document) -> AnnotationFile:
    """Two times `z` are a segment, one is a point, none the whole video; a tier is an attribute.

    The value of an attribute is one of its options, several separated by commas, or a text.
    """
    project = document.json_as(_Project, "VIA 3")
    rows, problems, boxes = [], [], 0
    for key, entry in project.metadata.items():
        if entry.xy:
            boxes += 1
            continue
        where = f"metadata {key}"
        view = project.view.get(entry.vid, _View(fid_list=[entry.vid]))
        files = [project.file[name] for name in view.fid_list if name in project.file]
        if not files or len(entry.z) > 2:
            problems.append(f"{where}: {'its file is not listed' if not files else 'has more than two times'}")
            continue
        start, end = (entry.z[0], entry.z[-1]) if entry.z else (None, None)
        rows += [
            Annotation(files[0].fname or files[0].src, label, start, end, tier=tier, where=where)
            for tier, label in _labels(project, entry)
        ]
    notes = [f"{count(boxes, 'region', 'regions')} in frames left out: only times are read"] if boxes else []
    return AnnotationFile(rows, problems, notes)


def _labels(project: _Project, entry: _Metadata) -> list[tuple[str, str]]:
    """(attribute, label) of each value."""
    labels = []
    for key, value in entry.av.items():
        attribute = project.attribute.get(key, _Attribute(aname=key))
        for choice in value.split(",") if attribute.options else [value]:
            if choice.strip():
                labels.append((attribute.aname, attribute.options.get(choice, choice).strip()))
    return labels
