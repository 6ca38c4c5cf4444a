"""Write the figures of a report as SVG and PNG files, in the colours of a light page."""

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from finetune.report import svg
from finetune.storage.atomic import atomic_folder

LIGHT_COLOURS = {
    svg.INK: "#15202b",
    svg.MUTED: "#55636f",
    svg.LINE: "#cfd8e0",
    svg.HATCH: "#aebbc7",
    svg.PAGE: "#ffffff",
    svg.BAND: "#eef2f6",
    svg.TRAIN: "#a84300",
    svg.VAL: "#0b5494",
    svg.ON_FILL: "#ffffff",
}
DPI = 160
_COLOURS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def write_figures(folder: Path, figures: Sequence[svg.SvgFigure]) -> None:
    """Write each figure as `<name>.svg` and `<name>.png` into a new folder, which replaces an existing one."""
    with atomic_folder(folder) as partial, svg.ignore_missing_glyphs():
        for drawn in figures:
            apply_light_colours(drawn.figure)
            with rc_context(svg.STYLE):
                drawn.figure.savefig(partial / f"{drawn.name}.svg", facecolor="white", metadata={"Date": None})
                drawn.figure.savefig(partial / f"{drawn.name}.png", facecolor="white", dpi=DPI)


def apply_light_colours(figure: Figure) -> None:
    """Replace the stand-in colours of svg.py by those of a light page."""
    for artist in figure.findobj(Artist):
        for name in _COLOURS:
            getter, setter = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if getter is None or setter is None:
                continue
            colours = getter()
            if isinstance(colours, str) and re.fullmatch("#01010[1-9]", colours):
                setter(LIGHT_COLOURS[colours])
            elif not isinstance(colours, str) and len(colours) and hasattr(colours, "shape") and colours.ndim == 2:
                setter([LIGHT_COLOURS.get(to_hex(colour), tuple(colour)) for colour in colours])
            elif not isinstance(colours, str) and len(colours) == 4 and to_hex(colours) in LIGHT_COLOURS:
                setter(LIGHT_COLOURS[to_hex(colours)])
