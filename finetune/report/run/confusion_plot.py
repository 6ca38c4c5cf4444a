"""Draw the confusion matrix: counts in, inline SVG out."""

import math
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from finetune.report.svg import (
    INK,
    LINE,
    LONGEST_LABEL,
    MUTED,
    ON_FILL,
    ON_TINT,
    POINTS_PER_LETTER,
    STYLE,
    SvgFigure,
    axes_in_points,
    fill_with_opacity,
    inline_svg,
    isolate_direction,
    short_label,
    text_width,
)

MAX_CLASSES_WITH_TEXT, MAX_MATRIX_CLASSES, NUM_BLOCKS = 40, 100, 60
MAX_CELLS = 3000  # that react to a click
DARK_FILL = 0.77  # opacity above which black text is less legible than white


def confusion_figure(classes: Sequence[str], counts: Sequence[Sequence[int]], *, name: str) -> tuple[SvgFigure, int]:
    """The confusion matrix, and the number of classes per block: 0 where each class has its own row.

    More than MAX_MATRIX_CLASSES classes are ordered by similarity and merged into blocks. `counts` is (K, K), rows are
    true classes.
    """
    if len(classes) <= MAX_MATRIX_CLASSES:
        return confusion_matrix(classes, counts, name=name), 0
    table = np.asarray(counts)
    order, size = similarity_order(table), math.ceil(len(classes) / NUM_BLOCKS)
    starts = np.arange(0, len(classes), size)
    blocks = np.add.reduceat(np.add.reduceat(table[order][:, order], starts, 0), starts, 1)
    names = [_block_name([classes[code] for code in order[start : start + size]]) for start in starts]
    correct, total = int(np.trace(table)), int(table.sum())
    label = f"Confusion matrix of {len(classes)} classes in blocks of {size}: {correct} of {total} clips correct."
    return confusion_matrix(names, blocks.tolist(), name=name, label=label), size


def similarity_order(table: np.ndarray) -> np.ndarray:
    """Order the classes of counts (K, K) by average linkage, (K,): classes that are often confused are neighbours."""
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    similarity = (shares + shares.T) / 2
    np.fill_diagonal(similarity, 0)
    distance = 1 - similarity / max(similarity.max(), 1e-9)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average"))


def _block_name(classes: Sequence[str]) -> str:
    """The first class and the number of further classes, such as "walk +4"."""
    more = f" +{len(classes) - 1}" if len(classes) > 1 else ""
    return short_label(classes[0], longest=LONGEST_LABEL - len(more)) + more


