"""Draw the training curves of several runs in one figure: epoch records in, inline SVG out.

Lines differ in colour, dash and marker, and end with the letter of their run.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.report.svg import LINE, STYLE, axes_in_points, inline_svg, spread_apart

DASHES = ((), (5, 2), (1.2, 1.6), (7, 2, 1.5, 2), (10, 3), (3, 1, 1, 1), (2, 4), (9, 2, 3, 2))  # on, off, … in points
MAX_LINES = len(DASHES)
_MARKERS = "os^DvPX*"
_COLOURS = [f"#02020{number}" for number in range(1, MAX_LINES + 1)]  # become the CSS variables --run-1 … --run-8

RunCurve = tuple[str, Sequence[dict[str, Any]]]  # letter of a run, its epochs


@matplotlib.rc_context(STYLE)
def draw_curves(curves: Sequence[RunCurve], key: str, *, name: str, metric: str, is_share: bool) -> str:
    """The value `key` of epoch records, for up to MAX_LINES runs; a missing value is a gap in the line.

    The vertical axis is 0 to 100 % for a share, else it starts at 0.
    """
    figure, axes = axes_in_points(width=375, height=190, margins=(42, 26, 14, 36))
    series = [(letter, _numbers(epochs), _values(epochs, key)) for letter, epochs in curves]
    longest = max((int(numbers[-1]) for _, numbers, _ in series if len(numbers)), default=1)
    for index, (_, numbers, values) in enumerate(series):
        size = 4 if longest <= 40 else 0
        style: Any = (0, DASHES[index]) if DASHES[index] else "solid"
        marker = _MARKERS[index]
        axes.plot(numbers, values, color=_COLOURS[index], ls=style, lw=1.7, marker=marker, ms=size, clip_on=False)
    highest = max((value for _, _, values in series for value in values if math.isfinite(value)), default=1.0)
    axes.set_ylim(0, 1.04 if is_share else 1.08 * highest or 1.0)
    axes.set_xlim(0.5, longest + 0.5)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(axis="y", color=LINE, lw=0.8)
    _draw_run_letters(axes, series)
    svg = inline_svg(figure, name, label=_curve_description(metric, series, "{:.1%}" if is_share else "{:.3g}"))
    return re.sub("#02020([1-8])", r"var(--run-\1)", svg)


def _numbers(epochs: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.array([epoch["epoch"] for epoch in epochs], dtype=float)


def _values(epochs: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([math.nan if epoch.get(key) is None else float(epoch[key]) for epoch in epochs])


def _draw_run_letters(axes: Axes, series: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Write each letter at the right border, at the end of its line; letters that would overlap are moved apart."""
    low, high = axes.get_ylim()
    ends: list[tuple[float, int, str]] = []
    for index, (letter, _, values) in enumerate(series):
        finite = values[np.isfinite(values)]
        if len(finite):
            ends.append((float((finite[-1] - low) / (high - low)), index, letter))
    ends.sort()
    for height, (_, index, letter) in zip(spread_apart([end[0] for end in ends], gap=0.07), ends, strict=True):
        axes.text(1.03, height, letter, transform=axes.transAxes, va="center", color=_COLOURS[index], fontweight="bold")


def _curve_description(metric: str, series: Sequence[tuple[str, np.ndarray, np.ndarray]], form: str) -> str:
    parts = []
    for letter, _, values in series:
        finite = values[np.isfinite(values)]
        if len(finite):
            parts.append(f"{letter} from {form.format(finite[0])} to {form.format(finite[-1])}")
    return f"{metric} by epoch: {'; '.join(parts) or 'no values'}."
