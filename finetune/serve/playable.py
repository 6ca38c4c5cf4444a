"""Videos that a browser can play: a file as it is, or an H.264 copy of what it cannot play.

Runs in worker processes: a decoder that hangs or crashes costs one request.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.intervals import WHOLE
from finetune.errors import FinetuneError, VideoError
from finetune.prediction.inputs import InputVideo, find_inputs
from finetune.recipe.schema import Recipe
from finetune.serve.request import COPY_NAME, MediaRequest, report_progress
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.playable import playable_type
from finetune.video.decode.probe import scan
from finetune.video.decode.read import stream_frames
from finetune.video.encode import RecordingWriter

LONGEST_SIDE = 640  # pixels of a copy
MAX_SECONDS = 600.0  # of a copy
COPY_TYPE = "video/mp4"


def serve_media(request: MediaRequest, recipe: Recipe) -> dict[str, Any]:
    """{"media_type": type or None} for a file, and with `copy` a playable copy of the clip; or {"error": text}."""
    try:
        if not request.copy:
            return {"media_type": playable_type(request.path)}
        write_copy(request, recipe)
        return {"media_type": COPY_TYPE}
    except MemoryError:
        return {"error": f"{request.name}: takes too much memory to decode"}
    except FinetuneError as error:
        return {"error": str(error).replace(str(request.path), request.name)}


def write_copy(request: MediaRequest, recipe: Recipe) -> None:
    """Write the frames of a clip, small, as an MP4 file that begins at 0. Raises VideoError."""
    item: Any = request.path if request.interval == WHOLE else (request.path, *request.interval)
    video = find_inputs([item], recipe, image_sequences=True)[0]
    if isinstance(video.info, VideoError):
        raise video.info
    seconds_N = _times(video)
    count = int(np.searchsorted(seconds_N, MAX_SECONDS, side="right"))
    numbers = video.first_frame + np.arange(min(count, len(seconds_N)))
    scale = min(1.0, LONGEST_SIDE / max(video.info.height, video.info.width))
    size = max(2, round(scale * video.info.height)), max(2, round(scale * video.info.width))
    writer = RecordingWriter(request.folder / COPY_NAME, in_fragments=False)
    try:
        for position, (_, picture) in enumerate(
            stream_frames(video.path, numbers, size=size, layout=_layout(request.path))
        ):
            writer.write(picture, float(seconds_N[position]))
            report_progress(request.folder, position / len(numbers))
    finally:
        writer.close()


def _layout(path: Path) -> GopLayout | None:
    return None if path.is_dir() else scan(path)[1]


def _times(video: InputVideo) -> np.ndarray:
    """The times (N,) of a clip's frames in seconds from its first one, rising."""
    assert not isinstance(video.info, VideoError)
    times_N = video.source.times(video.path)[: video.info.num_frames]
    if np.isfinite(times_N).all() and all(before < after for before, after in pairwise(times_N.tolist())):
        return times_N - times_N[0]
    return np.arange(video.info.num_frames) / (video.info.fps or video.source.image_rate)
