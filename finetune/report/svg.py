"""Turn a Matplotlib figure into SVG inside an HTML page: its ids, colours and font become the page's.

Figures are drawn in stand-in colours (INK, MUTED ...), which become CSS variables here, so that they follow the page
into dark mode. Text stays text, in the page's font.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, MUTED, LINE, HATCH, PAGE, BAND, TRAIN, VAL, ON_FILL, ON_TINT = (f"#01010{i:x}" for i in range(1, 11))
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
    ON_TINT: "on-tint",
}
_FILL_RGB = (11 / 255, 84 / 255, 148 / 255)  # cells vary only its opacity, which works on light and dark pages

POINTS_PER_LETTER = 6.2
LONGEST_LABEL = 24
LEGIBLE_POINTS = 6.3  # a font size; smaller text is not readable

# Used while a figure is built and saved. The fixed salt gives the same ids in every run.
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
    """An `<svg>` element for a page, with the Matplotlib figure that it was made from."""

    name: str
    figure: Figure

    @classmethod
    def of(cls, svg: str, name: str, figure: Figure) -> "SvgFigure":
        element = cls(svg)
        element.name, element.figure = name, figure
        return element


@contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Silence Matplotlib's warnings about Chinese or Arabic letters, which its own font lacks and draws as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(missing from|does not support)")
        yield


def inline_svg(figure: Figure, name: str, *, label: str) -> SvgFigure:
    """The figure as an `<svg>` element; its ids start with `name`, screen readers read `label`."""
    buffer = io.StringIO()
    with ignore_missing_glyphs():  # the browser draws the text, with its own fonts
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for child in list(root):
        # The page needs no metadata, and Matplotlib's style rule for `*` would apply to the whole page.
        if child.tag.endswith("metadata") or any(part.tag.endswith("style") for part in child):
            root.remove(child)
    for element in root.iter():
        _adapt(element, name)
    width, height = (float(points) for points in root.get("viewBox", "").split()[2:])
    pixels = width * 4 / 3
    smallest = min((float(text.get_fontsize()) for text in figure.findobj(Text) if text.get_text()), default=10.0)
    least = min(1.0, max(0.66, LEGIBLE_POINTS / smallest))  # a narrower page scrolls the figure
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-label": _xml_safe(label),
        "width": f"{pixels:.0f}",
        "style": f"min-width: {least * pixels:.0f}px",
    }
    return SvgFigure.of(ElementTree.tostring(root, encoding="unicode"), name, figure)


def axes_in_points(*, width: float, height: float, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A figure `width` points wide with axes `height` points high; margins are left, right, top, bottom, in points.

    Text is not measured, because the page uses another font than Matplotlib: callers estimate the room it needs.
    """
    left, right, top, bottom = margins
    total = top + height + bottom
    figure = Figure(figsize=(width / 72, total / 72), dpi=72)
    box = (left / width, bottom / total, (width - left - right) / width, height / total)
    axes = figure.add_axes(box, frame_on=False)
    axes.tick_params(length=0, pad=6)
    return figure, axes


def fill_with_opacity(alphas: np.ndarray) -> np.ndarray:
    """RGBA colours (..., 4) in 0…1 of opacities (...)."""
    colours = np.empty((*alphas.shape, 4))
    colours[..., :3] = _FILL_RGB
    colours[..., 3] = alphas
    return colours


def spread_apart(heights: Sequence[float], *, gap: float) -> list[float]:
    """Heights of labels at the right border, in 0…1 and ascending, moved so that they are at least `gap` apart.

    None is lower than 0.04, where it would cover the last label of the horizontal axis.
    """
    moved: list[float] = []
    for height in [max(0.04, height) for height in heights]:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    excess = max(0.0, moved[-1] - 1.0) if moved else 0.0
    for index in range(len(moved) - 1, -1, -1):
        limit = 1.0 if index == len(moved) - 1 else moved[index + 1] - gap
        moved[index] = min(moved[index], limit) if excess else moved[index]
    return moved


def short_label(text: str, *, longest: int = LONGEST_LABEL) -> str:
    clean = _xml_safe(text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def text_width(text: str) -> int:
    """Estimated width in Latin letters; an East Asian wide character counts as two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def isolate_direction(text: str) -> str:
    """A quoted name in direction isolates, its own direction marks replaced, so that it reorders nothing around it."""
    clean = "".join("\ufffd" if c in _DIRECTIONS else c for c in _xml_safe(text))
    return f"“\u2068{clean}\u2069”"


_DIRECTIONS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def _xml_safe(text: str) -> str:
    """The text with control characters and lone surrogates, which XML cannot hold, replaced."""
    return "".join("\ufffd" if unicodedata.category(c) in {"Cc", "Cs", "Cn"} else c for c in text)


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Strip namespaces, which HTML does not need; prefix ids; replace fonts and colours by those of the page."""
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
            value = re.sub("#01010[1-9a]", lambda match: f"var(--{_VARIABLES[match[0]]})", value)
        element.set(key, value)
