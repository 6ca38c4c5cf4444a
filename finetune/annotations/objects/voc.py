"""Pascal VOC's XML: the boxes of one image."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from finetune.annotations.document import Document
from finetune.annotations.objects.frame_objects import FrameObjects, ObjectFile, Size
from finetune.annotations.times import parse_number
from finetune.data.object_labels import LabelledObject

IMAGE_FOLDERS = ("JPEGImages", "images")  # beside the folder of the annotations


def is_voc(root: Element) -> bool:
    return root.tag == "annotation"


def read(document: Document) -> ObjectFile:
    """One labelled frame. `difficult` marks an object to ignore; width and height are xmax − xmin and ymax − ymin."""
    root = document.xml
    objects, problems = [], []
    for number, element in enumerate(root.iter("object"), 1):
        corners = [parse_number(element.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = corners
        if left is None or top is None or right is None or bottom is None:
            problems.append(f"object {number}: its bndbox is not xmin, ymin, xmax, ymax")
            continue
        name, difficult = (element.findtext("name") or "").strip(), (element.findtext("difficult") or "").strip()
        objects.append(LabelledObject(name, left, top, right - left, bottom - top, ignore=difficult == "1"))
    image = (root.findtext("filename") or "").strip() or document.source.stem
    folder = (root.findtext("folder") or "").strip()
    if folder and folder not in IMAGE_FOLDERS and "/" not in image and "\\" not in image:
        image = f"{folder}/{image}"
    frame = FrameObjects("", None, tuple(objects), size=_size(root), image=image, where="")
    return ObjectFile([frame], problems=problems)


def _size(root: Element) -> Size | None:
    width, height = (parse_number(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
    return (int(width), int(height)) if width and height and min(width, height) >= 1 else None
