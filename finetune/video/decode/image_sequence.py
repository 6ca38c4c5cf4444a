"""Decode images of a folder of numbered images, which is one video: frame i is the i-th in the order of their numbers.

Each is opened and decoded as an image that is a clip by itself, and only those asked for. Such a folder has no frame
rate: its frames have no times here, and `recipe.Data.image_rate` gives them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from av.video.frame import VideoFrame

from finetune.errors import VideoError
from finetune.video.decode.container import decode_frames, open_video

NO_TIME = float("nan")


def image_frames(folder: Path, images: Sequence[Path], indices: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Those of the folder's images that are asked for, each with its index. Raises VideoError that names the image."""
    for index in indices:
        if index >= len(images):
            raise VideoError(f"{folder}: frame {index} was asked for, but it has {len(images)} images")
        with prefix_errors_with(folder), open_video(images[index]) as (container, stream):
            frame = next(decode_frames(images[index], container, stream), None)
            if frame is None:
                raise VideoError(f"{images[index]}: holds no picture that can be decoded")
            yield index, frame


@contextmanager
def prefix_errors_with(folder: Path) -> Iterator[None]:
    """A VideoError about an image begins with its folder, as all about one clip begin with the clip's path."""
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{folder}: {str(error).removeprefix(f'{folder}/')}") from None
