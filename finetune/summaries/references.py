"""Read what summaries are compared with: labelled events, and how important people find each moment of videos.

Scores are read from the annotation file of the TVSum data set: `ydata-tvsum50-anno.tsv` has a line for each person and
video, without a header: video id, category, and the scores of 1 to 5 that the person gave, separated by commas, one
for each frame. The number of scores is free: they are taken to be of
equally long moments. Source: Song, Vallmitjana, Stent and Jaimes, CVPR 2015.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.intervals import WHOLE
from finetune.data.manifest import Manifest
from finetune.errors import DataError, shorten_list

COLUMNS = 3
SHOWN_ERRORS = 5


def read_events(path: Path) -> dict[Path, list[tuple[float, float]]]:
    """The intervals of a CSV with path,start,end,label by resolved path. Raises DataError where it has none."""
    manifest = Manifest.from_csv(path, whole=True, checked=False)
    events: dict[Path, list[tuple[float, float]]] = {}
    for row in range(len(manifest)):
        if manifest.interval(row) != WHOLE:
            events.setdefault(manifest.path(row).resolve(), []).append(manifest.interval(row))
    if not events:
        raise DataError(f"{path}: no row has a start and an end, so there are no events")
    return events


def require_known(videos: Sequence[Path], known: Mapping[Any, Any], source: Path, *, by_name: bool) -> None:
    """Raise DataError where `source` has nothing about any of the videos: events by path, or scores by file name."""
    if not any((video.stem if by_name else video.resolve()) in known for video in videos):
        names = shorten_list(sorted(map(str, known)), limit=3)
        how = "the name of a file without its ending is the video id" if by_name else "paths are relative to the CSV"
        raise DataError(f"{source}: has none of the videos that were given; it has {names} ({how})")


def read_people_scores(path: Path) -> dict[str, np.ndarray]:
    """The scores of P people for N moments, (P, N), by video id. Raises DataError with the lines that are wrong."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    scores: dict[str, list[np.ndarray]] = defaultdict(list)
    errors = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            video, values = _read_line(line)
            first = scores[video][0] if scores[video] else values
            if len(values) != len(first):
                raise ValueError(f"{len(values)} scores, but the first person has {len(first)} for {video!r}")
            scores[video].append(values)
        except ValueError as error:
            errors.append(f"{path}:{number}: {error}")
    if errors:
        more = f"\nand {len(errors) - SHOWN_ERRORS} more lines" if len(errors) > SHOWN_ERRORS else ""
        raise DataError("\n".join(errors[:SHOWN_ERRORS]) + more)
    if not scores:
        raise DataError(f"{path}: has no scores")
    return {video: np.stack(of_video) for video, of_video in scores.items()}


def _read_line(line: str) -> tuple[str, np.ndarray]:
    """The video id and the scores; raises ValueError with what is wrong."""
    cells = line.split("\t")
    if len(cells) != COLUMNS:
        raise ValueError(
            f"{len(cells)} columns instead of {COLUMNS}: video id, category and scores, separated by tabs, as in "
            "ydata-tvsum50-anno.tsv of TVSum"
        )
    video, _, texts = (cell.strip() for cell in cells)
    try:
        values = np.array([float(text) for text in texts.split(",")])
    except ValueError:
        raise ValueError(f"the scores are not numbers separated by commas: {texts[:40]!r}") from None
    if not video or not np.isfinite(values).all():
        raise ValueError("the video id is empty" if not video else "a score is not a finite number")
    return video, values
