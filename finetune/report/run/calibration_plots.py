"""Draw how far a model's probabilities can be trusted: reliability, abstaining, precision-recall and ROC curves."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.report.svg import INK, LINE, MUTED, STYLE, TRAIN, VAL, SvgFigure, axes_in_points, inline_svg

MARGINS = (56, 14, 12, 38)
WIDTH, HEIGHT = 375, 230


@matplotlib.rc_context(STYLE)
def reliability_diagram(before: dict[str, Any], after: dict[str, Any] | None, *, name: str) -> SvgFigure:
    """How often right by how sure, a point a bin, larger with more clips; hollow: calibrated."""
    figure, axes = _percent_axes("how sure", "how often right")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 2)))
    axes.annotate("as it should be", (0.33, 0.2), color=MUTED, fontsize=9)
    most = max(each["count"] for each in before["bins"])
    for kind, colour, face, dash in ((after, TRAIN, "none", (0, (4, 2))), (before, VAL, VAL, "solid")):
        if kind is None:
            continue
        sure, right = ([each[key] for each in kind["bins"]] for key in ("sure", "right"))
        sizes = [20 + 130 * each["count"] / most for each in kind["bins"]]
        axes.plot(sure, right, color=colour, lw=1.2, ls=dash)
        axes.scatter(sure, right, s=sizes, facecolor=face, edgecolor=colour, lw=1.5, clip_on=False, zorder=3)
    _legend(axes, [("as it is", VAL)] + [("calibrated", TRAIN)] * (after is not None))
    words = "; ".join(f"{each['sure']:.0%} sure, {each['right']:.0%} right, {each['count']}" for each in before["bins"])
    return inline_svg(figure, name, label=f"How often right by how sure: {words}.")


@matplotlib.rc_context(STYLE)
def coverage_curve(abstain: dict[str, Any], *, name: str) -> SvgFigure:
    """Accuracy on the surest share of clips, for every share."""
    figure, axes = _percent_axes("share of clips answered, the surest first", "right of these")
    lowest = min(abstain["accuracy"])
    axes.set_ylim(max(0.0, lowest - 0.1 - (1 - lowest) / 4), 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.step(abstain["coverage"], abstain["accuracy"], color=VAL, lw=1.8, where="pre", clip_on=False)
    axes.plot(abstain["coverage"][-1], abstain["accuracy"][-1], "o", color=VAL, ms=6, clip_on=False)
    words = "; ".join(f"{each['coverage']:.0%} answered, {each['accuracy']:.1%} right" for each in abstain["at"])
    return inline_svg(figure, name, label=f"Accuracy where the model may abstain: {words}.")


@matplotlib.rc_context(STYLE)
def ranking_curve(curves: dict[str, Any], which: str, *, name: str) -> SvgFigure:
    """The curve `precision` by recall, or `recall` by rate of false alarms: of each class and the mean."""
    across, up = {
        "precision": ("recall: share of the class that is found", "precision"),
        "recall": ("false alarms: share of the others", "share found"),
    }[which]
    figure, axes = _percent_axes(across, up)
    if which == "recall":
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (2, 2)))
    for each in curves["classes"]:
        axes.plot(curves["grid"], each[which], color=MUTED, lw=0.8, clip_on=False)
    axes.plot(curves["grid"], curves[which], color=VAL, lw=2.2, clip_on=False)
    middle = curves[which][len(curves["grid"]) // 2]
    return inline_svg(figure, name, label=f"{up} by {across}: {middle:.1%} at one half, mean over classes.")


def _percent_axes(across: str, up: str) -> tuple[Figure, Axes]:
    """Axes from 0 to 100 % both ways."""
    figure, axes = axes_in_points(width=WIDTH, height=HEIGHT - MARGINS[2] - MARGINS[3], margins=MARGINS)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(color=LINE, lw=0.8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.yaxis.set_label_coords(-46 / (WIDTH - MARGINS[0] - MARGINS[1]), 0.5)
    return figure, axes


def _legend(axes: Axes, names: Sequence[tuple[str, str]]) -> None:
    for row, (name, colour) in enumerate(names):
        axes.annotate(
            name, (0, 1), (10, -12 - 14 * row), xycoords="axes fraction", textcoords="offset points", color=colour
        )
    axes.tick_params(labelcolor=INK)
