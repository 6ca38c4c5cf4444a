"""The values that all files of objects share: the objects of a frame, and the content of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune.data.object_labels import LabelledObject

MAX_BOXES = 3_000_000  # of one file: more need too much memory
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class FrameObjects:
    """The objects of one frame; a labelled frame without objects has none.

    Boxes are in pixels of a picture of `size`, or of the video where that is not known. With `in_fractions`, they are
    fractions of the picture.
    """

    video: str  # as the file names it: a path, also of another computer, or a name; may be empty if `image` is given
    frame: int | None  # from 0; None: it follows from the name of the image
    objects: Sequence[LabelledObject] = ()
    scores: Sequence[float] | None = None  # of each object, where they are predictions
    size: Size | None = None
    image: str = ""  # name of the file of the frame, where the tool worked on images
    rate: float | None = None  # frames per second that `frame` was counted at, where it is not the video's
    in_fractions: bool = False
    split: str = ""
    where: str = field(default="", compare=False)  # the place in the file, for messages


@dataclass(frozen=True)
class LabelledRange:
    """Frames of a video that somebody labelled: those of them without objects are labelled as having none.

    `is_whole_video`: they are all frames of the video, as the tool counts them.
    """

    video: str
    frames: range
    rate: float | None = None
    is_whole_video: bool = False


@dataclass(frozen=True)
class ObjectFile:
    """What was read from a file. `problems` are entries that cannot be used, `notes` what was left out on purpose."""

    frames: Sequence[FrameObjects]
    ranges: Sequence[LabelledRange] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
