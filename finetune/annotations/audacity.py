"""Audacity's label tracks: lines of start, end and label, separated by tabs. The recording has the file's name."""

import re
from collections.abc import Mapping, Sequence

from finetune.annotations.annotation import Annotation, AnnotationFile, Recording, WrittenFile
from finetune.annotations.document import Document
from finetune.annotations.times import parse_seconds

_LINE = re.compile(r"[ ]*-?[\d.,]+\t-?[\d.,]+(\t.*)?")
_FREQUENCIES = "\\\t"  # a second line of a label: the frequencies that were selected


def is_audacity(document: Document) -> bool:
    lines = [line for line in document.text.splitlines() if line.strip() and not line.startswith(_FREQUENCIES)]
    return bool(lines) and sum(bool(_LINE.fullmatch(line)) for line in lines[:20]) > len(lines[:20]) / 2


def read(document: Document) -> AnnotationFile:
    """Equal times are a point label. Source: the manual's page about importing and exporting labels."""
    rows, problems = [], []
    for number, line in enumerate(document.text.split("\n"), 1):
        if not line.strip() or line.startswith(_FREQUENCIES):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        start, end = (parse_seconds(cell) for cell in [*cells, ""][:2])
        if start is None or end is None:
            problems.append(f"line {number}: {line.strip()[:40]!r} does not begin with two times")
            continue
        label = " ".join(cells[2:])
        rows.append(Annotation(str(document.source.with_suffix("")), label, start, end, where=f"line {number}"))
    return AnnotationFile(rows, problems)


def write(events: Sequence[Annotation], recordings: Mapping[str, Recording]) -> WrittenFile:
    """The events of one recording, to microseconds."""
    return WrittenFile("".join(f"{event.start:.6f}\t{event.end:.6f}\t{event.label}\n" for event in events))
