"""Which images of a folder are the numbered frames of one video, by their names alone.

Such an image sequence has names that differ in numbers only, and one of the numbers differs in all of them: img_2.jpg,
img_10.jpg, img_11.jpg. Zeros in front and gaps do not matter. A date with a time of day counts as one number. Optical
flow, which the tools that extract frames write beside them as flow_x_00001.jpg, is passed over.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

VIDEO_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2"),
        *(".ts", ".mts", ".m2ts", ".ogv", ".gif", ".vob", ".mxf", ".asf"),
    ]
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])
IMAGE_RATE = 25.0  # frames a second that a folder of images has where nothing else is given
_DATE_AND_TIME = re.compile(r"([0-9]{4})\D?([0-9]{2})\D?([0-9]{2})\D{1,2}([0-9]{2})\D?([0-9]{2})\D?([0-9]{2})")
_FLOW = re.compile(r"flow_[xy]", re.IGNORECASE)
Kind = Literal["sequence", "unclear", "apart"]


def clips_of(files: Iterable[Path], *, apart: Collection[Path] = ()) -> tuple[list[Path], list[str]]:
    """The clips that videos and images are, sorted, with each image sequence as its folder, and what is unclear.

    Images directly in a folder of `apart` are clips by themselves, whatever their names.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    clips, unclear = [], []
    for folder, inside in by_folder.items():
        kind = "apart" if folder in apart else kind_of([file.name for file in inside])
        clips += [folder] if kind == "sequence" else inside
        unclear += [f"{folder}: {why_unclear([file.name for file in inside])}"] if kind == "unclear" else []
    return sorted(clips), sorted(unclear)


def is_media(name: str) -> bool:
    """Whether a file is a video or an image by its name, and not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def kind_of(names: Sequence[str]) -> Kind:
    """Whether the videos and images of one folder are the frames of one video, clips apart, or neither for sure."""
    frames = frame_names(names)
    has_videos = any(Path(name).suffix.lower() not in IMAGE_SUFFIXES for name in names)
    if _are_numbered_alike(frames):
        return "unclear" if has_videos else "sequence"
    patterns = _patterns(frames)
    in_series = sum(len(alike) for alike in patterns.values() if len(alike) > 1)
    return "unclear" if len(patterns) > 1 and 2 * in_series >= len(frames) else "apart"


def why_unclear(names: Sequence[str]) -> str:
    """What a folder holds beside or instead of the frames of one video."""
    videos = [name for name in names if Path(name).suffix.lower() not in IMAGE_SUFFIXES]
    held = [*_patterns(frame_names(names)), *videos]
    more = f" and {len(held) - 3} more" if len(held) > 3 else ""
    return f"holds {', '.join(held[:3])}{more}, which are not the numbered frames of one video"


def pattern_of(name: str) -> str:
    """What is left of a name without its last number: cam1_*.jpg, or the name itself where it has none."""
    return re.sub(r"[0-9]+(?=[^0-9]*$)", "*", Path(name).stem) + Path(name).suffix.lower()


def frame_names(names: Iterable[str]) -> list[str]:
    """The names of images that may be frames, numbers in their order: img_2 before img_10."""
    images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted([name for name in images if not _FLOW.match(name)] or images, key=lambda name: (_pieces(name), name))


def _are_numbered_alike(names: Sequence[str]) -> bool:
    pieces = [_pieces(name) for name in names]
    texts = {piece[0::2] for piece in pieces}
    if len(names) < 2 or len(texts) > 1:
        return False
    columns = zip(*(piece[1::2] for piece in pieces), strict=True)
    return any(len(set(column)) == len(names) for column in columns)


def _patterns(names: Iterable[str]) -> dict[str, list[str]]:
    patterns: dict[str, list[str]] = defaultdict(list)
    for name in names:
        patterns[pattern_of(name)].append(name)
    return patterns


def _pieces(name: str) -> tuple[str | int, ...]:
    """Texts and numbers of a name without its ending, in turn; it begins and ends with a text."""
    stem = _DATE_AND_TIME.sub(lambda found: "".join(found.groups()), Path(name).stem)
    pieces = re.split("([0-9]+)", stem.casefold())
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces))
