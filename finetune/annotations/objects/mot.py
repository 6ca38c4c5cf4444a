"""MOTChallenge's text files: lines of frame, identity, box, whether it counts, class, visibility; read and written."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from configparser import ConfigParser, Error
from dataclasses import dataclass
from pathlib import Path

from finetune.annotations.annotation import MAX_FRAME
from finetune.annotations.document import Document
from finetune.annotations.objects.frame_objects import FrameObjects, LabelledRange, ObjectFile, Size
from finetune.annotations.times import parse_number
from finetune.data.object_labels import MAX_IDENTITY, LabelledObject
from finetune.text import count

CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd"),
)
PEDESTRIAN_LIKE = frozenset([2, 7, 8, 12, 13])  # a detection there is no mistake: ignored as pedestrians
_LINE = re.compile(r"\s*\d+(?:\.0*)?(?:\s*,\s*-?[\d.eE+-]+){5,9}\s*,?\s*")


def is_mot(document: Document) -> bool:
    lines = [line for line in document.text[:20_000].splitlines()[:20] if line.strip()]
    return (
        bool(lines)
        and bool(_LINE.fullmatch(lines[0]))
        and sum(bool(_LINE.fullmatch(line)) for line in lines) > (len(lines) / 2)
    )


@dataclass(frozen=True)
class _Sequence:
    """What seqinfo.ini says, beside the file or one folder above it."""

    video: str
    length: int | None = None
    size: Size | None = None


def read(document: Document) -> ObjectFile:
    """Frames count from 1. All frames that seqinfo.ini counts are labelled, else those to the last line.

    Class numbers are those of MOTChallenge, or the lines of a labels.txt beside the file. Of objects that do not count
    (7th value 0), pedestrians and what looks like them are objects to ignore, as the benchmark does; others are left
    out. With a labels.txt all of them are objects to ignore. A 7th value between 0 and 1 is a score. Source:
    arXiv:1603.00831, section 4.
    """
    sequence = _read_sequence(document.source)
    names = _read_names(document.source)
    of_frame: dict[int, list[tuple[LabelledObject, float]]] = defaultdict(list)
    problems: list[str] = []
    counts: Counter[str] = Counter()
    for number, line in enumerate(document.text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            frame, item, score = _read_line(line, names, counts)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        of_frame[frame].extend([] if item is None else [(item, score)])
    has_scores = any(0 < score < 1 for items in of_frame.values() for _, score in items)
    frames = [
        FrameObjects(
            sequence.video,
            frame,
            tuple(item for item, _ in items),
            tuple(score for _, score in items) if has_scores else None,
            sequence.size,
            where=f"frame {frame + 1}",
        )
        for frame, items in of_frame.items()
    ]
    last = max(of_frame, default=-1) + 1
    whole = LabelledRange(sequence.video, range(last if sequence.length is None else sequence.length))
    return ObjectFile(frames, [whole], problems, _notes(counts, sequence))


def _notes(counts: Counter[str], sequence: _Sequence) -> list[str]:
    notes = []
    if counts["left out"]:
        notes.append(f"{count(counts['left out'], 'box', 'boxes')} left out: the file says that they do not count")
    if counts["ignored"]:
        notes.append(f"{count(counts['ignored'], 'object')} to ignore: the file says that they do not count")
    if counts["unnamed"]:
        notes.append("no classes are given: objects are called pedestrian; a labels.txt beside the file names classes")
    if sequence.length is None:
        notes.append("no seqinfo.ini: the frames up to the last line are taken as labelled")
    return notes


def _read_line(
    line: str, names: Sequence[str] | None, counts: Counter[str]
) -> tuple[int, LabelledObject | None, float]:
    """The frame from 0, the object (None: it is left out) and the 7th value. Raises ValueError."""
    values = [parse_number(cell) for cell in line.strip().rstrip(",").split(",")]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or not 6 <= len(values) <= 10:
        raise ValueError(f"{line.strip()[:60]!r} is no list of frame, identity, left, top, width, height, …")
    frame, identity, left, top, width, height = numbers[:6]
    if frame != int(frame) or not 1 <= frame <= MAX_FRAME:
        raise ValueError(f"{frame:g} is no number of a frame; they count from 1")
    if identity != int(identity) or identity > MAX_IDENTITY:
        raise ValueError(f"{identity:g} is no identity")
    score = numbers[6] if len(numbers) > 6 else 1.0
    code = int(numbers[7]) if 8 <= len(numbers) <= 9 and numbers[7] > 0 else None
    name, is_ignored = _class_of(code, score, names, counts)
    track = int(identity) if identity >= 0 else None
    item = None if name is None else LabelledObject(name, left, top, width, height, track, is_ignored)
    return int(frame) - 1, item, score


def _class_of(
    code: int | None, score: float, names: Sequence[str] | None, counts: Counter[str]
) -> tuple[str | None, bool]:
    """The class, None where the object is left out; and whether it is to ignore. Raises ValueError."""
    counts["unnamed"] += code is None and names is None
    if code is not None and code > len(names or CLASSES):
        listed = "labels.txt" if names else "MOTChallenge"
        raise ValueError(f"{listed} has no class {code}; a labels.txt beside the file names classes, one a line")
    if score != 0:
        return (names or CLASSES)[(code or 1) - 1], False
    if names is not None:
        counts["ignored"] += 1
        return names[(code or 1) - 1], True
    if code is None or code == 1 or code in PEDESTRIAN_LIKE:
        counts["ignored"] += 1
        return CLASSES[0], True
    counts["left out"] += 1
    return None, False


def _read_names(source: Path) -> list[str] | None:
    """The classes of a labels.txt beside the file."""
    try:
        text = (source.parent / "labels.txt").read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return None
    return [line.strip() for line in text.splitlines() if line.strip()][:10_000] or None


def _read_sequence(source: Path) -> _Sequence:
    """The sequence of a file; without a seqinfo.ini, its name is that of the file, or of the folder above gt/gt.txt."""
    own_name = source.stem if source.stem not in {"gt", "det"} else source.absolute().parent.parent.name
    for folder in (source.parent, source.parent.parent):
        parser = ConfigParser(interpolation=None)
        try:
            parser.read_string((folder / "seqinfo.ini").read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, Error):
            continue
        info = dict(parser["Sequence"]) if parser.has_section("Sequence") else {}
        length, width, height = (_whole_number(info.get(key)) for key in ("seqlength", "imwidth", "imheight"))
        images = folder / (info.get("imdir") or "img1")
        video = str(images.absolute()) if images.is_dir() else info.get("name") or own_name
        return _Sequence(video, length, (width, height) if width and height else None)
    images = source.absolute().parent.parent / "img1"
    return _Sequence(str(images) if images.is_dir() else own_name)


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None


def write(frames: Sequence[FrameObjects], classes: Sequence[str]) -> str:
    """One video: frame from 1, identity (-1 without one), box, score (1; 0 for objects to ignore), class from 1, 1."""
    codes = {name: number for number, name in enumerate(classes, 1)}
    lines = []
    for frame in sorted(frames, key=lambda frame: frame.frame or 0):
        for place, item in enumerate(frame.objects):
            score = 0 if item.ignore else 1 if frame.scores is None else frame.scores[place]
            track = -1 if item.track is None else item.track
            box = ",".join(f"{value:.3f}".rstrip("0").rstrip(".") for value in (item.x, item.y, item.w, item.h))
            lines.append(f"{(frame.frame or 0) + 1},{track},{box},{score:g},{codes[item.name]},1\n")
    return "".join(lines)


def write_sequence(name: str, *, frames: int, size: Size, rate: float) -> str:
    """The text of a seqinfo.ini."""
    return (
        f"[Sequence]\nname={name}\nimDir=img1\nframeRate={rate:g}\nseqLength={frames}\n"
        f"imWidth={size[0]}\nimHeight={size[1]}\nimExt=.jpg\n"
    )
