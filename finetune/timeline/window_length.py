"""How long the windows of a run are: as long as the clips that it was trained on."""

from typing import NamedTuple

import numpy as np

from finetune.errors import RunError, VideoError
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run, read_environment
from finetune.video.probe_files import probe_many

MAX_PROBED_FILES = 50  # of a run that did not record the length of its clips


class WindowLength(NamedTuple):
    """`origin` says in words where the length is from."""

    seconds: float
    origin: str


def window_length(run: Run) -> WindowLength:
    """The typical length of a run's training clips, which it recorded, or else the median of its training files.

    Raises RunError where neither is known.
    """
    environment = read_environment(run.folder) or {}
    seconds = environment.get("decided", {}).get("clip_seconds")
    if isinstance(seconds, int | float) and 0 < seconds < float("inf"):
        return WindowLength(float(seconds), "the length of the run's training clips")
    manifest = saved_manifest(run, needs_files=False)
    rows = manifest.rows("train")
    paths = [path for path in dict.fromkeys(manifest.path(int(row)) for row in rows) if path.exists()]
    paths = (
        [paths[place * len(paths) // MAX_PROBED_FILES] for place in range(MAX_PROBED_FILES)]
        if len(paths) > MAX_PROBED_FILES
        else paths
    )
    known = [info.duration_seconds for info in probe_many(paths) if not isinstance(info, VideoError)]
    known = [seconds for seconds in known if seconds > 0]
    if not known:
        raise RunError(
            f"{run.folder}: does not say how long its training clips are, and they are no longer there; "
            "`finetune timeline` and `finetune watch` take it from --window SECONDS"
        )
    return WindowLength(float(np.median(known)), f"the median length of {len(known)} of the run's training files")
