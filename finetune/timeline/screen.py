"""Show frames in a window on the screen, where there is one and OpenCV can open windows."""

import os
import re
import sys

import cv2
import numpy as np

from finetune.errors import RunError


def check_screen() -> None:
    """Raise RunError where no window can be opened; OpenCV itself would end the program."""
    if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
        raise RunError(
            "--show: this OpenCV cannot open windows; install the package opencv-python in place of "
            "opencv-python-headless, or write a video with --record"
        )
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise RunError("--show: there is no screen here (DISPLAY is not set); write a video with --record instead")


class Screen:
    """A window with the given title, inside a `with` block."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> "Screen":
        cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def show(self, frame_HWC: np.ndarray) -> bool:
        """Show a frame, uint8 RGB (H, W, 3); whether the window is still open: its user may close it, or press q."""
        cv2.imshow(self.title, cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        return key != ord("q") and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1
