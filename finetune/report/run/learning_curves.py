"""Draw loss, accuracy and learning rates by epoch: epoch records in, inline SVG out.

Nothing is told by colour alone: lines also differ in dash and are labelled at their end, frozen cells are hatched.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.report.svg import (
    BAND,
    HATCH,
    INK,
    LINE,
    MUTED,
    PAGE,
    POINTS_PER_LETTER,
    STYLE,
    TRAIN,
    VAL,
    SvgFigure,
    axes_in_points,
    fill_with_opacity,
    inline_svg,
    short_label,
    spread_apart,
    text_width,
)


class PhaseSpan(NamedTuple):
    """A training phase: epochs `first` to `last`, both included, with the stages that learn in it.

    `cache` says whether features of frozen stages were cached, as a sentence.
    """

    number: int
    train: str
    first: int
    last: int
    learning: tuple[str, ...]
    cache: str = ""


def phases_from_epochs(epochs: Sequence[dict[str, Any]]) -> list[PhaseSpan]:
    """The phases in order, numbered from 1; epoch records number them from 0."""
    runs = [list(run) for _, run in itertools.groupby(epochs, key=lambda epoch: epoch["phase"])]
    return [
        PhaseSpan(
            run[0]["phase"] + 1,
            run[0]["train"],
            run[0]["epoch"],
            run[-1]["epoch"],
            tuple(run[0]["learning"]),
            run[0].get("cache", {}).get("words", ""),
        )
        for run in runs
    ]


def best_epoch(epochs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The epoch with the best validation score; ties go to the lower loss, then the earlier one. None without any."""
    validated = [epoch for epoch in epochs if _selection_metric(epoch) is not None]
    return max(
        validated,
        key=lambda epoch: (_selection_metric(epoch), -(epoch.get("val_loss") or 0.0)),
        default=None,
    )


def _selection_metric(epoch: dict[str, Any]) -> float | None:
    """With several tasks the mean of their headline metrics, else the metric of the only one."""
    values = (epoch.get(key) for key in ("val_score", "val_map", "val_top1"))
    return next((value for value in values if value is not None), None)


@matplotlib.rc_context(STYLE)
def loss_curve(epochs: Sequence[dict[str, Any]]) -> SvgFigure:
    """Training and validation loss by epoch; a missing value is a gap in the line."""
    figure, axes = epoch_axes(epochs)
    lines = _draw_lines(axes, epochs, "loss")
    highest = max((value for line in lines for value in line if math.isfinite(value)), default=1.0)
    axes.set_ylim(0, 1.08 * highest or 1.0)
    _label_lines(axes, lines)
    return inline_svg(figure, "loss", label=_curve_description("Loss", epochs, lines, "{:.3g}"))


@matplotlib.rc_context(STYLE)
def accuracy_curve(epochs: Sequence[dict[str, Any]]) -> SvgFigure:
    """Training and validation top-1 by epoch, always on 0 to 100 %, the best validation epoch ringed."""
    figure, axes = epoch_axes(epochs)
    lines = _draw_lines(axes, epochs, "top1")
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    best = best_epoch(epochs)
    if best and best.get("val_top1") is not None:
        axes.plot(best["epoch"], best["val_top1"], "o", ms=9, mfc="none", mec=VAL, mew=1.5, clip_on=False)
    _label_lines(axes, lines)
    return inline_svg(figure, "accuracy", label=_curve_description("Top-1 accuracy", epochs, lines, "{:.1%}"))


