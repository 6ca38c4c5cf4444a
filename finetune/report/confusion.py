"""Draw which classes are taken for which: counts in, inline SVG out."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from finetune.report.svg import (
    INK,
    LINE,
    MUTED,
    ON_FILL,
    POINTS_PER_LETTER,
    STYLE,
    blank_axes,
    inline_svg,
    letters,
    opacities,
    short_label,
)

MOST_CLASSES_WITH_TEXT = 40


@matplotlib.rc_context(STYLE)
def confusion_matrix(classes: Sequence[str], counts: Sequence[Sequence[int]], *, name: str) -> str:
    """Rows are true classes, columns predictions; opacity is the share of the row. `name` starts the ids."""
    table = np.asarray(counts, dtype=float).reshape(len(classes), len(classes))
    alphas = np.where(table > 0, 0.15 + 0.85 * table / np.maximum(table.sum(axis=1, keepdims=True), 1), 0)
    with_text = len(classes) <= MOST_CLASSES_WITH_TEXT
    cell = min(max(500 / len(classes), 17 if with_text else 4.5), 48)
    side = cell * len(classes)
    step = max(1, math.ceil(9 / cell))
    fontsize = min(10.0, max(7.0, 0.62 * cell * step))
    longest = max(letters(short_label(name)) for name in classes) * POINTS_PER_LETTER * fontsize / 10
    left, top = 36 + longest, 22 + (0.75 if with_text else 1) * longest
    right = 0.75 * longest if with_text else 10
    figure, axes = blank_axes(width=left + side + right, height=side, margins=(left, right, top, 6))
    axes.imshow(opacities(alphas), interpolation="none", aspect="auto")
    if with_text:
        _count_cells(axes, table, alphas, fontsize=min(11.0, 0.5 * cell))
    axes.add_collection(_cell_borders(len(classes)))
    shown = range(0, len(classes), step)
    labels = [short_label(classes[i]) for i in shown]
    axes.set_yticks(shown, labels, parse_math=False, fontsize=fontsize, color=INK)
    axes.set_xticks(shown, labels, parse_math=False, fontsize=fontsize, color=INK)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    for text in axes.get_xticklabels():
        text.set(rotation=45 if with_text else 90, rotation_mode="anchor", ha="left", va="center")
    axes.set_ylabel("true class")
    axes.yaxis.set_label_coords(-(left - 10) / side, 0.5)
    axes.text(-8 / side, 1 + 10 / side, "predicted class", transform=axes.transAxes, ha="right", color=MUTED)
    words = f"{np.trace(table):.0f} of {table.sum():.0f} clips are right"
    label = f"Confusion matrix of {len(classes)} classes: {words}."
    return inline_svg(figure, name, label=label)


def _count_cells(axes: Axes, table: np.ndarray, alphas: np.ndarray, *, fontsize: float) -> None:
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = ON_FILL if alphas[row, column] > 0.68 else INK
        count = f"{table[row, column]:.0f}"
        fits = min(fontsize, 1.5 * fontsize / max(1, len(count) - 1))
        axes.text(column, row, count, ha="center", va="center_baseline", color=colour, fontsize=fits)


def _cell_borders(count: int) -> LineCollection:
    edges = np.arange(count + 1) - 0.5 if count <= MOST_CLASSES_WITH_TEXT else np.array([-0.5, count - 0.5])
    ends = (-0.5, count - 0.5)
    across = [[(ends[0], edge), (ends[1], edge)] for edge in edges]
    down = [[(edge, ends[0]), (edge, ends[1])] for edge in edges]
    return LineCollection(across + down, colors=LINE, linewidths=0.8, clip_on=False)
