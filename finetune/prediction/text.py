"""Lines of text as bitmaps, in whatever script this machine has a font for: OpenCV's own letters are ASCII alone."""

import unicodedata
import warnings
from bisect import bisect_left
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font

DEFAULT_FONT = "DejaVu Sans"  # comes with Matplotlib
ELLIPSIS = "…"


def render_text(text: str, *, size: int, width: int) -> np.ndarray:
    """How much of each pixel is ink, uint8 (H, W), 255 all of it; `size` is that of the letters in pixels.

    A text that is wider than `width` pixels is shortened before its last word, which may be a number; where no letter
    fits W is 0. H is the same for all texts of a size.
    """
    fitting = _shorten(_clean_text(text), size, width)
    height, across = _line_height(size), _text_width(fitting, size) if fitting else 0
    if not across:
        return np.zeros((height, 0), dtype=np.uint8)
    renderer, font = RendererAgg(across, height, 72), _font(fitting, size)
    context = renderer.new_gc()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that no font has, which show as boxes
        renderer.draw_text(context, 0, round(0.8 * height), fitting, font, 0, ismath=False)
    return np.asarray(renderer.buffer_rgba())[..., 3].copy()


def _clean_text(text: str) -> str:
    """One line without control characters, also of folders whose names are no UTF-8."""
    words = " ".join(text.encode(errors="replace").decode().split())
    return "".join(each for each in words if unicodedata.category(each) != "Cc")


def _line_height(size: int) -> int:
    return round(1.35 * size)


def _shorten(text: str, size: int, width: int) -> str:
    head, _, tail = text.rpartition(" ")
    before_tail = [f"{head[:end]}{ELLIPSIS} {tail}" for end in range(len(head) - 1, 0, -1)]
    at_end = [f"{text[:end]}{ELLIPSIS}" for end in range(len(text) - 1, 0, -1)]
    for texts in ([text], before_tail, at_end):  # each from the longest to the shortest
        longest = bisect_left(texts, True, key=lambda each: _text_width(each, size) <= width)
        if longest < len(texts):
            return texts[longest]
    return ""


def _text_width(text: str, size: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        across, _, _ = RendererAgg(1, 1, 72).get_text_width_height_descent(text, _font(text, size), ismath=False)
    return int(np.ceil(across)) + 1


def _font(text: str, size: int) -> FontProperties:
    return FontProperties(family=list(_font_families(frozenset(text))), size=size)


@cache
def _font_families(characters: frozenset[str]) -> tuple[str, ...]:
    """Matplotlib's own font, and those of this machine that have characters which it lacks."""
    families, lacking = (
        [DEFAULT_FONT],
        {ord(each) for each in characters} - _supported_characters(findfont(DEFAULT_FONT)),
    )
    for path in _system_fonts() if lacking else ():
        if found := lacking & _supported_characters(path):
            fontManager.addfont(path)
            families.append(get_font(path).family_name)
            lacking -= found
    return tuple(families)


@cache
def _system_fonts() -> tuple[str, ...]:
    """Upright ones without serifs come first."""
    return tuple(sorted(findSystemFonts(), key=lambda path: ("Regular" not in path, "Sans" not in path, Path(path))))


@cache
def _supported_characters(path: str) -> frozenset[int]:
    try:
        font = get_font(path)
    except (OSError, RuntimeError):  # one that FreeType cannot open
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
