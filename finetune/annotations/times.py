"""Times as text: read from seconds or hours:minutes:seconds, and written in both forms."""

import math
import re

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_CLOCK = re.compile(r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")


def parse_seconds(text: str) -> float | None:
    """The seconds in `12.5`, `12,5`, `1:02.5` or `0:01:02.5`; None if the text is no time."""
    text = text.strip()
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = int(match[1] or 0), int(match[2]), float(match[3].replace(",", "."))
        if seconds >= 60 or (match[1] and minutes >= 60):
            return None
        return 3600 * hours + 60 * minutes + seconds
    return parse_number(text)


def parse_number(text: str) -> float | None:
    """A finite number with a decimal point or comma; None if the text is none."""
    text = text.strip()
    number = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def format_clock(seconds: float, *, decimal_mark: str = ".") -> str:
    """`HH:MM:SS.mmm`."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{decimal_mark}{rest % 1000:03}"
