"""Draw how near a model comes to true boxes and numbers: overlaps in a histogram, true values against said ones."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.report.svg import INK, LINE, MUTED, STYLE, VAL, SvgFigure, axes_in_points, inline_svg, isolate_direction

MAX_SCATTER_PLOTS, MAX_POINTS = 12, 500


@matplotlib.rc_context(STYLE)
def iou_histogram(task: dict[str, Any], *, name: str) -> SvgFigure:
    """How many boxes overlap how much; the line is their mean, the dashed one that of the mean box of training."""
    edges, counts = task["histogram"]["edges"], task["histogram"]["counts"]
    figure, axes = axes_in_points(width=375, height=170, margins=(42, 14, 30, 38))
    bins = [(low, high, number) for (low, high), number in zip(itertools.pairwise(edges), counts, strict=True)]
    widths = [high - low for low, high, _ in bins]
    axes.bar(edges[:-1], counts, widths, align="edge", color=VAL, alpha=0.55, edgecolor=VAL, lw=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * max([*counts, 1]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_xlabel("overlap (IoU)")
    axes.set_ylabel("clips")
    marks: list[tuple[str, float, str, Any]] = [("mean", task["mean_iou"], INK, "solid")]
    if (baseline := task.get("baseline", {}).get("mean_iou")) is not None:
        marks.append(("mean box", baseline, MUTED, (0, (4, 2))))
    for row, (word, place, colour, dash) in enumerate(marks):
        axes.axvline(place, color=colour, lw=1.4, ls=dash)
        axes.annotate(
            word, (place, 1), (0, 4 + 12 * row), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", color=colour, fontsize=9,
        )  # fmt: skip
    told = "; ".join(
        f"{low:.0%} to {high:.0%}: {n}" for low, high, n in zip(edges, edges[1:], counts, strict=False) if n
    )
    return inline_svg(figure, name, label=f"Clips by the overlap of their box with the true one: {told}.")


@matplotlib.rc_context(STYLE)
def true_vs_predicted(points: Sequence[Sequence[float]], *, called: str, unit: str, name: str) -> SvgFigure | None:
    """True values across, said ones up, a point a clip; on the diagonal both are the same. None without points."""
    pairs = [(float(true), float(said)) for true, said in points if math.isfinite(true) and math.isfinite(said)]
    if not pairs:
        return None
    figure, axes = axes_in_points(width=300, height=236, margins=(52, 12, 12, 38))
    low, high = (bound(value for pair in pairs for value in pair) for bound in (min, max))
    room = 0.05 * (high - low) or 1.0
    ends = (low - room, high + room)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.grid(color=LINE, lw=0.8)
    axes.plot(ends, ends, color=MUTED, lw=1, ls=(0, (2, 2)))
    true, said = zip(*pairs[:MAX_POINTS], strict=True)
    axes.plot(true, said, "o", ms=4, mew=0, color=VAL, alpha=0.55)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"true{unit}")
    axes.set_ylabel(f"said{unit}")
    axes.yaxis.set_label_coords(-42 / 236, 0.5)
    span = f"true ones from {min(true):.3g} to {max(true):.3g}, said ones from {min(said):.3g} to {max(said):.3g}"
    return inline_svg(
        figure, name, label=f"True and said values of {isolate_direction(called)}, {len(true)} clips: {span}."
    )
