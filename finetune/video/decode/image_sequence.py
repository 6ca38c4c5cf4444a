"""Decode the images of a folder of numbered images, which is one video: frame i is the i-th image by number.

Only the images asked for are opened, each like an image that is a clip by itself. Such a folder has no frame rate, so
its frames have no times here; they follow from `data.image_rate` of the recipe.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from av.video.frame import VideoFrame

from finetune.errors import VideoError
from finetune.video.decode.container import decode_frames, open_video

NO_TIME = float("nan")


def image_frames(folder: Path, images: Sequence[Path], indices: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """(index, frame) for each of `indices`. Raises VideoError that names the image."""
    for index in indices:
        if index >= len(images):
            raise VideoError(f"{folder}: frame {index} was asked for, but it has {len(images)} images")
        with prefix_errors_with(folder), open_video(images[index]) as (container, stream):
            frame = next(decode_frames(images[index], container, stream), None)
            if frame is None:
                raise VideoError(f"{images[index]}: contains no picture that can be decoded")
            yield index, frame


@contextmanager
def prefix_errors_with(folder: Path) -> Iterator[None]:
    """Make a VideoError about an image begin with its folder: every error about a clip begins with the clip's path."""
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{folder}: {str(error).removeprefix(f'{folder}/')}") from None


def require_one_size(folder: Path, sizes: Mapping[tuple[int, int], Path]) -> None:
    """Raises VideoError where there are several: `sizes` has an image for each displayed (width, height) in pixels."""
    if len(sizes) > 1:
        listed = " and ".join(f"{image.name} {width} x {height}" for (width, height), image in sizes.items())
        raise VideoError(f"{folder}: its images differ in size: {listed} pixels; bring them to one size")
