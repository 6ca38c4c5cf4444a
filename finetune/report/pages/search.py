"""Write the page of a search: each query and its hits, which play side by side from their own files.

The page holds everything but the videos. Its sentences are in templates/search.html.j2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.report.html_page import load_template, page_assets, picture_uri, write_page

MAX_HITS = 1000  # on the page


@dataclass(frozen=True)
class PageClip:
    """A clip with its labels, and the interval [start, end) of its file in seconds, (0, inf) for the whole file.

    `jpeg` is a picture of it. `problem` says why it cannot be shown.
    """

    path: str
    interval: tuple[float, float] = (0.0, math.inf)
    labels: str = ""
    jpeg: bytes | None = None
    is_playable: bool = False  # by a browser
    problem: str | None = None


@dataclass(frozen=True)
class PageQuery:
    """A query, with its clip unless it is words, and its hits as (score, clip), the best first."""

    name: str
    clip: PageClip | None
    hits: Sequence[tuple[float, PageClip]]


def write_search_page(queries: Sequence[PageQuery], *, path: Path, index: str, num_rows: int) -> None:
    """Write the page of queries to an index of `num_rows` rows. Raises RunError where it cannot be written."""
    left, shown = MAX_HITS, []
    for number, query in enumerate(queries):
        hits = [_hit(score, clip) for score, clip in query.hits[:left]]
        left -= len(hits)
        clip = None if query.clip is None else _clip(query.clip)
        shown.append({"id": f"q{number}", "name": query.name, "clip": clip, "hits": hits})
    num_hits = sum(len(query.hits) for query in queries)
    html = load_template("search.html.j2").render(
        index=index,
        num_rows=num_rows,
        queries=shown,
        num_hits=num_hits,
        num_shown=MAX_HITS - left,
        **page_assets("search.css", script="search.js"),
    )
    try:
        write_page(path, html)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def _hit(score: float, clip: PageClip) -> dict[str, Any]:
    return _clip(clip) | {"score": score}


def _clip(clip: PageClip) -> dict[str, Any]:
    start, end = clip.interval
    file = Path(clip.path)
    return {
        "path": clip.path,
        "name": file.name,
        "folder": str(file.parent),
        "labels": clip.labels,
        "start": start,
        "end": None if math.isinf(end) else end,
        "times": _times(start, end),
        "file": file.as_uri() if file.is_absolute() else "",
        "fragment": _fragment(start, end),
        "is_playable": clip.is_playable,
        "picture": None if clip.jpeg is None else picture_uri(clip.jpeg),
        "problem": clip.problem,
    }


def _times(start: float, end: float) -> str:
    if math.isinf(end):
        return "" if start == 0 else f"from {start:.6g} s"
    return f"{start:.6g} to {end:.6g} s"


def _fragment(start: float, end: float) -> str:
    """The media fragment of an interval, by which a browser plays that alone."""
    if (start, end) == (0.0, math.inf):
        return ""
    return f"#t={start:.6f}" + ("" if math.isinf(end) else f",{end:.6f}")
