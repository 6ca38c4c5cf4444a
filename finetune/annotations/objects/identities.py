"""Identities of objects: numbers for the names that tools give, and tracks between labelled frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune.data.object_labels import MAX_IDENTITY

Box = tuple[float, float, float, float]  # left, top, width, height


class Identities:
    """Numbers for the identities of one file or video: the number itself where it is one, else a free number."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._used: set[int] = set()

    def number(self, identity: object, wanted: str | None = None) -> int | None:
        """The number of an identity, None for None; `wanted` is the text whose number is taken where it is free."""
        if identity is None:
            return None
        if identity not in self._numbers:
            text = str(identity) if wanted is None else wanted
            number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else -1
            if not 0 <= number <= MAX_IDENTITY or number in self._used:
                number = max(self._used, default=-1) + 1
            self._numbers[identity] = number
            self._used.add(number)
        return self._numbers[identity]


def boxes_between(keyframes: Sequence[tuple[int, Box, bool]], last: int, step: int = 1) -> Iterator[tuple[int, Box]]:
    """The box of each frame of a track from its keyframes (frame, box, whether it is visible from there on).

    Between two keyframes a box moves linearly. After the last one it stays until frame `last`. Frames count in
    `step`s from each keyframe.
    """
    for place, (frame, box, is_visible) in enumerate(keyframes):
        if not is_visible:
            continue
        if place + 1 < len(keyframes):
            following, target, _ = keyframes[place + 1]
        else:
            following, target = max(last, frame) + 1, box
        for number in range(frame, following, step):
            part = (number - frame) / (following - frame)
            left, top, width, height = (a + part * (b - a) for a, b in zip(box, target, strict=True))
            yield number, (left, top, width, height)
