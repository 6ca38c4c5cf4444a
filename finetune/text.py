"""Format numbers as text, and make untrusted names safe for terminals and spreadsheets."""

import math
import re
from collections.abc import Iterable
from pathlib import PurePath

# Control characters except tabs and line ends; marks that change the direction of text; surrogates.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    "|(?<!^)\r(?!\n)"  # inside a line it would overwrite the line's beginning
)
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet reads as a formula, also after apostrophes
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def escape_control_characters(text: str) -> str:
    r"""The text with control characters as JSON escapes such as `\u001b`; all other characters stay."""
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def spreadsheet_cell(text: str) -> str:
    """The text, after an apostrophe if a spreadsheet would read it as a formula; numbers stay."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def spreadsheet_row(cells: Iterable[object]) -> list[object]:
    """A row for a CSV file, with `spreadsheet_cell` applied to texts and paths."""
    return [spreadsheet_cell(str(cell)) if isinstance(cell, str | PurePath) else cell for cell in cells]


def from_spreadsheet_cell(text: str) -> str:
    """The inverse of `spreadsheet_cell`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text[1:]) and not NUMBER.fullmatch(text[1:]) else text


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 clip`, `1,200 clips`; `many` is the plural where it is not `one` + s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A time to wait in the largest units that it needs: `25 s`, `12 min`, `3 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float, *, tenths: bool = True) -> str:
    """A time as on a player: `1:02.5` or `1:00:02.5`."""
    whole = round(10 * seconds) if tenths else 10 * round(seconds)
    minutes, rest = divmod(whole, 600)
    text = f"{rest // 10:02}" + (f".{rest % 10}" if tenths else "")
    return f"{minutes // 60}:{minutes % 60:02}:{text}" if minutes >= 60 else f"{minutes}:{text}"


def with_unit(value: float, unit: str) -> str:
    """A size with a decimal prefix and three digits: `269 kbit/s`, `1.68 Mbit/s`, `41 MB` of 41e6 and "B"."""
    rounded = float(f"{value:.3g}")
    factor, prefix = next((pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if rounded >= pair[0]), (1, ""))
    return f"{rounded / factor:g} {prefix}{unit}"


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal; only exactly 0 or 1 shows as 0.0 or 100.0 %. None is `–`."""
    if value is None:
        return "–"
    tenths = math.floor(1000 * value + 0.5 + 1e-9)
    if 0 < value < 1:
        tenths = min(max(tenths, 1), 999)
    return f"{tenths / 10:.1f}\u00a0%"


def whole_percent(value: float | None) -> str:
    """A fraction as a whole percentage, for sentences; below 1 % and above 99 % with one decimal."""
    if value is None or 0 < value < 0.01 or 0.99 < value < 1:
        return percent(value)
    return f"{math.floor(100 * value + 0.5 + 1e-9)}\u00a0%"


def parse_number(text: str) -> float | None:
    """The finite number that a text is, as Python writes it; None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
