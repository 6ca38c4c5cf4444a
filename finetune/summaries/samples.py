"""What a summary is chosen from: features of evenly spaced frames of a recording, and its shots."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Samples:
    """N moments of a recording that lasts `seconds`, each `step_seconds` after the one before.

    Moment n stands for the time from n · `step_seconds` on; `frames_N` are the numbers of the frames shown in the
    middle of each, which may repeat. `features_ND` are those frames' features, float32, of length 1 (0 if they are all
    0). `shots` are the times in seconds at which a new shot begins, rising, without the beginning.
    """

    path: Path
    seconds: float
    picture_size: tuple[int, int]
    frames_N: np.ndarray
    features_ND: np.ndarray
    shots: tuple[float, ...]

    @property
    def step_seconds(self) -> float:
        """The time from one moment to the next."""
        return self.seconds / len(self.frames_N)
