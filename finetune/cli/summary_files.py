"""The files that `finetune summarize` writes."""

import csv
from collections.abc import Sequence
from pathlib import Path

from finetune.storage.atomic import atomic_file
from finetune.summaries.summary import Summary
from finetune.text import spreadsheet_row

PARTS_FILE = "parts.csv"
COLUMNS = ("path", "start", "end", "label", "score", "frame")


def write_recording(out: Path, summary: Summary) -> list[Path]:
    """Write the files of one recording, as soon as it is summarised; returns their paths."""
    return []


def write_summaries(out: Path, summaries: Sequence[Summary]) -> list[Path]:
    """Write the files of all recordings together; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    _write_parts(out / PARTS_FILE, summaries)
    return [out / PARTS_FILE]


def _write_parts(path: Path, summaries: Sequence[Summary]) -> None:
    """One row for each part; times in seconds, and the number of the frame that is its picture."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for summary in summaries:
            for part in summary.parts:
                times = [f"{time:.3f}" for time in (part.start, part.end)]
                row = [summary.path, *times, part.label or "", f"{part.score:.4f}", part.frame]
                writer.writerow(spreadsheet_row(row))