@matplotlib.rc_context(STYLE)
def confusion_matrix(
    classes: Sequence[str],
    counts: Sequence[Sequence[int]],
    *,
    name: str,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    noun: str = "clip",
) -> SvgFigure:
    """Rows are true classes, columns predicted classes; opacity is the share of the row. `name` prefixes the SVG ids.

    Each cell with clips has a tooltip, and `data-cell` "true,predicted" in class indices. `label` replaces the default
    accessible name for blocks of classes, where a clip on the diagonal need not be correct. `columns` are the names of
    the columns where they differ from those of the rows. `noun` is what is counted; of pixels, the percentage of the
    row is written.
    """
    columns = classes if columns is None else columns
    table = np.asarray(counts, dtype=float).reshape(len(classes), len(classes))
    alphas = np.where(table > 0, 0.15 + 0.85 * table / np.maximum(table.sum(axis=1, keepdims=True), 1), 0)
    with_text = len(classes) <= MAX_CLASSES_WITH_TEXT
    cell = min(max(500 / len(classes), 17 if with_text else 4.5), 48)
    side = cell * len(classes)
    step = max(1, math.ceil(9 / cell))
    fontsize = min(10.0, max(7.0, 0.62 * cell * step))
    longest = max(text_width(short_label(name)) for name in (*classes, *columns)) * POINTS_PER_LETTER * fontsize / 10
    left, top = max(36 + longest, 102), 22 + (0.75 if with_text else 1) * longest  # 102: “predicted class” fits
    right = 0.75 * longest if with_text else 10
    figure, axes = axes_in_points(width=left + side + right, height=side, margins=(left, right, top, 6))
    axes.imshow(fill_with_opacity(alphas), interpolation="none", aspect="auto")
    if with_text:
        shown_table = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1) if noun == "pixel" else table
        _count_cells(axes, shown_table, alphas, fontsize=min(11.0, 0.5 * cell))
    axes.add_collection(_cell_borders(len(classes)))
    shown = range(0, len(classes), step)
    for set_ticks, names in ((axes.set_yticks, classes), (axes.set_xticks, columns)):
        labels = [short_label(names[i]) for i in shown]
        set_ticks(shown, labels, parse_math=False, fontsize=fontsize, color=INK)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    for text in axes.get_xticklabels():
        text.set(rotation=45 if with_text else 90, rotation_mode="anchor", ha="left", va="center")
    axes.set_ylabel("true class")
    axes.yaxis.set_label_coords(-(left - 12) / side, 0.5)
    axes.text(-8 / side, 1 + 10 / side, "predicted class", transform=axes.transAxes, ha="right", color=MUTED)
    class_label = (
        f"Confusion matrix of {len(classes)} classes: {np.trace(table):.0f} of {table.sum():.0f} {noun}s correct."
    )
    svg = str(inline_svg(figure, name, label=label or class_label)).removesuffix("</svg>")
    on_diagonal = "predicted correctly" if label is None else "predicted as one of them"
    cells = _cells((classes, columns), table, (left, top, cell), on_diagonal=on_diagonal, noun=noun)
    return SvgFigure.of(f"{svg}{cells}</svg>", name, figure)


def _cells(
    names: tuple[Sequence[str], Sequence[str]],
    table: np.ndarray,
    geometry: tuple[float, float, float],
    *,
    on_diagonal: str,
    noun: str,
) -> str:
    """Invisible squares with tooltips over cells that have clips; `geometry` is left, top and cell side in points.

    `names` are those of the rows and of the columns; the table is (K, K).
    """
    left, top, side = geometry
    group = ElementTree.Element("g", {"class": "cells"})
    row_totals = table.sum(1)
    filled = list(zip(*np.nonzero(table), strict=True))
    for row, column in filled if len(filled) <= MAX_CELLS else []:
        true, predicted = isolate_direction(names[0][row]), isolate_direction(names[1][column])
        number, row_total = int(table[row, column]), int(row_totals[row])
        text = f"{true} {on_diagonal}" if row == column else f"{true} predicted as {predicted}"
        if names[0] is not names[1] and len(table) - 1 in (row, column):  # the last are missed and invented objects
            text = f"{true} missed" if column == len(table) - 1 else f"{predicted} where no object is"
        box = {"x": left + side * column, "y": top + side * row, "width": side, "height": side}
        attributes = {key: f"{value:.2f}" for key, value in box.items()} | {"data-cell": f"{row},{column}"}
        title = ElementTree.SubElement(ElementTree.SubElement(group, "rect", attributes), "title")
        title.text = f"{text}: {number} of {row_total} {noun}s"
    return ElementTree.tostring(group, encoding="unicode")


def _count_cells(axes: Axes, table: np.ndarray, alphas: np.ndarray, *, fontsize: float) -> None:
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = ON_FILL if alphas[row, column] > DARK_FILL else ON_TINT
        count = f"{table[row, column]:.0f}"  # of pixels, a small share shows as 0
        fits = min(fontsize, 1.5 * fontsize / max(1, len(count) - 1))
        axes.text(column, row, count, ha="center", va="center_baseline", color=colour, fontsize=fits)


def _cell_borders(count: int) -> LineCollection:
    edges = np.arange(count + 1) - 0.5 if count <= MAX_CLASSES_WITH_TEXT else np.array([-0.5, count - 0.5])
    ends = (-0.5, count - 0.5)
    across = [[(ends[0], edge), (ends[1], edge)] for edge in edges]
    down = [[(edge, ends[0]), (edge, ends[1])] for edge in edges]
    return LineCollection(across + down, colors=LINE, linewidths=0.8, clip_on=False)
