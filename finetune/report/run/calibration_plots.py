"""Draw reliability diagram, accuracy vs. coverage, precision-recall and ROC curves: numbers in, inline SVG out."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.report.svg import INK, LINE, MUTED, STYLE, TRAIN, VAL, SvgFigure, axes_in_points, inline_svg

MARGINS = (56, 26, 12, 38)  # left, right, top, bottom, in points
WIDTH, HEIGHT = 375, 230


@matplotlib.rc_context(STYLE)
def reliability_diagram(before: dict[str, Any], after: dict[str, Any] | None, *, name: str) -> SvgFigure:
    """Accuracy by confidence, one point per bin, larger with more clips; hollow points: calibrated."""
    figure, axes = percent_axes("confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 2)))
    axes.annotate("perfectly calibrated", (0.33, 0.2), color=MUTED, fontsize=9)
    max_count = max(part["count"] for part in before["bins"])
    for calibration, colour, face, dash in ((after, TRAIN, "none", (0, (4, 2))), (before, VAL, VAL, "solid")):
        if calibration is None:
            continue
        confidence, accuracy = ([part[key] for part in calibration["bins"]] for key in ("sure", "right"))
        sizes = [20 + 130 * part["count"] / max_count for part in calibration["bins"]]
        axes.plot(confidence, accuracy, color=colour, lw=1.2, ls=dash)
        axes.scatter(confidence, accuracy, s=sizes, facecolor=face, edgecolor=colour, lw=1.5, clip_on=False, zorder=3)
    _legend(axes, [("uncalibrated", VAL)] + [("calibrated", TRAIN)] * (after is not None))
    bins = "; ".join(f"{part['sure']:.0%}: {part['right']:.0%} (n = {part['count']})" for part in before["bins"])
    return inline_svg(figure, name, label=f"Accuracy by mean confidence of each bin: {bins}.")


@matplotlib.rc_context(STYLE)
def coverage_curve(curve: dict[str, Any], *, name: str) -> SvgFigure:
    """Accuracy on the most confident share of the clips, for every share."""
    figure, axes = percent_axes("coverage: share of clips, most confident first", "accuracy")
    lowest = min(curve["accuracy"])
    axes.set_ylim(max(0.0, lowest - 0.1 - (1 - lowest) / 4), 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.step(curve["coverage"], curve["accuracy"], color=VAL, lw=1.8, where="pre", clip_on=False)
    axes.plot(curve["coverage"][-1], curve["accuracy"][-1], "o", color=VAL, ms=6, clip_on=False)
    points = "; ".join(f"{point['accuracy']:.1%} at {point['coverage']:.0%} coverage" for point in curve["at"])
    return inline_svg(figure, name, label=f"Accuracy vs. coverage: {points}.")


@matplotlib.rc_context(STYLE)
def ranking_curve(curves: dict[str, Any], which: str, *, name: str) -> SvgFigure:
    """`precision`: precision-recall curve; `recall`: ROC curve. Thin lines are classes, the thick one is the mean."""
    across, up = {
        "precision": ("recall", "precision"),
        "recall": ("false positive rate", "true positive rate"),
    }[which]
    figure, axes = percent_axes(across, up)
    if which == "recall":
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 2)))
    for class_curve in curves["classes"]:
        axes.plot(curves["grid"], class_curve[which], color=MUTED, lw=0.8, clip_on=False)
    axes.plot(curves["grid"], curves[which], color=VAL, lw=2.2, clip_on=False)
    middle = curves[which][len(curves["grid"]) // 2]
    return inline_svg(figure, name, label=f"Mean {up} over classes: {middle:.1%} at a {across} of 50%.")


def percent_axes(across: str, up: str) -> tuple[Figure, Axes]:
    """Axes from 0 to 100 % in both directions."""
    figure, axes = axes_in_points(width=WIDTH, height=HEIGHT - MARGINS[2] - MARGINS[3], margins=MARGINS)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(color=LINE, lw=0.8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.yaxis.set_label_coords(-44 / (WIDTH - MARGINS[0] - MARGINS[1]), 0.5)
    return figure, axes


def _legend(axes: Axes, names: Sequence[tuple[str, str]]) -> None:
    for row, (name, colour) in enumerate(names):
        axes.annotate(
            name, (0, 1), (10, -12 - 14 * row), xycoords="axes fraction", textcoords="offset points", color=colour
        )
    axes.tick_params(labelcolor=INK)
