"""Figures of summaries beside simple baselines: which events they show, and how well they agree with people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.metrics.summaries import (
    Correlation,
    Span,
    event_coverage,
    mean_correlation,
    people_correlation,
    rank_correlation,
    shown_shares,
    stretched,
)
from finetune.summaries.summary import Summary

RANDOM_DRAWS = 100  # whose mean is the figure of random summaries
COMPARED_MOMENTS = 2  # per second: scores of people are compared at so many moments, which changes ranks little


def coverage_figures(summaries: Sequence[Summary], events: Mapping[Path, Sequence[Span]]) -> dict[str, dict[str, Any]]:
    """`event_coverage` of the summaries, and of uniform and random summaries of as many parts and the same length.

    Summaries of recordings without events are left out; values are None where no recording has any. Random summaries
    have the mean of RANDOM_DRAWS, and no intervals.
    """
    known = [(summary, events[summary.path.resolve()]) for summary in summaries if summary.path.resolve() in events]
    ours = [shown_shares(of_one, [(part.start, part.end) for part in summary.parts]) for summary, of_one in known]
    uniform = [shown_shares(of_one, uniform_parts(summary)) for summary, of_one in known]
    rng = np.random.default_rng(0)
    draws = [
        event_coverage([shown_shares(of_one, random_parts(summary, rng)) for summary, of_one in known])
        for _ in range(RANDOM_DRAWS)
    ]
    has_events = draws[0]["events"] > 0
    random = {name: float(np.mean([draw[name] for draw in draws])) if has_events else None for name in ("half", "any")}
    return {"summary": event_coverage(ours), "uniform": event_coverage(uniform), "random": random}


def uniform_parts(summary: Summary) -> list[Span]:
    """As many parts as a summary has, equally long and evenly spaced, of the same length together."""
    number, seconds = len(summary.parts), summary.shown_seconds / len(summary.parts)
    middles = (np.arange(number) + 0.5) * summary.seconds / number
    return [(float(middle - seconds / 2), float(middle + seconds / 2)) for middle in middles]


def random_parts(summary: Summary, rng: np.random.Generator) -> list[Span]:
    """Like `uniform_parts`, but anywhere, without overlap."""
    number, seconds = len(summary.parts), summary.shown_seconds / len(summary.parts)
    gaps = np.sort(rng.uniform(0, max(0.0, summary.seconds - summary.shown_seconds), number))
    starts = gaps + np.arange(number) * seconds
    return [(float(start), float(start + seconds)) for start in starts]


def correlation_figures(summaries: Sequence[Summary], people: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Mean rank correlations with the scores of people: of the summaries' scores, of people, and of random scores.

    People are compared with each other. Random scores are expected to have 0, whatever the data; they are drawn
    RANDOM_DRAWS times to show it.
    """
    found: dict[str, list[Correlation]] = {"summary": [], "people": [], "random": []}
    rng = np.random.default_rng(0)
    for summary in (summary for summary in summaries if summary.path.stem in people):
        number = min(people[summary.path.stem].shape[1], max(2, round(summary.seconds * COMPARED_MOMENTS)))
        people_PN = np.stack([stretched(scores, number) for scores in people[summary.path.stem]])
        found["summary"].append(rank_correlation(stretched(summary.scores, number), people_PN))
        found["people"].append(people_correlation(people_PN))
        draws = [rank_correlation(rng.random(number), people_PN) for _ in range(RANDOM_DRAWS)]
        found["random"].append(Correlation(*np.mean(draws, axis=0).tolist()))
    return {name: mean_correlation(correlations) for name, correlations in found.items()}
