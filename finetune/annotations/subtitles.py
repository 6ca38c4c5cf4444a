"""WebVTT and SubRip subtitles: the text of a cue is a class. The recording has the name of the file."""

import html
import re
from collections.abc import Mapping, Sequence

from finetune.annotations.annotation import Annotation, AnnotationFile, Recording, WrittenFile
from finetune.annotations.document import Document
from finetune.annotations.times import format_clock, parse_seconds

ARROW = "-->"
_TIMES = re.compile(rf"\s*([\d:.,]+)\s*{ARROW}\s*([\d:.,]+)(\s.*)?")
_TAG = re.compile(r"</?[a-zA-Z\d][^<>]*>|\{\\[^{}]*\}")  # of a voice or a style


def is_subtitles(document: Document) -> bool:
    return document.text.lstrip("\ufeff").startswith("WEBVTT") or any(
        _TIMES.fullmatch(line) for line in document.text.splitlines()[:50]
    )


def read(document: Document) -> AnnotationFile:
    """One annotation for each cue; notes, styles and regions are passed over."""
    rows, problems, number = [], [], 1
    is_vtt = document.text.lstrip("\ufeff").startswith("WEBVTT")
    for block in re.split(r"(\n[ \t]*\n)", document.text):
        lines = block.split("\n")
        places = [place for place, line in enumerate(lines) if ARROW in line]
        if places and not (is_vtt and re.match(r"\s*(NOTE|STYLE|REGION)\b", block)):
            where = f"line {number + places[0]}"
            times = _TIMES.fullmatch(lines[places[0]])
            start, end = (parse_seconds(times[1]), parse_seconds(times[2])) if times else (None, None)
            if start is None or end is None:
                problems.append(f"{where}: {lines[places[0]].strip()[:60]!r} is no pair of times")
            else:
                label = _plain(" ".join(line.strip() for line in lines[places[0] + 1 :]), is_vtt=is_vtt)
                rows.append(Annotation(str(document.source.with_suffix("")), label, start, end, where=where))
        number += block.count("\n")
    return AnnotationFile(rows, problems)


def _plain(text: str, *, is_vtt: bool) -> str:
    text = _TAG.sub("", text)
    return (html.unescape(text) if is_vtt else text).strip()


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """The events of one recording as WebVTT, to milliseconds."""
    cues = [
        f"{number}\n{format_clock(event.start or 0)} {ARROW} {format_clock(event.end or 0)}\n"
        f"{html.escape(event.label, quote=False)}\n"
        for number, event in enumerate(events, 1)
    ]
    return WrittenFile("\n".join(["WEBVTT\n", *cues]))
