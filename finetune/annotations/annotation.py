"""The values that all formats share: an annotation, the content of an annotation file, and a recording."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_FRAME = 10**9
MAX_SECONDS = 1e7  # 115 days: a longer time is a mistake


@dataclass(frozen=True)
class Annotation:
    """A class from `start` to `end` of a recording, in seconds: None is the beginning and the end of the recording.

    Equal start and end are a point. Files that count frames give `frames` instead, the first and the one after the
    last, from 0; equal numbers are a point, and None is the end of the recording.
    """

    video: str  # as the file names it: a path, also of another computer, or a name
    label: str
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int | None] | None = None
    fps: float | None = None  # the rate that `frames` were counted at, where the file states it
    score: float | None = None
    tier: str = ""  # what --tier selects by
    subject: str = ""
    group: str = ""
    split: str = ""
    where: str = field(default="", compare=False)  # the place in the file, for messages


@dataclass(frozen=True)
class AnnotationFile:
    """What was read from a file. `problems` are entries that cannot be used, `notes` what was left out on purpose."""

    rows: Sequence[Annotation]
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    default_tiers: frozenset[str] | None = None  # those that are taken without --tier; None is all


@dataclass(frozen=True)
class Recording:
    """A video of exported events; seconds and fps are None where nothing asked for them, or they are not known."""

    name: str  # as the events name it
    path: Path
    seconds: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class WrittenFile:
    """The text of an exported file, and what its format cannot hold."""

    text: str
    notes: Sequence[str] = ()


def unique_names(recordings: Mapping[str, Recording]) -> dict[str, str]:
    """The names of files without suffix, or whole paths where these are not unique, by the keys of `recordings`."""
    stems = Counter(recording.path.stem for recording in recordings.values())
    return {
        key: recording.path.stem if stems[recording.path.stem] == 1 else recording.path.as_posix()
        for key, recording in recordings.items()
    }


def one_frame_is_a_point(first: int, after_last: int) -> tuple[int, int]:
    """The frames of an event; a single frame marks a moment, so it becomes a point."""
    return (first, first) if after_last == first + 1 else (first, after_last)
