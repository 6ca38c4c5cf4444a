"""The columns of arrays of objects (labels, targets of a clip, detections), and special values of masks."""

from collections.abc import Sequence

# Labels of a frame, (M, 9): pixels of the video, left and top corner; class -1 in rows without an object. `dx`, `dy`
# are pixels per frame, NaN where they are not known. `track` is the identity, -1 where there is none. `ignore` is 1 for
# objects that count neither as found nor as missed.
LABEL_FIELDS = ("class", "x", "y", "w", "h", "dx", "dy", "track", "ignore")
# Targets of a clip, (M, 8): fractions of the model's picture, (cx, cy) the centre; `state` is 1 for an object, -1 for
# one to ignore, 0 in rows without an object. `dx`, `dy` are per sampled frame, NaN where they are not known.
TARGET_FIELDS = ("state", "class", "cx", "cy", "w", "h", "dx", "dy")
# Detections of a frame, (D, 8), best first. From a model: (cx, cy, w, h) and motion as in targets; of a row or a video
# in pixels as in labels: (x, y, w, h). Rows without a detection have score 0.
DETECTION_FIELDS = ("x", "y", "w", "h", "score", "class", "dx", "dy")
MAX_DETECTIONS = 100  # D, of a frame
MIN_SCORE = 0.02  # of a detection: average precision needs those with low scores too

UNLABELLED = 255  # the value of pixels of a mask without a label
BACKGROUND = "background"  # the class of pixels that keep their colour where a mask is drawn


def background_index(classes: Sequence[str]) -> int | None:
    """The number of the class `background`; None without one."""
    return classes.index(BACKGROUND) if BACKGROUND in classes else None
