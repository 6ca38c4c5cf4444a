"""Draw which classes are taken for which: counts in, inline SVG out."""

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
MAX_CELLS = 3000  # that can be clicked


def confusion_figure(classes: Sequence[str], counts: Sequence[Sequence[int]], *, name: str) -> tuple[SvgFigure, int]:
    """The matrix of all classes and 0, or that of blocks of classes and how many stand in a block.

    More than MOST_CLASSES are put in an order in which those that are taken for one another stand side by side.
    """
    if len(classes) <= MAX_MATRIX_CLASSES:
        return confusion_matrix(classes, counts, name=name), 0
    table = np.asarray(counts)
    order, size = similarity_order(table), math.ceil(len(classes) / NUM_BLOCKS)
    starts = np.arange(0, len(classes), size)
    blocks = np.add.reduceat(np.add.reduceat(table[order][:, order], starts, 0), starts, 1)
    names = [_block_name([classes[code] for code in order[start : start + size]]) for start in starts]
    right, every = int(np.trace(table)), int(table.sum())
    label = f"Confusion matrix of {len(classes)} classes in blocks of {size}: {right} of {every} clips are right."
    return confusion_matrix(names, blocks.tolist(), name=name, label=label), size


def similarity_order(table: np.ndarray) -> np.ndarray:
    """An order of classes by average linkage: the more often two are taken for one another, the nearer they stand."""
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    alike = (shares + shares.T) / 2
    np.fill_diagonal(alike, 0)
    apart = 1 - alike / max(alike.max(), 1e-9)
    np.fill_diagonal(apart, 0)
    return leaves_list(linkage(squareform(apart, checks=False), "average"))


def _block_name(classes: Sequence[str]) -> str:
    """The first class and how many more: neighbours are alike, the last would say no more than the first."""
    more = f" +{len(classes) - 1}" if len(classes) > 1 else ""
    return short_label(classes[0], longest=LONGEST_LABEL - len(more)) + more


@matplotlib.rc_context(STYLE)
def confusion_matrix(
    classes: Sequence[str], counts: Sequence[Sequence[int]], *, name: str, label: str | None = None
) -> SvgFigure:
    """Rows are true classes, columns predictions; opacity is the share of the row. `name` starts the ids.

    Each cell that has clips says so when pointed at, and carries `data-cell`, "true,predicted" in numbers of classes.
    `label` is for what are blocks of classes, of which a clip on the diagonal need not be right.
    """
    table = np.asarray(counts, dtype=float).reshape(len(classes), len(classes))
    alphas = np.where(table > 0, 0.15 + 0.85 * table / np.maximum(table.sum(axis=1, keepdims=True), 1), 0)
    with_text = len(classes) <= MAX_CLASSES_WITH_TEXT
    cell = min(max(500 / len(classes), 17 if with_text else 4.5), 48)
    side = cell * len(classes)
    step = max(1, math.ceil(9 / cell))
    fontsize = min(10.0, max(7.0, 0.62 * cell * step))
    longest = max(text_width(short_label(name)) for name in classes) * POINTS_PER_LETTER * fontsize / 10
    left, top = 36 + longest, 22 + (0.75 if with_text else 1) * longest
    right = 0.75 * longest if with_text else 10
    figure, axes = axes_in_points(width=left + side + right, height=side, margins=(left, right, top, 6))
    axes.imshow(fill_with_opacity(alphas), interpolation="none", aspect="auto")
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
    words = f"Confusion matrix of {len(classes)} classes: {np.trace(table):.0f} of {table.sum():.0f} clips are right."
    svg = str(inline_svg(figure, name, label=label or words)).removesuffix("</svg>")
    found = "found" if label is None else "taken for one of them"
    return SvgFigure.of(svg + _cells(classes, table, (left, top, cell), found=found) + "</svg>", name, figure)


def _cells(classes: Sequence[str], table: np.ndarray, place: tuple[float, float, float], *, found: str) -> str:
    """Invisible squares over cells that have clips, each with its words; `place` is left, top and side in points."""
    left, top, side = place
    group = ElementTree.Element("g", {"class": "cells"})
    of_row = table.sum(1)
    filled = list(zip(*np.nonzero(table), strict=True))
    for row, column in filled if len(filled) <= MAX_CELLS else []:
        true, said = (isolate_direction(classes[code]) for code in (row, column))
        number, of = int(table[row, column]), int(of_row[row])
        what = f"{true} {found}" if row == column else f"{true} taken for {said}"
        box = {"x": left + side * column, "y": top + side * row, "width": side, "height": side}
        attributes = {key: f"{value:.2f}" for key, value in box.items()} | {"data-cell": f"{row},{column}"}
        title = ElementTree.SubElement(ElementTree.SubElement(group, "rect", attributes), "title")
        title.text = f"{what}: {number} of {of} clips"
    return ElementTree.tostring(group, encoding="unicode")


def _count_cells(axes: Axes, table: np.ndarray, alphas: np.ndarray, *, fontsize: float) -> None:
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = ON_FILL if alphas[row, column] > 0.68 else INK
        count = f"{table[row, column]:.0f}"
        fits = min(fontsize, 1.5 * fontsize / max(1, len(count) - 1))
        axes.text(column, row, count, ha="center", va="center_baseline", color=colour, fontsize=fits)


def _cell_borders(count: int) -> LineCollection:
    edges = np.arange(count + 1) - 0.5 if count <= MAX_CLASSES_WITH_TEXT else np.array([-0.5, count - 0.5])
    ends = (-0.5, count - 0.5)
    across = [[(ends[0], edge), (ends[1], edge)] for edge in edges]
    down = [[(edge, ends[0]), (edge, ends[1])] for edge in edges]
    return LineCollection(across + down, colors=LINE, linewidths=0.8, clip_on=False)
