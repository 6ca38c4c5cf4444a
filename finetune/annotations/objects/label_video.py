"""From the entries of annotation files about one video to its labelled frames, and what is wrong with them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.annotations.objects.frame_numbers import (
    VideoFrames,
    counting_rates,
    frame_at,
    frame_intervals,
    read_video_frames,
)
from finetune.annotations.objects.frame_objects import FrameObjects, LabelledRange, Size
from finetune.annotations.objects.identities import Identities
from finetune.data.intervals import frames_in_interval
from finetune.data.object_labels import OBJECT_SEPARATOR, LabelledObject
from finetune.data.valid_names import escape_invisible, has_forbidden_characters
from finetune.errors import DataError
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS

DECIMALS = 3  # of boxes, in pixels
OVERHANG = 0.5  # pixels outside the picture that are cut off without a note
SAME_SHAPE = 0.02  # by which the ratios of the sides of two pictures may differ
JUMP = 2.0  # sizes of a box that it may move between neighbouring frames, without a note
NEAR_FRAMES = 10  # labelled frames further apart are no neighbours


@dataclass(frozen=True)
class LabelledFrame:
    """A row of the manifest: a frame of a video, its interval in seconds (infinite: the end), and its objects.

    Boxes are in pixels of the video, whose width and height are `size`.
    """

    path: Path
    frame: int
    start: float
    end: float
    size: Size
    objects: tuple[LabelledObject, ...]
    split: str = ""
    scores: tuple[float, ...] | None = None


@dataclass
class Entries:
    """What the files say of one video: entries with their file and the number of their frame, and labelled ranges."""

    frames: list[tuple[Path, FrameObjects, int]] = field(default_factory=list)
    ranges: list[tuple[Path, LabelledRange]] = field(default_factory=list)

    @property
    def source(self) -> Path:
        """The first file that names the video."""
        return self.frames[0][0] if self.frames else self.ranges[0][0]


@dataclass
class Findings:
    """What is wrong, by file, and counts for the notes."""

    problems: dict[Path, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    jumps: list[str] = field(default_factory=list)


def label_video(
    video: VideoFrames, entries: Entries, findings: Findings, *, rate: float | None = None, every: int = 1
) -> list[LabelledFrame]:
    """The labelled frames of a video in order, at least `every` frames apart.

    `rate` counts the frames of the entries, instead of the video. What cannot be used is left out, and in `findings`.
    """
    by_frame: dict[int, list[tuple[LabelledObject, float | None]]] = {}
    splits: dict[int, str] = {}
    unusable: set[int] = set()
    identities = Identities()
    rates = counting_rates(video, entries.frames, entries.ranges, rate)
    for source, entry, number in _numbers(video, entries, rates, findings):
        splits[number] = splits.get(number) or entry.split
        items = _fitted_objects(source, entry, video, identities, findings)
        if items is None:
            unusable.add(number)
        else:
            by_frame.setdefault(number, []).extend(items)
    labelled = sorted({*by_frame, *_range_frames(video, entries, rates, findings)} - unusable)
    numbers = _thinned(labelled, every)
    findings.counts["labelled"] += len(labelled)
    findings.counts["kept"] += len(numbers)
    frames = _rows(video, {number: by_frame.get(number, []) for number in numbers}, splits, findings)
    findings.jumps += _jumps(frames)
    return frames


def _fitted_objects(
    source: Path, entry: FrameObjects, video: VideoFrames, identities: Identities, findings: Findings
) -> list[tuple[LabelledObject, float | None]] | None:
    """The objects and scores of an entry in pixels of the video; None if it is not known what or where they all are."""
    scale = _scale(source, entry, video, findings)
    if scale is None:
        return None
    problems = list(filter(None, map(_problem_of_class, entry.objects)))
    is_known = not problems
    items: list[tuple[LabelledObject, float | None]] = []
    for place, item in enumerate(entry.objects if is_known else ()):
        track = identities.number(None if item.track is None else (source, item.track), str(item.track))
        fitted = _fitted(item._replace(track=track), scale, video.size)
        if isinstance(fitted, str):
            problems.append(fitted)
            continue
        overhang = max(abs(a - b * c) for a, b, c in zip(fitted[1:5], item[1:5], scale * 2, strict=True))
        findings.counts["cut"] += overhang > OVERHANG
        items.append((fitted, None if entry.scores is None else entry.scores[place]))
    findings.problems[source] += [f"{entry.where}: {problem}".removeprefix(": ") for problem in problems]
    return items if is_known else None


def _numbers(
    video: VideoFrames, entries: Entries, rates: Mapping[Path, float | None], findings: Findings
) -> list[tuple[Path, FrameObjects, int]]:
    """The entries with the number of their frame in the video; those of frames that it lacks are problems.

    Of several entries that fall on one frame because they are counted at a higher rate, the first is taken.
    """
    count = len(video.times_N)
    numbers, outside = [], defaultdict(list)
    taken: set[tuple[Path, int]] = set()
    for source, entry, number in entries.frames:
        index = frame_at(video, number, rates[source])
        if not 0 <= index < count:
            outside[source].append((number, entry))
        elif rates[source] is None or (source, index) not in taken:
            taken.add((source, index))
            numbers.append((source, entry, index))
    for source, missing in outside.items():
        first, last = min(number for number, _ in missing), max(number for number, _ in missing)
        listed = f"frame {first} does" if len(missing) == 1 else f"{len(missing):,} frames, {first} to {last}, do"
        counts_from_1 = last == count and all(entry.image for _, entry in missing)
        hint = "; if the images are numbered from 1, use --first-frame 1" if counts_from_1 else ""
        findings.problems[source].append(f"{listed} not exist: {video.path} has frames 0 to {count - 1}{hint}")
    return numbers


def _range_frames(
    video: VideoFrames, entries: Entries, rates: Mapping[Path, float | None], findings: Findings
) -> set[int]:
    """The frames of the labelled ranges; a range may end a little after the video, as tools estimate its length."""
    count = len(video.times_N)
    numbers: set[int] = set()
    for source, labelled in entries.ranges:
        rate = rates[source]
        last = labelled.frames[-1] if labelled.frames else 0
        if rate is None and last > count + count // 50:
            findings.problems[source].append(f"labels frames up to {last}, but {video.path} has {count} frames")
        stop = count if rate is None else math.ceil((float(video.times_N[-1]) + 1) * rate)
        within = range(labelled.frames.start, min(labelled.frames.stop, stop), labelled.frames.step)
        numbers |= {index for number in within if (index := frame_at(video, number, rate)) < count}
    return numbers


def _scale(source: Path, entry: FrameObjects, video: VideoFrames, findings: Findings) -> tuple[float, float] | None:
    """What to multiply x and y with to get pixels of the video; None where the pictures have different shapes."""
    if entry.in_fractions:
        return float(video.size[0]), float(video.size[1])
    if entry.size is None or entry.size == video.size:
        return 1.0, 1.0
    x, y = video.size[0] / entry.size[0], video.size[1] / entry.size[1]
    if abs(x / y - 1) > SAME_SHAPE:
        (stated, real) = (f"{size[0]} × {size[1]}" for size in (entry.size, video.size))
        problem = f"its pictures have {stated} pixels, but {video.path} has {real}"
        if problem not in findings.problems[source]:
            findings.problems[source].append(problem)
        return None
    findings.counts["scaled"] += 1
    return x, y


def _problem_of_class(item: LabelledObject) -> str:
    """What is wrong with the class of an object; empty if nothing."""
    name = escape_invisible(item.name)[:60]
    if not item.name.strip():
        return "a box has no class"
    is_possible = OBJECT_SEPARATOR not in item.name and not has_forbidden_characters(item.name)
    return "" if is_possible else f"“{name}” cannot be a class, as it has “{OBJECT_SEPARATOR}” or control characters"


def _fitted(item: LabelledObject, scale: tuple[float, float], size: Size) -> LabelledObject | str:
    """The object in pixels of the video, cut off at its edges; or what is wrong with its box."""
    name = escape_invisible(item.name)[:60]
    corners = (item.x, item.y, item.x + item.w, item.y + item.h)
    left, top, right, bottom = (value * by for value, by in zip(corners, scale * 2, strict=True))
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return f"the box of {name} has no finite numbers"
    listed = ", ".join(f"{value:.7g}" for value in (left, top, right - left, bottom - top))
    if min(right - left, bottom - top) < 0.5 * 10**-DECIMALS:
        return f"the box of {name} has no area: {listed} (left, top, width, height)"
    left, right = (round(min(max(value, 0.0), size[0]), DECIMALS) for value in (left, right))
    top, bottom = (round(min(max(value, 0.0), size[1]), DECIMALS) for value in (top, bottom))
    width, height = round(right - left, DECIMALS), round(bottom - top, DECIMALS)
    if width <= 0 or height <= 0:
        return f"the box of {name} is outside the picture of {size[0]} × {size[1]} pixels: {listed}"
    return item._replace(name=item.name.strip(), x=left, y=top, w=width, h=height)


def _thinned(numbers: Sequence[int], every: int) -> list[int]:
    kept: list[int] = []
    for number in numbers:
        if not kept or number - kept[-1] >= every:
            kept.append(number)
    return kept


def _rows(
    video: VideoFrames,
    by_frame: Mapping[int, Sequence[tuple[LabelledObject, float | None]]],
    splits: Mapping[int, str],
    findings: Findings,
) -> list[LabelledFrame]:
    intervals_N2 = frame_intervals(video.times_N)
    frames = []
    for number, items in by_frame.items():
        start, end = intervals_N2[number].tolist()
        if frames_in_interval(video.times_N, start, end) != (number, 1):
            problem = f"frame {number} has no time of its own ({video.times_N[number]:g} s); copy the video anew"
            findings.problems[video.path].append(problem)
            continue
        unique = list(dict.fromkeys(items))
        findings.counts["repeated"] += len(items) - len(unique)
        objects = _without_shared_identities(video.path, number, unique, findings)
        scores = [score for _, score in objects if score is not None]
        frames.append(
            LabelledFrame(
                video.path,
                number,
                start,
                end,
                video.size,
                tuple(item for item, _ in objects),
                splits.get(number, ""),
                tuple(scores) if scores and len(scores) == len(objects) else None,
            )
        )
    return frames


def _without_shared_identities(
    path: Path, number: int, items: Sequence[tuple[LabelledObject, float | None]], findings: Findings
) -> list[tuple[LabelledObject, float | None]]:
    """The objects; of several with one identity the first, the others are problems."""
    seen: set[int] = set()
    unique = []
    for item, score in items:
        if item.track is not None and item.track in seen:
            findings.problems[path].append(f"frame {number}: two objects have the identity {item.track}")
            continue
        seen |= set() if item.track is None else {item.track}
        unique.append((item, score))
    return unique


def _jumps(frames: Sequence[LabelledFrame]) -> list[str]:
    """Where an identity moves further between neighbouring labelled frames than objects do."""
    last: dict[int, tuple[int, LabelledObject]] = {}
    jumps = []
    for frame in frames:
        for item in frame.objects:
            if item.track is None:
                continue
            number, before = last.get(item.track, (-NEAR_FRAMES - 1, item))
            last[item.track] = frame.frame, item
            passed = frame.frame - number
            moved = math.hypot(
                item.x + item.w / 2 - before.x - before.w / 2, item.y + item.h / 2 - before.y - before.h / 2
            )
            size = max(item.w, item.h, before.w, before.h)
            if passed <= NEAR_FRAMES and moved > JUMP * size * passed:
                jumps.append(
                    f"{item.name} #{item.track} at frame {frame.frame} of {frame.path.name}, {moved:.0f} pixels"
                )
    return jumps


def read_video(path: Path, entries: Entries, findings: Findings, rate: float | None) -> VideoFrames | None:
    """The frames of a video; None, with a problem of the file that names it, where it cannot be read.

    `rate` is that of numbered images.
    """
    try:
        return read_video_frames(path, image_rate=rate or DEFAULT_IMAGE_FPS)
    except DataError as error:
        findings.problems[entries.source].append(str(error))
        return None
