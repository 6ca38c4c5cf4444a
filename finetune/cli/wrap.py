"""Long lines that commands print: broken at blanks on a terminal, which would break them inside words."""

import os
import re
import sys
from typing import TextIO

from rich.cells import cell_len


def terminal_width(stream: TextIO) -> int | None:
    """The number of columns of a terminal; None for a file or a pipe."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def wrap(text: str, width: int | None) -> str:
    """The text with lines of at most `width` characters, where it has blanks; what follows has the line's indent.

    A word is never broken, nor a command in backquotes, so that it can be copied.
    """
    return text if width is None else "\n".join(_wrap_line(line, width) for line in text.split("\n"))


def _wrap_line(line: str, width: int) -> str:
    if cell_len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")))
    lines = [""]
    for piece in re.finditer(r" *((?:`[^`]*`|[^ ])+)", line):
        if lines[-1].strip() and cell_len(lines[-1] + piece[0]) > width:
            lines.append(indent + piece[1])
        else:
            lines[-1] += piece[0]
    return "\n".join(lines)


def print_wrapped(text: str) -> None:
    """Print sentences on standard output."""
    print(wrap(text, terminal_width(sys.stdout)), flush=True)
