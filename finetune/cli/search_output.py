"""Hits of queries as tables, JSON or CSV."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.data.intervals import interval_text, seconds_text
from finetune.data.valid_names import escape_invisible
from finetune.errors import IndexFolderError
from finetune.retrieval.query import entry_interval
from finetune.storage.atomic import atomic_file
from finetune.text import count, spreadsheet_row

if TYPE_CHECKING:
    from finetune.retrieval.hits import Hit, Hits
    from finetune.retrieval.query import Query
    from finetune.vector_index.entry import Entry


def print_tables(found: Sequence[Hits]) -> None:
    """Print a table of the hits of each query."""
    for place, hits in enumerate(found):
        if place:
            print()
        print_wrapped(f"query {query_text(hits.query)}")
        if hits.hits:
            _print_hits(hits.hits)


def print_missing(found: Sequence[Hits], top_k: int, *, rows: int, same_group: bool) -> None:
    """Name on stderr the queries that have fewer than `top_k` hits, and why; `rows` of the index may be hits."""
    for hits in found:
        if len(hits.hits) < min(top_k, rows):
            number = count(len(hits.hits), "hit") if hits.hits else "no hits"
            print(f"{hits.query.name}: {number}; {_why_missing(hits, same_group=same_group)}", file=sys.stderr)


def _why_missing(hits: Hits, *, same_group: bool) -> str:
    if hits.query.entry is None:
        return "all other rows overlap a hit"
    if same_group:
        return "all other rows overlap the query or a hit"
    own = "are of the query's own file or group, which --same-group keeps"
    return f"all other rows {own}" + (", or overlap a hit" if hits.hits else "")


def query_text(query: Query) -> str:
    """The name of a query, with the clip of a row, and its labels if they are known."""
    if query.entry is None:
        return query.name
    labels = "; ".join(filter(None, label_cells(query.entry).values()))
    clip = [] if query.name.startswith(query.entry.path) else [shown_path(query.entry.path)]
    if query.name.startswith("row:"):
        times = interval_text(*entry_interval(query.entry))
        return ", ".join(filter(None, [query.name, *clip, times, labels]))
    return ", ".join(filter(None, [query.name, labels]))


def label_cells(entry: Entry) -> dict[str, str]:
    """The labels of an entry by task; several labels as `a;b`."""
    return {task: ";".join(names) for task, names in (entry.labels or {}).items()}


def shown_path(path: str) -> str:
    """A path in one line, relative to the current folder where it lies in that."""
    here = str(Path.cwd()).rstrip(os.sep) + os.sep
    return escape_invisible(path.removeprefix(here))


def print_json(found: Sequence[Hits]) -> None:
    """Print a list with an item for each query."""
    items = [
        {
            "query": hits.query.name,
            **({} if hits.query.row is None else {"row": hits.query.row}),
            **({} if hits.query.entry is None else _entry_json(hits.query.entry)),
            "hits": [{"row": hit.row, "score": round(hit.score, 6), **_entry_json(hit.entry)} for hit in hits.hits],
        }
        for hits in found
    ]
    print(json.dumps(items, indent=1, ensure_ascii=False))


def write_csv(file: Path, found: Sequence[Hits]) -> None:
    """Write a row for each hit. Its first columns are those of a manifest."""
    tasks = list(dict.fromkeys(task for hits in found for hit in hits.hits for task in hit.entry.labels or ()))
    columns = ["path", "start", "end", "boxes", *tasks, "group", "split", "query", "rank", "score", "row"]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(file) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out,
        ):
            lines = csv.writer(out)
            lines.writerow(spreadsheet_row(columns))
            for hits in found:
                for rank, hit in enumerate(hits.hits, 1):
                    cells = _place_cells(hit, tasks)
                    lines.writerow(spreadsheet_row([*cells, hits.query.name, rank, round(hit.score, 6), hit.row]))
    except OSError as error:
        raise IndexFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _place_cells(hit: Hit, tasks: Sequence[str]) -> list[object]:
    labels = label_cells(hit.entry)
    start, end = entry_interval(hit.entry)
    times = ["", ""] if (start, end) == (0, math.inf) else [seconds_text(start), seconds_text(end)]
    of_tasks = [labels.get(task, "") for task in tasks]
    return [hit.entry.path, *times, hit.entry.boxes or "", *of_tasks, hit.entry.group or "", hit.entry.split or ""]


def _print_hits(hits: Sequence[Hit]) -> None:
    tasks = list(dict.fromkeys(task for hit in hits for task in hit.entry.labels or ()))
    times = [interval_text(*entry_interval(hit.entry)) for hit in hits]
    columns: dict[str, Sequence[object]] = {
        "score": [f"{hit.score:.3f}" for hit in hits],
        "row": [hit.row for hit in hits],
        **{task: [label_cells(hit.entry).get(task) or "–" for hit in hits] for task in tasks},
        **({"time": times} if any(times) else {}),
        "clip": [shown_path(hit.entry.path) for hit in hits],
    }
    print_table(columns, right={"score", "row"})


def _entry_json(entry: Entry) -> dict[str, Any]:
    start, end = entry_interval(entry)
    is_part = (start, end) != (0, math.inf)
    return {
        "path": entry.path,
        **({"start": start, "end": None if math.isinf(end) else end} if is_part else {}),
        **({} if entry.boxes is None else {"boxes": entry.boxes}),
        **({"labels": entry.labels} if entry.labels else {}),
        **({} if entry.group is None else {"group": entry.group}),
        **({} if entry.split is None else {"split": entry.split}),
    }
