"""The summary of one recording, from features of its frames, its shots, and the events that a run found in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.summaries.choose import ROUNDING, Pieces, build_pieces, choose_pieces, divide, rank_pieces
from finetune.summaries.events_first import NamedEvent, choose_events, in_turns
from finetune.summaries.length import SummaryLength
from finetune.summaries.samples import Samples
from finetune.summaries.segments import segment_borders
from finetune.summaries.summary import Part, Summary

LONGEST_SECONDS = 4.0  # of a piece; longer segments are divided
SHORTEST_SECONDS = 2.0  # of a segment, as far as its shot allows: less is hard to make out
SHORTEST_REST = 1.0  # time that is left after all whole pieces is filled from here on
FEWEST_PARTS = 3  # pieces are shorter where the summary could not hold so many of them
PIECES_PER_FRAME = 2  # of a storyboard: the choice is made among so many pieces for each frame
BY_FEATURES, BY_EVENTS, WHOLE = "most representative parts", "events first", "the whole recording"


def summarize(samples: Samples, length: SummaryLength, *, events: Sequence[NamedEvent] | None = None) -> Summary:
    """The summary of a recording that was seen as `samples`; with `events`, these come first.

    Time that is left is filled with the pieces of the recording that represent it best (choose.py). A recording that
    is no longer than its summary is shown whole.
    """
    divided = _divide(samples, length)
    budget, method = length.budget(samples.seconds), BY_FEATURES if events is None else BY_EVENTS
    if length.frames is not None:
        parts = _choose_frames(divided, length.frames, events or ())
    elif budget >= samples.seconds:
        method, parts = WHOLE, [_part(divided, 0, len(divided.pieces), score=1.0)]
    else:
        parts = _choose_parts(divided, budget, events or ())
    return Summary(
        path=samples.path,
        seconds=samples.seconds,
        parts=tuple(sorted(parts, key=lambda part: part.start)),
        shots=samples.shots,
        method=method,
        picture_size=samples.picture_size,
        scores=_scores(divided, events or ()),
    )


@dataclass(frozen=True, eq=False)
class _Divided:
    """A recording and its C pieces; `times` (C + 1) are their borders in seconds, exact where a shot begins."""

    samples: Samples
    pieces: Pieces
    times: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """The length of each piece (C,)."""
        return np.diff(self.times)

    def moments(self, start: float, end: float) -> tuple[int, int]:
        """The moments of a time span, at least one: the first, and the one after the last."""
        first, after = round(start / self.samples.step_seconds), round(end / self.samples.step_seconds)
        first = min(first, len(self.samples.frames_N) - 1)
        return first, max(after, first + 1)


def _divide(samples: Samples, length: SummaryLength) -> _Divided:
    number, step = len(samples.frames_N), samples.step_seconds
    places = {round(time / step): time for time in samples.shots}
    shots = {place: time for place, time in places.items() if 0 < place < number}
    longest = LONGEST_SECONDS
    if length.frames is not None:
        longest = min(longest, samples.seconds / (PIECES_PER_FRAME * length.frames))
    else:
        longest = min(longest, max(SHORTEST_SECONDS, length.budget(samples.seconds) / FEWEST_PARTS))
    shortest = max(1, round(SHORTEST_SECONDS / step))
    borders = segment_borders(samples.features_ND, tuple(shots), shortest=shortest)
    most = max(1, int(longest / step + ROUNDING))
    borders = divide(borders, most, shortest=min(shortest, most))
    pieces = build_pieces(samples.features_ND, borders, shots)
    times = np.array([shots.get(border, border * step) for border in borders])
    return _Divided(samples, pieces, times)


def _choose_parts(divided: _Divided, budget: float, events: Sequence[NamedEvent]) -> list[Part]:
    shown = [
        Part(event.start, event.end, event.score, event.label, _middle_frame(divided, event))
        for event in choose_events(events, budget)
    ]
    left = budget - sum(part.seconds for part in shown)
    taken_C = _overlap(divided, shown) > 0
    costs_C = np.where(taken_C, np.inf, divided.seconds)
    similar_C = _similar_to(divided, shown)
    chosen = choose_pieces(divided.pieces, costs_C, left, shown=similar_C)
    left -= float(divided.seconds[chosen].sum())
    parts = [*shown, *_joined(divided, chosen)]
    if left >= SHORTEST_REST or not parts:
        rest = (piece for piece in rank_pieces(divided.pieces, divided.seconds, shown=similar_C) if piece not in chosen)
        piece = next((piece for piece in rest if not taken_C[piece]), None)
        if piece is not None:
            parts.append(_trimmed(divided, piece, left))
    return parts


def _choose_frames(divided: _Divided, number: int, events: Sequence[NamedEvent]) -> list[Part]:
    """Single frames: of an event the middle one, of a piece the one that is most like its mean."""
    shown = [
        Part(middle, middle, event.score, event.label, _middle_frame(divided, event))
        for event in in_turns(events)[:number]
        for middle in [(event.start + event.end) / 2]
    ]
    costs_C = np.where(_overlap(divided, [*events]) > 0, np.inf, 1.0)
    similar_C = _similar_to(divided, [*events])
    chosen = choose_pieces(divided.pieces, costs_C, number - len(shown), shown=similar_C)
    scores = _represented(divided, chosen)
    for piece, score in zip(chosen, scores, strict=True):
        moment = _typical_moment(divided, *divided.pieces.borders[piece : piece + 2])
        time = (moment + 0.5) * divided.samples.step_seconds
        shown.append(Part(time, time, score, None, int(divided.samples.frames_N[moment])))
    return list({part.frame: part for part in reversed(shown)}.values())  # a frame that is shown for long is one


def _joined(divided: _Divided, chosen: list[int]) -> list[Part]:
    """Parts of the chosen pieces; pieces of one shot that follow each other become one part."""
    shots = set(divided.samples.shots)
    scores = dict(zip(chosen, _represented(divided, chosen), strict=True))
    parts: list[tuple[int, int, float]] = []
    for piece in sorted(chosen):
        if parts and parts[-1][1] == piece and float(divided.times[piece]) not in shots:
            first, _, score = parts.pop()
            parts.append((first, piece + 1, score + scores[piece]))
        else:
            parts.append((piece, piece + 1, scores[piece]))
    return [_part(divided, first, after, score=score) for first, after, score in parts]


def _part(divided: _Divided, first: int, after: int, *, score: float) -> Part:
    """The part from piece `first` to before piece `after`."""
    borders = divided.pieces.borders
    frame = divided.samples.frames_N[_typical_moment(divided, borders[first], borders[after])]
    return Part(float(divided.times[first]), float(divided.times[after]), min(score, 1.0), None, int(frame))


def _trimmed(divided: _Divided, piece: int, seconds: float) -> Part:
    """The middle of a piece that is too long."""
    part = _part(divided, piece, piece + 1, score=_represented(divided, [piece])[0])
    start = (part.start + part.end - min(seconds, part.seconds)) / 2
    end = start + min(seconds, part.seconds)
    frame = divided.samples.frames_N[_typical_moment(divided, *divided.moments(start, end))]
    return Part(start, end, part.score, None, int(frame))


def _typical_moment(divided: _Divided, first: int, after: int) -> int:
    """The moment, of those from `first` to before `after`, whose features are nearest to their mean."""
    features_ND = divided.samples.features_ND[first:after]
    return first + int(((features_ND - features_ND.mean(0)) ** 2).sum(1).argmin())


def _middle_frame(divided: _Divided, event: NamedEvent) -> int:
    first, after = divided.moments(event.start, event.end)
    return int(divided.samples.frames_N[(first + after) // 2 if after - first > 1 else first])


def _overlap(divided: _Divided, spans: Sequence[Part | NamedEvent]) -> np.ndarray:
    """The seconds of each piece (C,) that lie in spans, which do not overlap each other."""
    overlap_C = np.zeros(len(divided.pieces))
    for span in spans:
        common_C = np.minimum(divided.times[1:], span.end) - np.maximum(divided.times[:-1], span.start)
        overlap_C += np.maximum(common_C, 0.0)
    return overlap_C


def _similar_to(divided: _Divided, spans: Sequence[Part | NamedEvent]) -> np.ndarray:
    """How similar each piece (C,) is to what spans show: to the most similar piece that lies in them by half."""
    inside_C = _overlap(divided, spans) >= divided.seconds / 2
    similarity_CC = divided.pieces.similarity_CC[inside_C]
    return similarity_CC.max(0) if len(similarity_CC) else np.zeros(len(divided.pieces), np.float32)


def _represented(divided: _Divided, chosen: list[int]) -> list[float]:
    """For each chosen piece, the share of the recording for which it is the most similar of them."""
    if not chosen:
        return []
    owners_C = divided.pieces.similarity_CC[chosen].argmax(0)
    seconds = np.bincount(owners_C, divided.seconds, minlength=len(chosen))
    return (seconds / divided.samples.seconds).tolist()


def _scores(divided: _Divided, events: Sequence[NamedEvent]) -> tuple[float, ...]:
    """How early each moment would be chosen, in 0…1. With events, these have the upper half of the range."""
    order = rank_pieces(divided.pieces, divided.seconds)
    scores_C = np.empty(len(order))
    scores_C[order] = 1 - np.arange(len(order)) / len(order)
    scores_N = np.repeat(scores_C, np.diff(divided.pieces.borders))
    if events:
        scores_N /= 2
    for event in sorted(events, key=lambda event: event.score):
        first, after = divided.moments(event.start, event.end)
        scores_N[first:after] = 0.5 + event.score / 2
    return tuple(scores_N.tolist())
