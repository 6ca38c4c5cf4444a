"""The summary of a recording, as plain values: which parts of it are shown. Imports no torch, for report pages."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A part of a recording that its summary shows, from `start` to `end`, in seconds from its beginning.

    The part of a storyboard is a single frame: `end` equals `start`. `frame` is the number of the frame that is shown
    as its picture. `score` is between 0 and 1: of an event its score, else the share of the recording for which this
    part is the most similar of all parts. `label` is the class of an event.
    """

    start: float
    end: float
    score: float
    label: str | None
    frame: int

    @property
    def seconds(self) -> float:
        """The length of the part; 0 of a single frame."""
        return self.end - self.start


@dataclass(frozen=True)
class Summary:
    """The summary of a recording that lasts `seconds`: its parts in order of time, which do not overlap.

    `shots` are the times at which a new shot begins, rising, without the beginning of the recording. `method` says in a
    few words how the parts were chosen. `picture_size` is (height, width) in pixels, as shown. `scores` are how early
    each moment of the recording would be chosen, in 0…1 (1: first); the moments are equally long.
    """

    path: Path
    seconds: float
    parts: tuple[Part, ...]
    shots: tuple[float, ...]
    method: str
    picture_size: tuple[int, int]
    scores: tuple[float, ...] = ()

    @property
    def shown_seconds(self) -> float:
        """The length of all parts together."""
        return sum(part.seconds for part in self.parts)

    @property
    def is_storyboard(self) -> bool:
        """Whether the parts are single frames, which cannot be shown as a video."""
        return all(part.end == part.start for part in self.parts)
