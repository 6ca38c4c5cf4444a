"""Draw the IoU histogram of a box task, and predicted against true values: numbers in, inline SVG out."""

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
    """Clips by IoU; the solid line is the mean, the dashed line the mean IoU of the mean training box."""
    edges, counts = task["histogram"]["edges"], task["histogram"]["counts"]
    figure, axes = axes_in_points(width=375, height=170, margins=(42, 26, 30, 38))
    bins = [(low, high, number) for (low, high), number in zip(itertools.pairwise(edges), counts, strict=True)]
    widths = [high - low for low, high, _ in bins]
    axes.bar(edges[:-1], counts, widths, align="edge", color=VAL, alpha=0.55, edgecolor=VAL, lw=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * max([*counts, 1]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_xlabel("IoU")
    axes.set_ylabel("clips")
    marks: list[tuple[str, float, str, Any]] = [("mean", task["mean_iou"], INK, "solid")]
    if (baseline := task.get("baseline", {}).get("mean_iou")) is not None:
        marks.append(("baseline", baseline, MUTED, (0, (4, 2))))
    for row, (text, value, colour, dash) in enumerate(marks):
        axes.axvline(value, color=colour, lw=1.4, ls=dash)
        axes.annotate(
            text, (value, 1), (0, 4 + 12 * row), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", color=colour, fontsize=9,
        )  # fmt: skip
    filled = "; ".join(f"{low:.0%} to {high:.0%}: {number}" for low, high, number in bins if number)
    return inline_svg(figure, name, label=f"Number of clips by IoU: {filled}.")


@matplotlib.rc_context(STYLE)
def true_vs_predicted(points: Sequence[Sequence[float]], *, output: str, unit: str, name: str) -> SvgFigure | None:
    """A scatter plot of (true, predicted) `points`, one per clip, with the diagonal; None without finite points."""
    pairs = [(float(true), float(value)) for true, value in points if math.isfinite(true) and math.isfinite(value)]
    if not pairs:
        return None
    figure, axes = axes_in_points(width=320, height=236, margins=(72, 12, 12, 38))
    low, high = (bound(value for pair in pairs for value in pair) for bound in (min, max))
    room = 0.05 * (high - low) or 1.0
    ends = (low - room, high + room)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.grid(color=LINE, lw=0.8)
    axes.plot(ends, ends, color=MUTED, lw=1, ls=(0, (2, 2)))
    true, predicted = zip(*pairs[:MAX_POINTS], strict=True)
    axes.plot(true, predicted, "o", ms=4, mew=0, color=VAL, alpha=0.55)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"true{unit}")
    axes.set_ylabel(f"predicted{unit}")
    axes.yaxis.set_label_coords(-60 / 236, 0.5)
    ranges = f"true {min(true):.3g} to {max(true):.3g}, predicted {min(predicted):.3g} to {max(predicted):.3g}"
    label = f"Predicted vs. true values of {isolate_direction(output)}, {len(true)} clips: {ranges}."
    return inline_svg(figure, name, label=label)
