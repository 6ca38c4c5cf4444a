"""Find the shots of a recording: the frames at which another camera, or another scene, begins.

Uses the adaptive detector of PySceneDetect, which compares the change of each frame with that of its neighbours, so
that a moving camera makes no cuts. Frames are handed to it one by one, as they are decoded for other purposes too.
"""

import cv2
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode

SHORTEST_SECONDS = 0.6  # of a shot
DETECTOR_HEIGHT = 72  # pixels; the detector averages over the picture, and its time grows with its size


class ShotDetector:
    """Collects the numbers of the frames that begin a new shot, in `cuts`, rising, from pictures given in order."""

    def __init__(self, frames_per_second: float) -> None:
        self.rate = float(frames_per_second)
        self.detector = AdaptiveDetector(min_scene_len=max(1, round(SHORTEST_SECONDS * frames_per_second)))
        self.cuts: list[int] = []

    def add(self, number: int, picture_HWC: np.ndarray) -> None:
        """Take the next frame, RGB uint8 (H, W, 3)."""
        height, width = picture_HWC.shape[:2]
        if height > DETECTOR_HEIGHT:
            size = max(1, round(width * DETECTOR_HEIGHT / height)), DETECTOR_HEIGHT
            picture_HWC = cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA)
        picture_HWC = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2BGR)
        found = self.detector.process_frame(FrameTimecode(number, self.rate), picture_HWC)
        self.cuts += [cut.frame_num for cut in found]
