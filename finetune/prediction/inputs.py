"""What to predict: files, the clips within folders, and frames in memory; with the facts about each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.read import find_media
from finetune.errors import RunError, VideoError
from finetune.recipe.schema import Recipe
from finetune.video.dataset import FrameSource
from finetune.video.decode.frame_array import frame_array
from finetune.video.decode.probe import VideoInfo
from finetune.video.probe_files import Progress, probe_many


class InputVideo(NamedTuple):
    """One video, the facts about it or why it cannot be read, and where its frames come from."""

    path: Path
    info: VideoInfo | VideoError
    source: FrameSource


def list_inputs(inputs: Any) -> list[Any]:
    """One path, or one array of frames (T, H, W, 3), as a list of one; other iterables as a list."""
    return [inputs] if isinstance(inputs, str | Path) or hasattr(inputs, "shape") else list(inputs)


def find_inputs(
    inputs: Iterable[Any],
    recipe: Recipe,
    *,
    image_sequences: bool,
    frame_rate: float | None = None,
    progress: Progress | None = None,
) -> list[InputVideo]:
    """The videos of paths and of arrays or tensors of frames (T, H, W, 3), in order; `progress` counts files.

    The path of an array is `frames[i]`, where i is its position in `inputs`; arrays have `frame_rate` frames per
    second. Raises RunError where the recipe samples frames by time and `frame_rate` is None.
    """
    videos: list[tuple[Path, Any]] = []
    for position, item in enumerate(inputs):
        if isinstance(item, str | Path):
            videos += [(file, None) for file in find_media(Path(item), image_sequences=image_sequences)]
        elif frame_rate is None and recipe.clip.sampling == "fps":
            raise RunError("the run samples frames by time (clip.sampling is fps); give the frame_rate of the arrays")
        else:
            videos.append((Path(f"frames[{position}]"), item))
    files_info = iter(probe_many([path for path, frames in videos if frames is None], progress=progress))
    from_file = FrameSource(image_rate=recipe.data.image_rate)
    array_rate = frame_rate or recipe.data.image_rate
    return [
        InputVideo(path, next(files_info), from_file) if frames is None else _array_input(path, frames, array_rate)
        for path, frames in videos
    ]


def _array_input(path: Path, frames: Any, frame_rate: float) -> InputVideo:
    try:
        array = frame_array(frames, path)
    except VideoError as error:
        return InputVideo(path, error, FrameSource())
    return InputVideo(path, array.info, FrameSource(array.read, array.times, frame_rate))
