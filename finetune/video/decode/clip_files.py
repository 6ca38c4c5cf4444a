"""Which files make up a clip: one file or a folder of numbered images; and whether they changed. No decoder."""

import hashlib
import os
from pathlib import Path
from stat import S_ISDIR

from finetune.errors import VideoError
from finetune.storage.numbered_images import describe_unclear, folder_kind, frame_names, is_media


def list_sequence_images(folder: Path) -> list[Path]:
    """The images of an image sequence, in order. Raises VideoError where the folder is not one sequence."""
    names = _media_in(folder)
    if not names:
        raise VideoError(f"{folder}: is a folder without images")
    if len(names) > 1 and folder_kind(names) != "sequence":
        raise VideoError(f"{folder}: is a folder, and cannot be read as one clip: it {describe_unclear(names)}")
    return [folder / name for name in frame_names(names)]


def files_of(path: Path) -> list[Path]:
    """The path itself, or the images of a folder in order, even where they are not one sequence."""
    return [path / name for name in frame_names(_media_in(path))] if path.is_dir() else [path]


def stamp(path: Path) -> tuple[int, int]:
    """The size of a clip in bytes, and its modification time in nanoseconds: what changes when the file does.

    For a folder, the size of its images, and a digest of their names, sizes and modification times. Raises OSError.
    """
    status = path.stat()
    if not S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    images = [(os.fsencode(name), *_stamp_of_image(path / name)) for name in _media_in(path)]
    digest = hashlib.blake2b(repr(images).encode(), digest_size=8).digest()
    return sum(size for _, size, _ in images), int.from_bytes(digest, "big") >> 1


def _stamp_of_image(path: Path) -> tuple[int, int]:
    """(size, modification time); zeros for a broken link."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _media_in(folder: Path) -> list[str]:
    """Names of the videos and images directly in a folder, sorted; with broken links, so that errors name them."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_media(entry.name) and not entry.is_dir())
