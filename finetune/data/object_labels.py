"""The objects of a labelled frame as the text of a manifest's cell, `car:12,30,40,50#3;person:1,2,30.5,40`.

An object is `class:left,top,width,height` in pixels of the video. `#3` after it is its identity in the file; `!` at the
end marks an object to ignore: it counts neither as found nor as missed. A class may contain any character but `;`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from finetune.data.valid_names import escape_invisible
from finetune.errors import DataError, shorten_list
from finetune.text import parse_number

OBJECT_SEPARATOR = ";"
MAX_IDENTITY = 2**53  # larger ones are not exact as floating-point numbers
_OBJECT = re.compile(r"(?P<name>.*):(?P<box>[^:#!]*)(?P<identity>#[^:#!]*)?(?P<ignore>!)?", re.DOTALL)
_FORM = "class:left,top,width,height, with #identity and ! (ignore) after it where they apply"


class LabelledObject(NamedTuple):
    """An object: the left and top edge, the width and the height of its box in pixels of the video.

    `track` is its identity, 0 or more, within the file.
    """

    name: str
    x: float
    y: float
    w: float
    h: float
    track: int | None = None
    ignore: bool = False


def parse_objects(cell: str) -> list[LabelledObject]:
    """The objects of a cell, in its order; an empty cell has none.

    Raises DataError, which names all errors: text of another form, boxes without area, identities that occur twice.
    """
    objects, problems = [], []
    for text in filter(None, map(str.strip, cell.split(OBJECT_SEPARATOR))):
        try:
            objects.append(_parse_object(text))
        except DataError as error:
            problems.append(f"{escape_invisible(text)!r} {error}")
    identities = [item.track for item in objects if item.track is not None]
    repeated = sorted({f"#{identity}" for identity in identities if identities.count(identity) > 1})
    if repeated:
        problems.append(f"identity {', '.join(repeated)} is given to several objects of the frame")
    if problems:
        raise DataError(shorten_list(problems))
    return objects


def _parse_object(text: str) -> LabelledObject:
    match = _OBJECT.fullmatch(text)
    if match is None or not (name := match["name"].strip()):
        raise DataError(f"is not an object, {_FORM}")
    numbers = [parse_number(part) for part in match["box"].split(",")]
    if len(numbers) != 4 or None in numbers:
        raise DataError(f"does not end in the four numbers of a box: {_FORM}")
    left, top, width, height = (number for number in numbers if number is not None)
    if min(width, height) <= 0:
        raise DataError(f"has a box of {width:g} x {height:g} pixels; it needs an area")
    return LabelledObject(name, left, top, width, height, _parse_identity(match["identity"]), bool(match["ignore"]))


def _parse_identity(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"#\s*[0-9]{1,16}\s*", text) or int(text[1:]) > MAX_IDENTITY:
        raise DataError(f"has the identity {escape_invisible(text)}; it is a whole number from 0 on, as in #3")
    return int(text[1:])


def objects_text(objects: Iterable[LabelledObject]) -> str:
    """The cell from which `parse_objects` reads the same objects; an empty text without any.

    Raises DataError for a class that a cell cannot hold: one that is empty, contains `;`, or has blanks at its ends.
    """
    return OBJECT_SEPARATOR.join(map(_object_text, objects))


def _object_text(item: LabelledObject) -> str:
    if not item.name or item.name != item.name.strip() or OBJECT_SEPARATOR in item.name:
        raise DataError(
            f"the class {escape_invisible(item.name)!r} is empty, contains {OBJECT_SEPARATOR!r}, or has blanks at its "
            "ends; rename it"
        )
    box = ",".join(map(_number_text, (item.x, item.y, item.w, item.h)))
    identity = "" if item.track is None else f"#{item.track}"
    return f"{item.name}:{box}{identity}{'!' if item.ignore else ''}"


def _number_text(number: float) -> str:
    return repr(float(number)).removesuffix(".0")
