"""Render lines of text as bitmaps, in any script for which this machine has a font; OpenCV draws only ASCII."""

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
    """The opacity of each pixel, uint8 (H, W), 255 where it is all ink. `size` is the font size in pixels.

    A text wider than `width` pixels is shortened before its last word, which may be a number; W is 0 where not even
    one letter fits. H depends only on `size`.
    """
    fitting = _shorten(_clean_text(text), size, width)
    height, across = _line_height(size), _text_width(fitting, size) if fitting else 0
    if not across:
        return np.zeros((height, 0), dtype=np.uint8)
    renderer, font = RendererAgg(across, height, 72), _font(fitting, size)
    context = renderer.new_gc()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that no font has; they are drawn as boxes
        renderer.draw_text(context, 0, round(0.8 * height), fitting, font, 0, ismath=False)
    return np.asarray(renderer.buffer_rgba())[..., 3].copy()


def _clean_text(text: str) -> str:
    """One line without control characters; bytes that are not UTF-8, as in file names, are replaced."""
    line = " ".join(text.encode(errors="replace").decode().split())
    return "".join(character for character in line if unicodedata.category(character) != "Cc")


def _line_height(size: int) -> int:
    return round(1.35 * size)


def _shorten(text: str, size: int, width: int) -> str:
    head, _, tail = text.rpartition(" ")
    before_tail = [f"{head[:end]}{ELLIPSIS} {tail}" for end in range(len(head) - 1, 0, -1)]
    at_end = [f"{text[:end]}{ELLIPSIS}" for end in range(len(text) - 1, 0, -1)]
    for texts in ([text], before_tail, at_end):  # each from the longest to the shortest
        longest = bisect_left(texts, True, key=lambda shortened: _text_width(shortened, size) <= width)
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
    """Matplotlib's own font, then the fonts of this machine that have the characters which it lacks."""
    families = [DEFAULT_FONT]
    missing = {ord(character) for character in characters} - _supported_characters(findfont(DEFAULT_FONT))
    for path in _system_fonts() if missing else ():
        if supported := missing & _supported_characters(path):
            fontManager.addfont(path)
            families.append(get_font(path).family_name)
            missing -= supported
    return tuple(families)


@cache
def _system_fonts() -> tuple[str, ...]:
    """Paths of all fonts of this machine; regular ones first, then sans-serif ones, then by name."""
    return tuple(sorted(findSystemFonts(), key=lambda path: ("Regular" not in path, "Sans" not in path, Path(path))))


@cache
def _supported_characters(path: str) -> frozenset[int]:
    try:
        font = get_font(path)
    except (OSError, RuntimeError):  # FreeType cannot open it
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
