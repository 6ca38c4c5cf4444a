"""The figures that `finetune summarize` prints: events that summaries show, and rank correlation with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.cli.table import print_table
from finetune.text import count

if TYPE_CHECKING:
    import numpy as np

    from finetune.metrics.summaries import Span
    from finetune.summaries.summary import Summary


class References(NamedTuple):
    """What summaries are compared with: events by path, and scores of people by video id; None where not given."""

    events: Mapping[Path, Sequence[Span]] | None
    people: Mapping[str, np.ndarray] | None


def read_references(videos: Sequence[Path], events: Path | None, scores: Path | None) -> References:
    """Read both files. Raises DataError for a file that cannot be read, or has nothing about the videos."""
    from finetune.summaries.references import read_events, read_people_scores, require_known

    references = References(
        None if events is None else read_events(events), None if scores is None else read_people_scores(scores)
    )
    for known, file, by_name in ((references.events, events, False), (references.people, scores, True)):
        if known is not None and file is not None:
            require_known(videos, known, file, by_name=by_name)
    return references


def print_figures(summaries: Sequence[Summary], references: References) -> None:
    """Print a table for each file that was given."""
    if references == References(None, None):
        return
    from finetune.summaries.figures import correlation_figures, coverage_figures

    if references.events is not None:
        _print_coverage(coverage_figures(summaries, references.events))
    if references.people is not None:
        _print_correlations(correlation_figures(summaries, references.people))


def _print_coverage(figures: Mapping[str, Mapping[str, Any]]) -> None:
    ours = figures["summary"]
    print(f"{count(ours['events'], 'event')} in {count(ours['recordings'], 'recording')}, at the same length:")
    print_table(
        {
            "summary": list(figures),
            "at least half shown": [_with_interval(of, "half") for of in figures.values()],
            "any part shown": [_with_interval(of, "any") for of in figures.values()],
        }
    )


def _print_correlations(figures: Mapping[str, Mapping[str, Any]]) -> None:
    print("rank correlation with the scores of people:")
    print_table(
        {
            "scores": list(figures),
            "Kendall's tau": [_with_interval(of, "kendall") for of in figures.values()],
            "Spearman's rho": [_with_interval(of, "spearman") for of in figures.values()],
        }
    )


def _with_interval(values: Mapping[str, Any], name: str) -> str:
    if values.get(name) is None:
        return "-"
    low, high = values.get(f"{name}_ci") or (float("nan"), float("nan"))
    return f"{values[name]:.3f}" + (f" ({low:.3f} to {high:.3f})" if isfinite(high - low) else "")
