"""Turn a Matplotlib figure into SVG inside an HTML page: its ids, colours and font become the page's.

Figures are drawn in stand-in colours (INK, MUTED ...), which become CSS variables here: so they follow the
page into dark mode. Text stays text, in the page's font.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, HATCH, PAGE, BAND, TRAIN, VAL, ON_FILL = (f"#01010{i}" for i in range(1, 10))
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    HATCH: "hatch",
    PAGE: "page",
    BAND: "band",
    TRAIN: "train",
    VAL: "val",
    ON_FILL: "on-fill",
}
_FILL_RGB = (
    11 / 255,
    84 / 255,
    148 / 255,
)  # cells vary its opacity alone: that works on a light and on a dark page

POINTS_PER_LETTER = 6.2
LONGEST_LABEL = 24

# Set while a figure is built and saved. The salt makes ids the same in every run.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "finetune",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "hatch.linewidth": 0.6,
}


class SvgFigure(Markup):
    """An `<svg>` element for a page, with the figure that it was made from."""

    name: str
    figure: Figure

    @classmethod
    def of(cls, svg: str, name: str, figure: Figure) -> "SvgFigure":
        drawing = cls(svg)
        drawing.name, drawing.figure = name, figure
        return drawing


@contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Within, Matplotlib does not warn that its own font has no Chinese or Arabic, and shows boxes there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(missing from|does not support)")
        yield


def inline_svg(figure: Figure, name: str, *, label: str) -> SvgFigure:
    """The figure as an `<svg>` element; its ids start with `name`, a screen reader says `label`."""
    buffer = io.StringIO()
    with ignore_missing_glyphs():  # the browser draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for child in list(root):
        # The page needs no metadata, and Matplotlib's style rule for `*` would hold for all of the page.
        if child.tag.endswith("metadata") or any(part.tag.endswith("style") for part in child):
            root.remove(child)
    for element in root.iter():
        _adapt(element, name)
    width, height = (float(points) for points in root.get("viewBox", "").split()[2:])
    pixels = width * 4 / 3
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-label": _xml_safe(label),
        "width": f"{pixels:.0f}",
        "style": f"min-width: {0.66 * pixels:.0f}px",
    }
    return SvgFigure.of(ElementTree.tostring(root, encoding="unicode"), name, figure)


def axes_in_points(*, width: float, height: float, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """Axes of `height` points in a figure of `width` points; margins are left, right, top, bottom, in points.

    Nothing is measured: the page has another font than Matplotlib, so room for text is estimated.
    """
    left, right, top, bottom = margins
    total = top + height + bottom
    figure = Figure(figsize=(width / 72, total / 72), dpi=72)
    box = (left / width, bottom / total, (width - left - right) / width, height / total)
    axes = figure.add_axes(box, frame_on=False)
    axes.tick_params(length=0, pad=6)
    return figure, axes


def fill_with_opacity(alphas: np.ndarray) -> np.ndarray:
    colours = np.empty((*alphas.shape, 4))
    colours[..., :3] = _FILL_RGB
    colours[..., 3] = alphas
    return colours


def short_label(text: str, *, longest: int = LONGEST_LABEL) -> str:
    clean = _xml_safe(text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def text_width(text: str) -> int:
    """Width in Latin letters; a Chinese one takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def isolate_direction(text: str) -> str:
    """A name as part of a sentence: what it holds of marks for the direction of writing ends with it."""
    clean = "".join("\ufffd" if c in _DIRECTIONS else c for c in _xml_safe(text))
    return f"“\u2068{clean}\u2069”"


_DIRECTIONS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def _xml_safe(text: str) -> str:
    """`text` without what XML cannot hold: control characters, and halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in {"Cc", "Cs", "Cn"} else c for c in text)


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Take off namespaces, which HTML does not need, and make ids and style the page's."""
    element.tag = element.tag.rpartition("}")[2]
    for full_key in list(element.attrib):
        value = element.attrib.pop(full_key).replace("url(#", f"url(#{name}-")
        key = full_key.rpartition("}")[2]
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href" and value.startswith("#"):
            value = f"#{name}-{value[1:]}"
        elif key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
            value = re.sub("#01010[1-9]", lambda match: f"var(--{_VARIABLES[match[0]]})", value)
        element.set(key, value)
