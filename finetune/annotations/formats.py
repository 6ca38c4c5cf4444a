"""The formats of annotation files: how each is recognised by its content, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune.annotations import (
    activitynet,
    audacity,
    boris,
    boris_tables,
    cvat,
    elan,
    label_studio,
    subtitles,
    tabular,
    via,
)
from finetune.annotations.annotation import Annotation, AnnotationFile, Recording, WrittenFile
from finetune.annotations.document import Document
from finetune.annotations.format_names import ExportFormat, Format
from finetune.annotations.objects.object_formats import OBJECT_FORMAT_WORDS
from finetune.errors import DataError

FORMAT_WORDS: Mapping[Format, str] = {
    "csv": "a table with a header such as path,label,start,end",
    "boris": "a BORIS project, or events that BORIS exported as a table",
    "elan": "ELAN's .eaf",
    "label-studio": "Label Studio's JSON",
    "cvat": "CVAT's XML",
    "via": "a project of VGG Image Annotator 3",
    "activitynet": "ActivityNet's JSON",
    "audacity": "Audacity's labels",
    "vtt": "WebVTT or SRT subtitles",
}
_JSON_FORMATS: Mapping[Format, Callable[[object], bool]] = {
    "boris": boris.is_boris,
    "via": via.is_via,
    "activitynet": activitynet.is_activitynet,
    "label-studio": label_studio.is_label_studio,
}
_XML_ROOTS: Mapping[str, Format] = {"ANNOTATION_DOCUMENT": "elan", "annotations": "cvat"}
_TEXT_FORMATS: Mapping[Format, Callable[[Document], bool]] = {
    "vtt": subtitles.is_subtitles,
    "audacity": audacity.is_audacity,
    "boris": boris_tables.is_boris_table,
    "csv": tabular.is_table,
}


def read_document(document: Document, kind: Format | None = None) -> AnnotationFile:
    """The annotations of a file, of a given format or of that which its content shows. Raises DataError."""
    return _READERS[kind or recognise(document)](document)


def recognise(document: Document) -> Format:
    """The format of a file by its content alone. Raises DataError for content of no known format."""
    if document.is_xml:
        if document.xml.tag in _XML_ROOTS:
            return _XML_ROOTS[document.xml.tag]
        raise _unknown(document, f"is XML with the root {document.xml.tag[:40]!r}")
    if document.text.lstrip()[:1] in {"{", "["}:
        for kind, is_kind in _JSON_FORMATS.items():
            if is_kind(document.json):
                return kind
        keys = [*document.json] if isinstance(document.json, dict) else []
        raise _unknown(document, f"is JSON{' with the keys ' + ', '.join(keys)[:80] if keys else ''}")
    for kind, is_text in _TEXT_FORMATS.items():
        if is_text(document):
            return kind
    start = document.text.strip().partition("\n")[0]
    raise _unknown(document, f"begins with {start[:60]!r}")


def _unknown(document: Document, content: str) -> DataError:
    formats = [
        *FORMAT_WORDS.items(),
        *((f"{kind}", f"objects: {words}") for kind, words in OBJECT_FORMAT_WORDS.items()),
    ]
    listed = "".join(f"\n  {kind:<13} {words}" for kind, words in formats)
    return DataError(f"{document.source}: {content}, and is no known annotation file. --from names its format:{listed}")


def _read_boris(document: Document) -> AnnotationFile:
    is_json = document.text.lstrip().startswith("{")
    return boris.read(document) if is_json else boris_tables.read(document)


_READERS: Mapping[Format, Callable[[Document], AnnotationFile]] = {
    "csv": tabular.read,
    "boris": _read_boris,
    "elan": elan.read,
    "label-studio": label_studio.read,
    "cvat": cvat.read,
    "via": via.read,
    "activitynet": activitynet.read,
    "audacity": audacity.read,
    "vtt": subtitles.read,
}


@dataclass(frozen=True)
class Writer:
    """How events are written. `per_recording`: each recording has a file of its own."""

    write: Callable[[Sequence[Annotation], Mapping[str, Recording]], WrittenFile]
    suffix: str
    per_recording: bool = False
    needs_video: bool = False  # its duration or frame rate


WRITERS: Mapping[ExportFormat, Writer] = {
    "csv": Writer(tabular.write, ".csv"),
    "boris": Writer(boris.write, ".boris", needs_video=True),
    "elan": Writer(elan.write, ".eaf", per_recording=True),
    "label-studio": Writer(label_studio.write, ".json", needs_video=True),
    "activitynet": Writer(activitynet.write, ".json"),
    "audacity": Writer(audacity.write, ".txt", per_recording=True),
    "vtt": Writer(subtitles.write, ".vtt", per_recording=True),
}
