"""Draw how each task of a run learned beside the others: a small figure for each task and measure."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.report.headline_text import figure as headline_text
from finetune.report.headline_text import number
from finetune.report.run.learning_curves import epoch_axes
from finetune.report.svg import MUTED, STYLE, TRAIN, VAL, SvgFigure, inline_svg

MAX_PAIRS = 15
_LOG_SCALE_RATIO = 30.0  # from the smallest to the largest weight, beyond which their scale is one of powers
_LOWEST_SCORE = -1.0  # an R² may be as low as any; further down nothing is drawn

Values = list[float]


def task_learning_curves(epochs: Sequence[dict[str, Any]], tasks: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Figures of each task and of each pair of tasks; None where epochs say nothing of single tasks."""
    if not any(epoch.get("tasks") for epoch in epochs):
        return None
    weights = {name: _values(epochs, "weights", name) for name in tasks}
    limits = _limits(value for values in weights.values() for value in values)
    return {
        "tasks": [
            _task_figures(epochs, name, task, index) | {"weight": _weight(epochs, weights[name], limits, index)}
            for index, (name, task) in enumerate(tasks.items())
            if task["kind"] in HEADLINE_METRICS
        ],
        "powers": limits[1] > _LOG_SCALE_RATIO * limits[0] > 0,
        "score": _score(epochs) if len(tasks) > 1 else None,
        **_cosines(epochs),
    }


def _task_figures(epochs: Sequence[dict[str, Any]], name: str, task: dict[str, Any], index: int) -> dict[str, Any]:
    key, called = HEADLINE_METRICS[task["kind"]]
    scores = _task_values(epochs, name, f"val_{key}")
    losses = _task_values(epochs, name, "train_loss"), _task_values(epochs, name, "val_loss")
    return {
        "name": name,
        "called": called,
        "loss": _loss(epochs, *losses, name=f"task-{index}-loss"),
        "score": _headline(epochs, scores, task["kind"], name=f"task-{index}-score"),
    }


@matplotlib.rc_context(STYLE)
def _loss(epochs: Sequence[dict[str, Any]], train: Values, val: Values, *, name: str) -> SvgFigure | None:
    known = [value for value in (*train, *val) if math.isfinite(value)]
    if not known:
        return None
    figure, axes = epoch_axes(epochs, small=True)
    _line(axes, epochs, train, colour=TRAIN, dash=(0, (4, 2)))
    _line(axes, epochs, val, colour=VAL)
    axes.set_ylim(min(0.0, 1.08 * min(known)), 1.08 * max(*known, 0.0) or 1.0)
    parts = [f"{part} {_range_text(values)}" for part, values in (("training", train), ("validation", val))]
    return inline_svg(figure, name, label=f"Loss, {_epoch_range_text(epochs)}: {'; '.join(parts)}.")


@matplotlib.rc_context(STYLE)
def _headline(epochs: Sequence[dict[str, Any]], values: Values, kind: str, *, name: str) -> SvgFigure | None:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    (key, called), share = HEADLINE_METRICS[kind], kind not in ("motion", "regress")
    figure, axes = epoch_axes(epochs, small=True)
    lowest = 0.0 if share else max(_LOWEST_SCORE, min(0.0, 1.08 * min(known)))
    _line(axes, epochs, values, colour=VAL, clipped=min(known) < lowest)
    axes.set_ylim(lowest, 1.04)
    if share:
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    told = _range_text(values, lambda value: headline_text(key, value))
    return inline_svg(figure, name, label=f"{called} on validation clips, {_epoch_range_text(epochs)}: {told}.")


@matplotlib.rc_context(STYLE)
def _weight(
    epochs: Sequence[dict[str, Any]], values: Values, limits: tuple[float, float], index: int
) -> SvgFigure | None:
    """All tasks on the same scale, so that the figures of two can be held against each other."""
    if not any(map(math.isfinite, values)):
        return None
    low, high = limits
    figure, axes = epoch_axes(epochs, small=True)
    _line(axes, epochs, values, colour=VAL)
    if high > _LOG_SCALE_RATIO * low > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(low / 1.3, high * 1.3)
    else:
        axes.set_ylim(0, 1.08 * high or 1.0)
    label = f"Weight of the loss, {_epoch_range_text(epochs)}: {_range_text(values)}."
    return inline_svg(figure, f"task-{index}-weight", label=label)


