"""Find folders whose images are the numbered frames of one video (image sequences), by the images' names alone.

The names in an image sequence differ only in numbers, and one of these numbers is different in every name: img_2.jpg,
img_10.jpg, img_11.jpg. Leading zeros and gaps do not matter. A date with a time of day counts as one number. Optical
flow next to the frames (flow_x_00001.jpg), as tools for extracting frames write it, is ignored.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from finetune.errors import shorten_list

VIDEO_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2"),
        *(".ts", ".mts", ".m2ts", ".ogv", ".gif", ".vob", ".mxf", ".asf"),
    ]
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])
DEFAULT_IMAGE_FPS = 25.0  # frames per second of an image sequence, if none are given
_MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_DATE_AND_TIME = re.compile(r"([0-9]{4})\D?([0-9]{2})\D?([0-9]{2})\D{1,2}([0-9]{2})\D?([0-9]{2})\D?([0-9]{2})")
_FLOW = re.compile(r"flow_[xy]", re.IGNORECASE)
FolderKind = Literal["sequence", "unclear", "apart"]


def group_into_clips(files: Iterable[Path], *, apart: Collection[Path] = ()) -> tuple[list[Path], list[str]]:
    """Clips of videos and images, sorted, and messages about folders that are unclear (see `folder_kind`).

    An image sequence is one clip, given by its folder. Images directly in a folder of `apart` are single clips,
    whatever their names.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    clips, unclear = [], []
    for folder, inside in by_folder.items():
        kind = "apart" if folder in apart else folder_kind([file.name for file in inside])
        clips += [folder] if kind == "sequence" else inside
        unclear += [f"{folder}: {describe_unclear([file.name for file in inside])}"] if kind == "unclear" else []
    return sorted(clips), sorted(unclear)


def is_media(name: str) -> bool:
    """Whether a file's name is that of a video or an image, and not hidden."""
    return not name.startswith(".") and _split_suffix(name)[1] in _MEDIA_SUFFIXES


def _split_suffix(name: str) -> tuple[str, str]:
    """The stem and the suffix of a name, the suffix in lower case with its dot; pathlib takes ten times as long."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot else (name, "")


def folder_kind(names: Sequence[str]) -> FolderKind:
    """Whether a folder's videos and images are the frames of one video (sequence) or single clips (apart).

    `unclear`: most of the images are numbered, but not as the frames of one video, or videos are among them.
    """
    frames, videos = frame_names(names), sum(not _is_image(name) for name in names)
    is_sequence = _is_numbered_sequence(frames)
    if is_sequence and not videos:
        return "sequence"
    series_lengths = [len(series) for series in _group_by_pattern(frames).values() if len(series) > 1]
    in_series = len(frames) if is_sequence else sum(series_lengths)
    return "unclear" if in_series > videos and 2 * in_series >= len(frames) else "apart"


def describe_unclear(names: Sequence[str]) -> str:
    """Why a folder's images are not the frames of one video, as the end of a sentence about the folder."""
    videos = [name for name in names if not _is_image(name)]
    patterns = [*_group_by_pattern(frame_names(names)), *videos]
    if len(patterns) == 1:
        return f"holds several {patterns[0]} with the same number"
    return f"holds {shorten_list(patterns, limit=3)}, which are not the numbered frames of one video"


def number_pattern(name: str) -> str:
    """The name with `*` for its last number: cam1_*.jpg; without a number, the name itself."""
    stem, suffix = _split_suffix(name)
    return re.sub(r"[0-9]+(?=[^0-9]*$)", "*", stem) + suffix


def frame_names(names: Iterable[str]) -> list[str]:
    """The names of images, in the order of their numbers (img_2 before img_10), without optical flow."""
    images = [name for name in names if _is_image(name)]
    return sorted(
        [name for name in images if not _FLOW.match(name)] or images, key=lambda name: (_natural_sort_key(name), name)
    )


def _is_numbered_sequence(names: Sequence[str]) -> bool:
    pieces = [_natural_sort_key(name) for name in names]
    texts = {piece[0::2] for piece in pieces}
    if len(names) < 2 or len(texts) > 1:
        return False
    columns = zip(*(piece[1::2] for piece in pieces), strict=True)
    return any(len(set(column)) == len(names) for column in columns)


def _is_image(name: str) -> bool:
    return _split_suffix(name)[1] in IMAGE_SUFFIXES


def _group_by_pattern(names: Iterable[str]) -> dict[str, list[str]]:
    patterns: dict[str, list[str]] = defaultdict(list)
    for name in names:
        patterns[number_pattern(name)].append(name)
    return patterns


@lru_cache(10_000)  # folders of one data set have the same names
def _natural_sort_key(name: str) -> tuple[str | int, ...]:
    """Texts and numbers of a name without its suffix, alternating; the first and the last are texts."""
    stem = _DATE_AND_TIME.sub(lambda match: "".join(match.groups()), _split_suffix(name)[0])
    pieces = re.split("([0-9]+)", stem.casefold())
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces))
