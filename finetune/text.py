"""Numbers as text, and names that anybody may have chosen, made safe for a terminal and for a spreadsheet."""

import math
import re
from collections.abc import Iterable
from pathlib import PurePath

# Control characters, but for tabs and the ends of lines; marks that turn the order of writing; halves of pairs.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    "|(?<!^)\r(?!\n)"  # inside a line it would write over its beginning
)
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # as a spreadsheet takes it, or that with apostrophes before it
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def escape_control_characters(text: str) -> str:
    r"""The text with what would steer a terminal as `\u001b`, which JSON reads back; all other characters stay."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def spreadsheet_cell(text: str) -> str:
    """The text with an apostrophe before what a spreadsheet would take for a formula; numbers stay."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def spreadsheet_row(cells: Iterable[object]) -> list[object]:
    """A row for a CSV file, its texts and paths by `spreadsheet_cell`."""
    return [spreadsheet_cell(str(cell)) if isinstance(cell, str | PurePath) else cell for cell in cells]


def from_spreadsheet_cell(text: str) -> str:
    """What `spreadsheet_cell` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text[1:]) and not NUMBER.fullmatch(text[1:]) else text


def count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(value: float | None) -> str:
    """To a tenth of a percent; only a true 0 or 1 shows as 0.0 or 100.0 %."""
    if value is None:
        return "–"
    tenths = math.floor(1000 * value + 0.5 + 1e-9)
    if 0 < value < 1:
        tenths = min(max(tenths, 1), 999)
    return f"{tenths / 10:.1f}\u00a0%"


def whole_percent(value: float | None) -> str:
    """For sentences: without tenths, except near 0 and 100 %, where they matter."""
    if value is None or 0 < value < 0.01 or 0.99 < value < 1:
        return percent(value)
    return f"{math.floor(100 * value + 0.5 + 1e-9)}\u00a0%"
