"""The figures of a report as files of their own, SVG and PNG, in the colours of a light page."""

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


def write_figures(folder: Path, drawings: Sequence[svg.SvgFigure]) -> None:
    """Write each as `<name>.svg` and `<name>.png` into a folder, which is made anew."""
    with atomic_folder(folder) as partial, svg.ignore_missing_glyphs():
        for each in drawings:
            apply_light_colours(each.figure)
            with rc_context(svg.STYLE):
                each.figure.savefig(partial / f"{each.name}.svg", facecolor="white", metadata={"Date": None})
                each.figure.savefig(partial / f"{each.name}.png", facecolor="white", dpi=DPI)


def apply_light_colours(figure: Figure) -> None:
    """Put the light page's colours in the place of those that stand for the page's own."""
    for artist in figure.findobj(Artist):
        for name in _COLOURS:
            getter, setter = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if getter is None or setter is None:
                continue
            colours = getter()
            if isinstance(colours, str) and re.fullmatch("#01010[1-9]", colours):
                setter(LIGHT_COLOURS[colours])
            elif not isinstance(colours, str) and len(colours) and hasattr(colours, "shape") and colours.ndim == 2:
                setter([LIGHT_COLOURS.get(to_hex(each), tuple(each)) for each in colours])
            elif not isinstance(colours, str) and len(colours) == 4 and to_hex(colours) in LIGHT_COLOURS:
                setter(LIGHT_COLOURS[to_hex(colours)])
