"""Which images of a folder are the numbered frames of one video, by their names alone.

Such an image sequence has names that differ in numbers only, and one of the numbers differs in all of them: img_2.jpg,
img_10.jpg, img_11.jpg. Zeros in front and gaps do not matter. A date with a time of day counts as one number. Optical
flow, which the tools that extract frames write beside them as flow_x_00001.jpg, is passed over.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

VIDEO_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2"),
        *(".ts", ".mts", ".m2ts", ".ogv", ".gif", ".vob", ".mxf", ".asf"),
    ]
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])
DEFAULT_IMAGE_FPS = 25.0  # frames a second that a folder of images has where nothing else is given
_MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_DATE_AND_TIME = re.compile(r"([0-9]{4})\D?([0-9]{2})\D?([0-9]{2})\D{1,2}([0-9]{2})\D?([0-9]{2})\D?([0-9]{2})")
_FLOW = re.compile(r"flow_[xy]", re.IGNORECASE)
FolderKind = Literal["sequence", "unclear", "apart"]


def group_into_clips(files: Iterable[Path], *, apart: Collection[Path] = ()) -> tuple[list[Path], list[str]]:
    """The clips that videos and images are, sorted, with each image sequence as its folder, and what is unclear.

    Images directly in a folder of `apart` are clips by themselves, whatever their names.
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
    """Whether a file is a video or an image by its name, and not hidden."""
    return not name.startswith(".") and _split_suffix(name)[1] in _MEDIA_SUFFIXES


def _split_suffix(name: str) -> tuple[str, str]:
    """A name before its ending, and the ending with its dot in small letters; pathlib takes ten times as long."""
    stem, dot, ending = name.rpartition(".")
    return (stem, f".{ending.lower()}") if dot else (name, "")


def folder_kind(names: Sequence[str]) -> FolderKind:
    """Whether the videos and images of one folder are the frames of one video, clips apart, or neither for sure."""
    frames, videos = frame_names(names), sum(not _is_image(name) for name in names)
    alike = _is_numbered_sequence(frames)
    if alike and not videos:
        return "sequence"
    series = [len(named_alike) for named_alike in _group_by_pattern(frames).values() if len(named_alike) > 1]
    in_series = len(frames) if alike else sum(series)
    return "unclear" if in_series > videos and 2 * in_series >= len(frames) else "apart"


def describe_unclear(names: Sequence[str]) -> str:
    """What a folder holds beside or instead of the frames of one video."""
    videos = [name for name in names if not _is_image(name)]
    held = [*_group_by_pattern(frame_names(names)), *videos]
    if len(held) == 1:
        return f"holds several {held[0]} with the same number"
    more = f" and {len(held) - 3} more" if len(held) > 3 else ""
    return f"holds {', '.join(held[:3])}{more}, which are not the numbered frames of one video"


def number_pattern(name: str) -> str:
    """What is left of a name without its last number: cam1_*.jpg, or the name itself where it has none."""
    stem, ending = _split_suffix(name)
    return re.sub(r"[0-9]+(?=[^0-9]*$)", "*", stem) + ending


def frame_names(names: Iterable[str]) -> list[str]:
    """The names of images that may be frames, numbers in their order: img_2 before img_10."""
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
    """Texts and numbers of a name without its ending, in turn; it begins and ends with a text."""
    stem = _DATE_AND_TIME.sub(lambda found: "".join(found.groups()), _split_suffix(name)[0])
    pieces = re.split("([0-9]+)", stem.casefold())
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces))
