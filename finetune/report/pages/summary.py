"""Write summary.html: the parts of recordings that their summaries show; a click plays the recording there.

The page holds everything but the videos, which it plays from their own paths. Its sentences are in
templates/summary.html.j2; its script and its time axis are those of the timeline page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.report.html_page import load_template, page_assets, picture_uri, write_page
from finetune.report.pages.timeline import colour_class, time_ticks
from finetune.summaries.summary import Part, Summary
from finetune.text import clock

MAX_RECORDINGS = 200  # on the page
MAX_PARTS, FEWEST_PARTS = 2000, 10  # of all recordings on the page; of each, if there are many
MAX_SHOTS = 1000  # lines on the axis of a recording


@dataclass(frozen=True)
class SummaryFiles:
    """What belongs to a summary on the page: JPEG pictures of its parts, and the files that were written.

    `cut` says in a sentence how the video was cut.
    """

    pictures: Mapping[Part, bytes] = field(default_factory=dict)
    storyboard: Path | None = None
    video: Path | None = None
    cut: str = ""


def write_summary_page(summaries: Sequence[Summary], files: Sequence[SummaryFiles], *, path: Path) -> None:
    """Write the page of the summaries, each with its files. Raises RunError where it cannot be written."""
    shown = summaries[:MAX_RECORDINGS]
    limit = max(FEWEST_PARTS, MAX_PARTS // max(1, len(shown)))
    labels = sorted({part.label for summary in shown for part in summary.parts if part.label})
    colours = {label: colour_class(number) for number, label in enumerate(labels, 1)}
    recordings = [
        _recording(place, summary, of, colours=colours, limit=limit, page=path)
        for place, (summary, of) in enumerate(zip(shown, files[: len(shown)], strict=True))
    ]
    html = load_template("summary.html.j2").render(
        recordings=recordings,
        num_recordings=len(summaries),
        num_parts=sum(len(summary.parts) for summary in summaries),
        are_frames=all(summary.is_storyboard for summary in summaries),
        seconds=sum(summary.seconds for summary in summaries),
        shown_seconds=sum(summary.shown_seconds for summary in summaries),
        legend=[(colour, label) for label, colour in colours.items()],
        clock=clock,
        **page_assets("timeline.css", "summary.css", script="timeline.js"),
    )
    try:
        write_page(path, html)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def _recording(
    place: int, summary: Summary, files: SummaryFiles, *, colours: Mapping[str, str], limit: int, page: Path
) -> dict[str, Any]:
    video = summary.path.absolute()
    seconds = max(summary.seconds, 1e-3)
    chosen = sorted(nlargest(limit, summary.parts, key=lambda part: part.score), key=lambda part: part.start)
    address = video.as_uri() if video.is_file() else ""
    return {
        "id": f"r{place}",
        "path": str(summary.path),
        "video": address,
        "seconds": seconds,
        "shown_seconds": summary.shown_seconds,
        "is_storyboard": summary.is_storyboard,
        "method": summary.method,
        "num_parts": len(summary.parts),
        "num_shots": len(summary.shots) + 1,
        "shots": _lines(summary.shots, seconds),
        "ticks": time_ticks(seconds),
        "storyboard": _address(files.storyboard, page),
        "cut_video": _address(files.video, page),
        "cut": files.cut,
        "has_pictures": bool(files.pictures),
        "parts": [
            {
                "id": f"r{place}p{number}",
                "start": part.start,
                "end": part.end,
                "score": part.score,
                "label": part.label or "",
                "style": colours.get(part.label or "", colour_class(0)),
                "left": 100 * part.start / seconds,
                "width": 100 * (part.end - part.start) / seconds,
                "picture": picture_uri(files.pictures[part]) if part in files.pictures else None,
                "link": f"{address}#t={part.start:.2f},{max(part.end, part.start + 1):.2f}" if address else "",
            }
            for number, part in enumerate(chosen)
        ],
    }


def _lines(times: Sequence[float], seconds: float) -> str:
    """An SVG path with a line at each time, in ten thousandths of the recording; at most MAX_SHOTS lines."""
    places = sorted({round(1e4 * time / seconds) for time in times})
    step = -(-len(places) // MAX_SHOTS) or 1
    return "".join(f"M{place} 0v1" for place in places[::step])


def _address(file: Path | None, page: Path) -> str:
    """The address of a file as a link on the page: relative where it lies below the page's folder."""
    if file is None:
        return ""
    return Path(file.absolute()).as_uri().removeprefix(f"{page.absolute().parent.as_uri()}/")
