"""A burnt-in mark that gives classes away, and how it is reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.checks.finding import Finding
from finetune.errors import shorten_list
from finetune.text import whole_percent

PLACES_NAMED = 3
_ADVICE = {
    "mark": "Crop or cover this area in the clips of all classes (with ffmpeg's filters crop or delogo), or add clips "
    "without it.",
    "background": "Add clips of these classes from other places, or clips of other classes from this place.",
}


@dataclass(frozen=True)
class MarkPlace:
    """An area of the example's picture: left, top, width and height as shares of it, 0 to 1."""

    box: tuple[float, float, float, float]
    where: str


@dataclass(frozen=True, eq=False)
class Mark:
    """An area that looks the same in clips of different groups of some classes, and gives these classes away."""

    task: str  # prefix of messages; empty for a single task
    kind: Literal["mark", "background"]
    classes: tuple[str, ...]
    places: tuple[MarkPlace, ...]  # largest first
    anchor: str  # what places are measured from
    found: float  # recall: share of the classes' clips that the area alone predicts, in held-out groups
    mistaken: float  # false positive rate: share of other clips predicted as these classes
    grouped: bool  # False where no groups are given; each clip then counts as a group
    groups: int  # number of groups of the classes that were compared
    clips: int  # number of clips of the classes that were compared
    example: int  # row
    mean_jpeg: bytes  # the area and its surroundings, averaged over the clips with the mark

    @property
    def balanced_accuracy(self) -> float:
        return (self.found + 1 - self.mistaken) / 2


def mark_findings(marks: Sequence[Mark]) -> list[Finding]:
    return [Finding("warning", mark.kind, _describe(mark), _ADVICE[mark.kind]) for mark in marks]


def _describe(mark: Mark) -> str:
    classes = shorten_list([f"“{name}”" for name in mark.classes])
    same = "a mark" if mark.kind == "mark" else "the static background, or a mark across it, is the same"
    unseen = "groups" if mark.grouped else "clips (there are no groups)"
    accuracy, chance = whole_percent(mark.balanced_accuracy), whole_percent(0.5)
    return (
        f"{mark.task}Shortcut: {same} in clips of {classes}: {_describe_places(mark.places)}. This area alone "
        f"separates them from the other classes in unseen {unseen} with a balanced accuracy of {accuracy} "
        f"({chance} by chance): recall {whole_percent(mark.found)}, false positive rate {whole_percent(mark.mistaken)}."
    )


def _describe_places(places: Sequence[MarkPlace]) -> str:
    named = [
        f"{place.where} ({whole_percent(place.box[2])} × {whole_percent(place.box[3])} of the picture)"
        for place in places[:PLACES_NAMED]
    ]
    more = f" and {len(places) - PLACES_NAMED} more" if len(places) > PLACES_NAMED else ""
    return ", ".join(named) + more


def named_place(left: float, top: float, width: float, height: float) -> MarkPlace:
    """The area with its name, by the thirds of the picture in which its centre lies."""
    box = round(left, 4), round(top, 4), round(width, 4), round(height, 4)
    row, column = int(min(2, 3 * (top + height / 2))), int(min(2, 3 * (left + width / 2)))
    if width > 0.6 and height > 0.6:
        return MarkPlace(box, "around the picture")
    if width > 0.6:
        return MarkPlace(box, ("along the top", "across the middle", "along the bottom")[row])
    if height > 0.6:
        return MarkPlace(box, ("along the left side", "down the middle", "along the right side")[column])
    if row == 1:
        return MarkPlace(box, ("left side", "middle", "right side")[column])
    if column == 1:
        return MarkPlace(box, "top, middle" if row == 0 else "bottom, middle")
    return MarkPlace(box, f"{'upper' if row == 0 else 'lower'} {'left' if column == 0 else 'right'} corner")