@matplotlib.rc_context(STYLE)
def learning_rate_map(epochs: Sequence[dict[str, Any]]) -> SvgFigure:
    """A heat map, stages by epochs: stronger colour is a higher learning rate, on a log scale; hatched is frozen."""
    stages = list(epochs[0]["lr"])
    rates = np.array([[_learning_rate(epoch, stage) for epoch in epochs] for stage in stages])
    labels = [short_label(stage) for stage in stages]
    left = 22 + POINTS_PER_LETTER * max(map(text_width, labels))
    height = 20 * len(stages)
    figure, axes = axes_in_points(width=690, height=height, margins=(left, 66, 26, 70))
    first, last = epochs[0]["epoch"] - 0.5, epochs[-1]["epoch"] + 0.5
    low, high = _lr_limits(rates)
    extent = (first, last, len(stages), 0)
    axes.imshow(_lr_colours(rates, low, high), aspect="auto", interpolation="none", extent=extent)
    for row, row_rates in enumerate(rates):
        _hatch(axes, _true_spans(np.isnan(row_rates), first), row)
        peak = f"{np.nanmax(row_rates):.1e}" if np.isfinite(row_rates).any() else "frozen"
        _label_beside(axes, (last, row + 0.5), _short_exponent(peak))
    axes.hlines(range(1, len(stages)), first, last, color=PAGE, lw=2)
    _draw_phases(axes, epochs, border=PAGE)
    _label_beside(axes, (last, -0.55), "maximum")
    axes.set_yticks(np.arange(len(stages)) + 0.5, labels, color=INK, parse_math=False)
    axes.set_ylim(len(stages), 0)
    axes.set_xlim(first, last)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _lr_legend(figure, low, high, left=left)
    trained = "; ".join(
        f"phase {phase.number}, epochs {phase.first} to {phase.last}: {', '.join(phase.learning)}"
        for phase in phases_from_epochs(epochs)
    )
    label = f"Learning rate of each stage by epoch. Trained stages: {trained}; all others are frozen."
    return inline_svg(figure, "learning-rates", label=label)


def epoch_axes(epochs: Sequence[dict[str, Any]], *, small: bool = False) -> tuple[Figure, Axes]:
    """Axes with the epochs from left to right and phases as bands; `small` leaves no room for line labels."""
    size: dict[str, Any] = {"width": 375, "height": 170, "margins": (42, 64, 24, 36)}
    if small:
        size = {"width": 246, "height": 104, "margins": (42, 12, 22, 34)}
    figure, axes = axes_in_points(**size)
    axes.set_xlim(epochs[0]["epoch"] - 0.5, epochs[-1]["epoch"] + 0.5)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5 if small else 8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color=LINE, lw=0.8)
    _draw_phases(axes, epochs, border=None)
    return figure, axes


def _draw_phases(axes: Axes, epochs: Sequence[dict[str, Any]], *, border: str | None) -> None:
    """Mark phases by bands, or by lines of colour `border`, with their names above."""
    points = axes.get_position().width * axes.figure.get_size_inches()[0] * 72  # type: ignore[union-attr]
    phases = phases_from_epochs(epochs)
    for phase, name in zip(phases, _phase_names(phases, points / len(epochs)), strict=True):
        start, end = phase.first - 0.5, phase.last + 0.5
        if border and phase.first > epochs[0]["epoch"]:
            axes.axvline(start, color=border, lw=3)
        elif not border and phase.number % 2:
            axes.axvspan(start, end, color=BAND, lw=0, zorder=0)
        axes.annotate(
            name,
            (start, 1),
            (2, 5),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
            color=MUTED,
            parse_math=False,
        )


def _phase_names(phases: Sequence[PhaseSpan], points_per_epoch: float) -> list[str]:
    """Number and stages where that fits above every phase, else the number only."""
    for form in ("phase {}: {}", "{}: {}"):
        names = [form.format(phase.number, short_label(phase.train)) for phase in phases]
        room = [points_per_epoch * (phase.last + 1 - phase.first) for phase in phases]
        if all(0.85 * POINTS_PER_LETTER * text_width(name) <= width for name, width in zip(names, room, strict=True)):
            return names
    return [str(phase.number) for phase in phases]


def _draw_lines(axes: Axes, epochs: Sequence[dict[str, Any]], measure: str) -> list[np.ndarray]:
    numbers = [epoch["epoch"] for epoch in epochs]
    size = 4 if len(epochs) <= 40 else 0
    lines = []
    for part, colour, dash in (("train", TRAIN, (0, (4, 2))), ("val", VAL, "solid")):
        values = np.array([_number(epoch.get(f"{part}_{measure}")) for epoch in epochs])
        axes.plot(numbers, values, color=colour, ls=dash, lw=1.8, marker="o", ms=size, clip_on=False)
        lines.append(values)
    return lines


