"""Which files hold a clip, one or a folder of numbered images, and what tells that they have changed. No decoder."""

import hashlib
import os
from pathlib import Path
from stat import S_ISDIR

from finetune.errors import VideoError
from finetune.storage.numbered_images import describe_unclear, folder_kind, frame_names, is_media


def list_sequence_images(folder: Path) -> list[Path]:
    """The images of an image sequence, in order. Raises VideoError where the folder is none."""
    names = _media_in(folder)
    if not names:
        raise VideoError(f"{folder}: is a folder that holds no image")
    if len(names) > 1 and folder_kind(names) != "sequence":
        raise VideoError(f"{folder}: is a folder, and cannot be read as one clip: it {describe_unclear(names)}")
    return [folder / name for name in frame_names(names)]


def files_of(path: Path) -> list[Path]:
    """The path itself, or the images of a folder in order, whether they are a sequence or not."""
    return [path / name for name in frame_names(_media_in(path))] if path.is_dir() else [path]


def stamp(path: Path) -> tuple[int, int]:
    """The bytes of a clip, and its time of change in nanoseconds.

    Of a folder the bytes of its images, and a digest of their names, bytes and times of change. Raises OSError.
    """
    status = path.stat()
    if not S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    known = [(os.fsencode(name), *_stamp_of_image(path / name)) for name in _media_in(path)]
    digest = hashlib.blake2b(repr(known).encode(), digest_size=8).digest()
    return sum(size for _, size, _ in known), int.from_bytes(digest, "big") >> 1


def _stamp_of_image(path: Path) -> tuple[int, int]:
    """Zeros for a link to nothing."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _media_in(folder: Path) -> list[str]:
    """Names of the videos and images directly in a folder, sorted; links to nothing too, so that they are named."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_media(entry.name) and not entry.is_dir())
