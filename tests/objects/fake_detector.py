"""A detector that knows where things are: two boxes that move, and a mask whose left half is class 1."""

import numpy as np

from finetune.objects.detect import FrameOutput
from finetune.video.encode import write_video

WIDTH, HEIGHT = 160, 120
CLASSES = ("car", "person")


def boxes_at(frame):
    """The true boxes (2, 4) of a frame: one moves to the right, one down."""
    return np.array([[5.0 + frame, 40, 50, 40], [110, 20 + 0.5 * frame, 30, 40]])


def detections_at(frame):
    return np.column_stack([boxes_at(frame), [0.9, 0.8], [0, 1], np.full((2, 2), np.nan)])


class FakeDetector:
    """Gives the true boxes of the frames that it is asked for, without those of `missed` frames."""

    def __init__(self, *, missed=(), with_mask=False):
        self.missed, self.with_mask = missed, with_mask
        self.frames = []

    def __call__(self, recording, frames_W):
        for frame in frames_W.tolist():
            self.frames.append(frame)
            mask = None
            if self.with_mask:
                mask = np.zeros((recording.info.height, recording.info.width), np.uint8)
                mask[:, : recording.info.width // 2] = 1
            yield FrameOutput(frame, detections_at(frame)[: 0 if frame in self.missed else None], mask)


def write_grey(path, frames=20, fps=25):
    """A video of `frames` grey frames."""
    write_video(path, np.full((frames, HEIGHT, WIDTH, 3), 90, np.uint8), fps=fps)
    return path