def _label_lines(axes: Axes, lines: Sequence[np.ndarray]) -> None:
    """Write the name of each line at its end; labels that would overlap are moved apart."""
    low, high = axes.get_ylim()
    ends = []
    for name, colour, values in zip(("training", "validation"), (TRAIN, VAL), lines, strict=True):
        finite = values[np.isfinite(values)]
        if len(finite):
            ends.append((float((finite[-1] - low) / (high - low)), name, colour))
    ends.sort()
    heights = spread_apart([end[0] for end in ends], gap=0.085)
    for height, (_, name, colour) in zip(heights, ends, strict=True):
        axes.text(1.02, height, name, transform=axes.transAxes, va="center", color=colour, fontweight="bold")


def _curve_description(what: str, epochs: Sequence[dict[str, Any]], lines: Sequence[np.ndarray], form: str) -> str:
    parts = []
    for name, values in zip(("training", "validation"), lines, strict=True):
        finite = values[np.isfinite(values)]
        if len(finite):
            parts.append(f"{name} from {form.format(finite[0])} to {form.format(finite[-1])}")
    return f"{what}, epochs {epochs[0]['epoch']} to {epochs[-1]['epoch']}: {', '.join(parts) or 'no values'}."


def _learning_rate(epoch: dict[str, Any], stage: str) -> float:
    """NaN for a frozen stage; a stage that learns may have the rate 0, in a warm-up."""
    return float(epoch["lr"].get(stage, 0.0)) if stage in epoch["learning"] else math.nan


def _lr_limits(rates: np.ndarray) -> tuple[float, float]:
    positive = rates[rates > 0]
    return (float(positive.min()), float(positive.max())) if positive.size else (1.0, 1.0)


def _lr_colours(rates: np.ndarray, low: float, high: float) -> np.ndarray:
    span = math.log(high / low) or 1.0
    strength = np.log(np.clip(np.nan_to_num(rates, nan=low), low, high) / low) / span if high > low else 1.0
    return fill_with_opacity(np.where(np.isnan(rates), 0.0, 0.3 + 0.7 * strength))


def _true_spans(flags: np.ndarray, first: float) -> list[tuple[float, float]]:
    """(start, length) of each run of True in flags (N,); `first` is the position of flags[0]."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return [(first + start, end - start) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _label_beside(axes: Axes, point: tuple[float, float], text: str) -> None:
    axes.annotate(text, point, (8, 0), textcoords="offset points", va="center", color=MUTED, annotation_clip=False)


def _hatch(axes: Axes, runs: list[tuple[float, float]], row: float) -> None:
    for start, length in runs:
        axes.broken_barh([(start, length)], (row, 1), facecolor="none", edgecolor=HATCH, hatch="/////", lw=0)


def _lr_legend(figure: Figure, low: float, high: float, *, left: float) -> None:
    """Below the heat map: what hatching means, and the colour scale from the lowest to the highest rate."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes((left / width, 8 / height, (width - left) / width, 12 / height), frame_on=False)
    axes.set_axis_off()
    axes.set_xlim(0, width - left)
    axes.set_ylim(0, 1)
    _hatch(axes, [(0, 26)], 0)
    axes.text(32, 0.5, "frozen", va="center", color=MUTED)
    axes.text(132, 0.5, "learning rate", va="center", color=MUTED)
    scale = fill_with_opacity(np.linspace(0.3, 1, 64)[None] if high > low else np.ones((1, 1)))
    axes.imshow(scale, aspect="auto", interpolation="none", extent=(244, 364, 0, 1))
    if high > low:
        axes.text(238, 0.5, _short_exponent(f"{low:.1e}"), va="center", ha="right", color=MUTED)
    axes.text(370, 0.5, _short_exponent(f"{high:.1e}"), va="center", color=MUTED)
    axes.set_xlim(0, width - left)


def _short_exponent(rate: str) -> str:
    """1.0e-04 as 1e-4."""
    return re.sub(r"(?:\.0)?e([+-])0*(\d)", r"e\1\2", rate).replace("e+", "e").removesuffix("e0")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
