"""From BORIS's single events to intervals: starts are paired with stops, and times are put into their files."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from finetune.annotations.annotation import Annotation

NO_SUBJECT = "No focal subject"  # BORIS's words for events without a subject


@dataclass(frozen=True)
class Moment:
    """One event: a point, or the start or stop of a state. `seconds` count from the start of the first file."""

    seconds: float
    subject: str
    label: str
    modifiers: str
    is_state: bool
    where: str


@dataclass(frozen=True)
class Player:
    """The files of an observation, which follow each other, and their lengths in seconds."""

    observation: str
    files: Sequence[str]
    lengths: Mapping[str, float]


def annotations_of_moments(player: Player, moments: Sequence[Moment]) -> tuple[list[Annotation], list[str]]:
    """Annotations of one observation, and messages about states that do not end.

    A start and the next event of the same subject, behavior and modifiers are a pair.
    """
    rows = []
    open_states: dict[tuple[str, str, str], Moment] = {}
    for moment in sorted(moments, key=lambda moment: moment.seconds):
        key = moment.subject, moment.label, moment.modifiers
        if moment.is_state and key not in open_states:
            open_states[key] = moment
            continue
        start = open_states.pop(key) if moment.is_state else moment
        rows.append(interval(moment.subject, moment.label, (start.seconds, moment.seconds), start.where))
    placed, problems = place_in_files(player, rows)
    problems += [
        f"{moment.where}: state event {moment.label!r}"
        f"{f' of {moment.subject}' if moment.subject else ''} starts at {moment.seconds:g} s and has no stop"
        for moment in open_states.values()
    ]
    return placed, problems


def interval(subject: str, label: str, times: tuple[float, float], where: str) -> Annotation:
    """An annotation that is not yet in a file; the subject is the tier."""
    return Annotation("", label, *times, tier=subject or NO_SUBJECT, subject=subject, where=where)


def place_in_files(player: Player, rows: Sequence[Annotation]) -> tuple[list[Annotation], list[str]]:
    """The rows with times from the start of their own file; those that run into a next file are divided.

    The rows of several files of one observation are one group.
    """
    if len(player.files) == 1:
        return [_moved(row, player, player.files[0], (row.start or 0, row.end or 0)) for row in rows], []
    unknown = [file for file in player.files if file not in player.lengths]
    if unknown:
        problem = f"observation {player.observation}: the length of {unknown[0]} is not known"
        problem += ", so times cannot be assigned to its files; import the BORIS project (.boris)"
        return [], [problem] * bool(rows)
    starts = [0.0]
    for file in player.files:
        starts.append(starts[-1] + player.lengths[file])
    placed: list[Annotation] = []
    outside: dict[str, int] = defaultdict(int)
    for row in rows:
        start, end = row.start or 0, row.end or 0
        parts = [
            _moved(row, player, file, (max(start - first, 0), min(end, last) - first))
            for file, first, last in zip(player.files, starts, starts[1:], strict=False)
            if (start < last and end > first) or (start == end and first <= start < last)
        ]
        placed += parts
        outside[row.where] += not parts
    return placed, [f"{where}: is after the end of the last file" for where, number in outside.items() if number]


def _moved(row: Annotation, player: Player, file: str, times: tuple[float, float]) -> Annotation:
    group = player.observation if len(player.files) > 1 else ""
    return replace(row, video=file, start=round(times[0], 6), end=round(times[1], 6), group=group)
