"""Which events of a recording its summary shows: each once, in turns of classes, shortened where not all fit."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

SHORTEST_SHARE = 0.5  # of an event that is shown, so that it can be recognised
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 10.0  # of an event that is shown


class NamedEvent(NamedTuple):
    """An event of a class, from `start` to `end` in seconds; `score` is in 0…1."""

    start: float
    end: float
    label: str
    score: float


def in_turns(events: Sequence[NamedEvent]) -> list[NamedEvent]:
    """The best event of each class, then the second best of each, and so on; inside a turn by score."""
    by_class: dict[str, list[NamedEvent]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (-event.score, event.start)):
        by_class[event.label].append(event)
    turns = [(turn, event) for of_class in by_class.values() for turn, event in enumerate(of_class)]
    return [event for _, event in sorted(turns, key=lambda item: (item[0], -item[1].score, item[1].start))]


def choose_events(events: Sequence[NamedEvent], budget: float) -> list[NamedEvent]:
    """The events to show, with the time of each that is shown, in at most `budget` seconds, in order of choice.

    Of an event longer than LONGEST_SECONDS its middle is shown. Where not all fit, all are shortened to their middle by
    the same factor, down to half and to a second; then those of the last turns are left out. Events that overlap a
    chosen one are left out. The first event is always shown, if need be in less.
    """
    apart: list[NamedEvent] = []
    for event in in_turns(events):
        if all(event.end <= other.start or event.start >= other.end for other in apart):
            apart.append(event)
    total = sum(map(_longest, apart))
    factor = 1.0 if total <= budget else max(SHORTEST_SHARE, budget / total)
    chosen: list[NamedEvent] = []
    for event in apart:
        seconds = min(_longest(event), max(factor * _longest(event), SHORTEST_SECONDS))
        seconds = seconds if chosen else min(seconds, budget)
        if seconds <= budget + 1e-9:
            budget -= seconds
            chosen.append(_middle(event, seconds))
    return chosen


def _longest(event: NamedEvent) -> float:
    return min(event.end - event.start, LONGEST_SECONDS)


def _middle(event: NamedEvent, seconds: float) -> NamedEvent:
    middle = (event.start + event.end) / 2
    start = max(event.start, middle - seconds / 2)
    return event._replace(start=start, end=min(event.end, start + seconds))
