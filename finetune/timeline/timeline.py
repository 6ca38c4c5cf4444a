"""The timeline of one recording, as plain values: what a run finds in it, over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.metrics.event_matching import Event


@dataclass(frozen=True, eq=False)
class TaskTimeline:
    """Probabilities (W, K) of the K classes of one task for W windows, float32, and the events that follow from them.

    Labels of events are class indices. With `multilabel` classes are independent, and events may overlap.
    """

    classes: tuple[str, ...]
    multilabel: bool
    probabilities_WK: np.ndarray
    events: Sequence[Event]


@dataclass(frozen=True, eq=False)
class Timeline:
    """The timeline of a recording that lasts `seconds`; all times are seconds from its beginning, as players count.

    `times_W` are the middles of windows of `window_seconds`, `step_seconds` apart, and `middle_frames_W` the numbers of
    the frames there. `picture_size` is (height, width) in pixels. `tasks` has the tasks with classes or levels, the
    primary one first.
    """

    path: Path
    seconds: float
    picture_size: tuple[int, int]
    times_W: np.ndarray
    middle_frames_W: np.ndarray
    window_seconds: float
    step_seconds: float
    tasks: Mapping[str, TaskTimeline]

    @property
    def primary(self) -> TaskTimeline:
        """The timeline of the primary task."""
        return next(iter(self.tasks.values()))

    @property
    def is_short(self) -> bool:
        """Whether the recording is shorter than a window, so that its only window has all its frames."""
        return len(self.times_W) == 1 and self.seconds < self.window_seconds * (1 - 1e-6)

    def middle_frame(self, event: Event) -> int:
        """The number of a frame in the middle of an event, as far as windows tell."""
        middle = (event.start + event.end) / 2
        return int(self.middle_frames_W[np.abs(self.times_W - middle).argmin()])