@matplotlib.rc_context(STYLE)
def _score(epochs: Sequence[dict[str, Any]]) -> SvgFigure | None:
    """The figure that the best epoch is chosen by, where it is one of several tasks: the best ringed."""
    values = [_number(epoch.get("val_score")) for epoch in epochs]
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    figure, axes = epoch_axes(epochs)
    _line(axes, epochs, values, colour=VAL)
    best = values.index(max(known))
    axes.plot(epochs[best]["epoch"], values[best], "o", ms=9, mfc="none", mec=VAL, mew=1.5, clip_on=False)
    axes.set_ylim(min(0.0, 1.08 * min(known)), 1.04 * max(1.0, *known))
    label = (
        f"Mean of the tasks' headline figures on validation clips, {_epoch_range_text(epochs)}: {_range_text(values)}."
    )
    return inline_svg(figure, "score", label=label)


def _cosines(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each pair of tasks, those that pull against each other most first."""
    pairs = dict.fromkeys(pair for epoch in epochs for pair in epoch.get("cosines") or {})
    found: list[dict[str, Any]] = []
    for pair in pairs:
        values = _values(epochs, "cosines", pair)
        known = [value for value in values if math.isfinite(value)]
        if known:
            names = tuple(part.strip() for part in pair.split(" | "))
            below = sum(value < 0 for value in known)
            found.append({"names": names, "values": values, "mean": sum(known) / len(known)})
            found[-1] |= {"text": _cosine_text(found[-1]["mean"]), "below": below, "of": len(known)}
    found.sort(key=lambda each: (each["mean"], each["names"]))
    shown = found[:MAX_PAIRS]
    for index, each in enumerate(shown):
        each["figure"] = _cosine(epochs, each["values"], each["names"], name=f"cosine-{index}")
    return {"cosines": shown, "pairs": len(found)}


@matplotlib.rc_context(STYLE)
def _cosine(epochs: Sequence[dict[str, Any]], values: Values, names: Sequence[str], *, name: str) -> SvgFigure:
    figure, axes = epoch_axes(epochs, small=True)
    axes.axhline(0, color=MUTED, lw=1)
    _line(axes, epochs, values, colour=VAL)
    axes.set_ylim(-1.04, 1.04)
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])
    called, told = " and ".join(names), _range_text(values, _cosine_text)
    return inline_svg(figure, name, label=f"Cosine of the gradients of {called}, {_epoch_range_text(epochs)}: {told}.")


def _cosine_text(value: float) -> str:
    text = f"{abs(value):.2f}"
    return f"\u2212{text}" if value < 0 and float(text) else text


def _line(
    axes: Axes,
    epochs: Sequence[dict[str, Any]],
    values: Values,
    *,
    colour: str,
    dash: Any = "solid",
    clipped: bool = False,
) -> None:
    size = 3.5 if len(epochs) <= 40 else 0
    numbers = [epoch["epoch"] for epoch in epochs]
    axes.plot(numbers, values, color=colour, ls=dash, lw=1.6, marker="o", ms=size, clip_on=clipped)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _task_values(epochs: Sequence[dict[str, Any]], task: str, key: str) -> Values:
    return [_number(((epoch.get("tasks") or {}).get(task) or {}).get(key)) for epoch in epochs]


def _values(epochs: Sequence[dict[str, Any]], section: str, key: str) -> Values:
    return [_number((epoch.get(section) or {}).get(key)) for epoch in epochs]


def _number(value: Any) -> float:
    """NaN, a gap in a line, for what is no finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _limits(values: Any) -> tuple[float, float]:
    known = np.array([value for value in values if math.isfinite(value)] or [0.0])
    return float(known.min()), float(known.max())


def _epoch_range_text(epochs: Sequence[dict[str, Any]]) -> str:
    return f"epochs {epochs[0]['epoch']} to {epochs[-1]['epoch']}"


def _range_text(values: Values, form: Callable[[float], str] = number) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"from {form(known[0])} to {form(known[-1])}" if known else "no values"
