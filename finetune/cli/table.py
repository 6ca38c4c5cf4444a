"""Tables that commands print: a row is one line, or on a terminal that is too narrow for it two or more."""

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len

_GAP, _INDENT = "  ", "    "


def print_table(columns: Mapping[str, Sequence[object]], *, right: Collection[str] = ()) -> None:
    """Print columns by their headings; `right` are those that are aligned to the right."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(format_table(columns, right=right, width=width))


def format_table(
    columns: Mapping[str, Sequence[object]], *, right: Collection[str] = (), width: int | None = None
) -> str:
    """The table as text. Columns that do not fit into `width` characters go on in a further, indented line of a row.

    Nothing is cut; a cell that is wider than that is a line of its own.
    A long cell in the last column moves only itself.
    """
    texts = {heading: [heading, *map(str, cells)] for heading, cells in columns.items()}
    widths = {heading: max(map(cell_len, cells)) for heading, cells in texts.items()}
    padded = {
        heading: [_pad(cell, widths[heading], to_right=heading in right) for cell in cells]
        for heading, cells in texts.items()
    }
    last = list(columns)[-1]
    lines = []
    for row in zip(*padded.values(), strict=True):
        cells = dict(zip(padded, row, strict=True))
        for number, headings in enumerate(_lines(widths | {last: cell_len(cells[last].rstrip())}, width)):
            line = _GAP.join(cells[heading] for heading in headings).rstrip()
            if line:
                lines.append(_INDENT * (number > 0) + line)
    return "\n".join(lines)


def _lines(widths: Mapping[str, int], width: int | None) -> list[list[str]]:
    """The columns of each line of a row."""
    lines: list[list[str]] = [[]]
    used = 0
    for heading, cell_width in widths.items():
        if lines[-1] and width is not None and used + len(_GAP) + cell_width > width:
            lines.append([])
            used = len(_INDENT)
        used += cell_width + len(_GAP) * bool(lines[-1])
        lines[-1].append(heading)
    return lines


def _pad(cell: str, width: int, *, to_right: bool) -> str:
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if to_right else cell + blanks
