"""`finetune search INDEX --evaluate`: how well an index finds clips of the same class, as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.text import count

NAMES = {
    "map": "mAP",
    "map_at_r": "mAP@R",
    "recall_1": "recall@1",
    "recall_5": "recall@5",
    "recall_10": "recall@10",
    "median_rank": "median rank",
}


def print_index_figures(index: Path, *, within: Sequence[str], same_group: bool, as_json: bool) -> None:
    """Evaluate the labelled rows of an index, and print the figures."""
    from finetune.retrieval.allowed_rows import allowed_rows
    from finetune.retrieval.evaluate_index import evaluate_index
    from finetune.vector_index.index import VectorIndex

    opened = VectorIndex.open(index)
    figures = evaluate_index(opened, allowed=allowed_rows(opened, within), same_group=same_group)
    if as_json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
        return
    _print_queries(figures)
    if not figures["num_queries"]:
        return
    print_table(
        {
            "metric": list(NAMES.values()),
            "value": [_number(key, figures[key]) for key in NAMES],
            "95 % interval": [_interval(key, figures[f"{key}_ci"]) for key in NAMES],
            "chance": [_number(key, figures[f"{key}_chance"]) for key in NAMES],
        },
        right=("value", "chance"),
    )
    print()
    rows = figures["per_class"]
    columns: dict[str, list[object]] = {
        "class": [row["class"] for row in rows],
        "queries": [row["queries"] for row in rows],
    }
    for key in ("map", "recall_1", "recall_5", "median_rank"):
        columns[NAMES[key]] = [_number(key, row[key]) for row in rows]
    print_table(columns, right=[name for name in columns if name != "class"])


def _print_queries(figures: Mapping[str, Any]) -> None:
    drawn = f", drawn at random from {figures['sampled_from']:,}" if figures["sampled_from"] else ""
    galleries = f"; each ranks about {figures['gallery_size']:.0f} rows" if figures["num_queries"] else ""
    left_out = "" if figures["same_group"] else ", those of its own group or file left out"
    groups = count(figures["num_groups"], "group or file", "groups or files")
    print_wrapped(f"{count(figures['num_queries'], 'query', 'queries')}{drawn} of {groups}{galleries}{left_out}")
    if figures["num_without_match"]:
        classes = ", ".join(f"{name} {number}" for name, number in figures["without_match"].items())
        print_wrapped(f"not counted, with no right row to find: {figures['num_without_match']} ({classes})")


def _number(key: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if key == "median_rank" else f"{value:.3f}"


def _interval(key: str, ends: Sequence[float] | None) -> str:
    return "unknown" if ends is None else f"{_number(key, ends[0])} to {_number(key, ends[1])}"
