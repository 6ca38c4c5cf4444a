"""What the server asks a worker process to compute, and the names of the files that it writes.

A worker process can be killed at any time, so it writes into the folder of its request alone.
"""

from dataclasses import dataclass
from pathlib import Path

from finetune.data.intervals import WHOLE

PROGRESS_FILE, COPY_NAME = "progress", "play.mp4"
PICTURES = {"frames": "frame", "heatmaps": "heatmap"}  # name of a kind in results, and how its files begin


@dataclass(frozen=True)
class VideoRequest:
    """What to compute of one clip; files are written into `folder`. `name` stands for the path in messages."""

    path: Path
    folder: Path
    name: str
    interval: tuple[float, float] = WHOLE
    boxes: str = ""
    predict: bool = True
    pictures: bool = True
    heatmap: bool = False
    events: bool = False
    calibrated: bool = False
    top_k: int = 5
    reject: float | None = None


@dataclass(frozen=True)
class MediaRequest:
    """Whether browsers play a file as it is; with `copy`, a copy of the clip that they play, written into `folder`."""

    path: Path
    folder: Path
    name: str
    interval: tuple[float, float] = WHOLE
    copy: bool = False


def picture_name(kind: str, number: int) -> str:
    """The file name of a picture of a kind, a key of PICTURES."""
    return f"{PICTURES[kind]}-{number:03}.jpg"


def report_progress(folder: Path, share: float) -> None:
    """Write how much of a request is done, from 0 to 1."""
    (folder / PROGRESS_FILE).write_text(f"{share:.3f}")


def read_progress(folder: Path) -> float:
    """How much of a request is done, from 0 to 1."""
    try:
        return float((folder / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return 0.0
