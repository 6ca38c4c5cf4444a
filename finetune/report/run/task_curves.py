"""Draw loss, headline metric and loss weight of each task by epoch, and cosines between the gradients of tasks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.report.headline_text import format_headline_value, format_number
from finetune.report.run.learning_curves import epoch_axes
from finetune.report.svg import INK, MUTED, STYLE, TRAIN, VAL, SvgFigure, inline_svg, spread_apart

MAX_PAIRS = 15
_LOG_SCALE_RATIO = 30.0  # largest to smallest weight, beyond which their scale is logarithmic
_LOWEST_SCORE = -1.0  # R² has no lower bound; lower values are clipped

Values = list[float]


def task_learning_curves(epochs: Sequence[dict[str, Any]], tasks: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Figures of each task and of each pair of tasks; None where epoch records have no values of single tasks."""
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
        "log_scale": limits[1] > _LOG_SCALE_RATIO * limits[0] > 0,
        "score": _score(epochs) if len(tasks) > 1 else None,
        **_cosines(epochs),
    }


def _task_figures(epochs: Sequence[dict[str, Any]], name: str, task: dict[str, Any], index: int) -> dict[str, Any]:
    key, metric = HEADLINE_METRICS[task["kind"]]
    scores = _task_values(epochs, name, f"val_{key}")
    losses = _task_values(epochs, name, "train_loss"), _task_values(epochs, name, "val_loss")
    return {
        "name": name,
        "metric": metric,
        "loss": _loss(epochs, *losses, name=f"task-{index}-loss"),
        "score": _headline(epochs, scores, task["kind"], name=f"task-{index}-score"),
        "parts": _loss_parts(epochs, name, index),
    }


@matplotlib.rc_context(STYLE)
def _loss_parts(epochs: Sequence[dict[str, Any]], task: str, index: int) -> SvgFigure | None:
    """The training loss of boxes, classes and motion, each with its own line; None where a loss has no parts."""
    records = [((epoch.get("tasks") or {}).get(task) or {}).get("train_loss_parts") or {} for epoch in epochs]
    names = list(dict.fromkeys(name for record in records for name in record))
    lines = {name: [_number(record.get(name)) for record in records] for name in names}
    known = [value for values in lines.values() for value in values if math.isfinite(value)]
    if not known:
        return None
    figure, axes = epoch_axes(epochs)
    axes.set_ylim(min(0.0, 1.08 * min(known)), 1.08 * max(*known, 0.0) or 1.0)
    low, high = axes.get_ylim()
    ends = []
    for number, (name, values) in enumerate(lines.items()):
        colour, dash = _PART_STYLES[number % len(_PART_STYLES)]
        _line(axes, epochs, values, colour=colour, dash=dash)
        last = next((value for value in reversed(values) if math.isfinite(value)), low)
        ends.append(((last - low) / (high - low), name, colour))
    ends.sort()
    for height, (_, name, colour) in zip(spread_apart([end[0] for end in ends], gap=0.085), ends, strict=True):
        axes.text(1.02, height, name, transform=axes.transAxes, va="center", color=colour, parse_math=False)
    spans = [f"{name} {_range_text(values)}" for name, values in lines.items()]
    label = f"Parts of the training loss, {_epoch_range_text(epochs)}: {'; '.join(spans)}."
    return inline_svg(figure, f"task-{index}-parts", label=label)


_PART_STYLES: tuple[tuple[str, Any], ...] = (
    *((VAL, "solid"), (TRAIN, (0, (4, 2))), (INK, (0, (1, 1.5))), (MUTED, (0, (6, 2, 1, 2)))),
)


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
    (key, metric), is_share = HEADLINE_METRICS[kind], kind not in ("motion", "regress")
    figure, axes = epoch_axes(epochs, small=True)
    lowest = 0.0 if is_share else max(_LOWEST_SCORE, min(0.0, 1.08 * min(known)))
    _line(axes, epochs, values, colour=VAL, clipped=min(known) < lowest)
    axes.set_ylim(lowest, 1.04)
    if is_share:
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    span = _range_text(values, lambda value: format_headline_value(key, value))
    return inline_svg(figure, name, label=f"{metric} on validation clips, {_epoch_range_text(epochs)}: {span}.")


@matplotlib.rc_context(STYLE)
def _weight(
    epochs: Sequence[dict[str, Any]], values: Values, limits: tuple[float, float], index: int
) -> SvgFigure | None:
    """The loss weight; `limits` are those of all tasks, so that their figures can be compared."""
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
    label = f"Loss weight, {_epoch_range_text(epochs)}: {_range_text(values)}."
    return inline_svg(figure, f"task-{index}-weight", label=label)


@matplotlib.rc_context(STYLE)
def _score(epochs: Sequence[dict[str, Any]]) -> SvgFigure | None:
    """The mean of the tasks' headline metrics, by which the best epoch is chosen; that epoch is ringed."""
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
        f"Mean headline metric of the tasks on validation clips, {_epoch_range_text(epochs)}: {_range_text(values)}."
    )
    return inline_svg(figure, "score", label=label)


def _cosines(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pairs of tasks with the lowest mean cosine, up to MAX_PAIRS, the lowest first; `num_pairs` counts all."""
    keys = dict.fromkeys(key for epoch in epochs for key in epoch.get("cosines") or {})
    pairs: list[dict[str, Any]] = []
    for key in keys:
        values = _values(epochs, "cosines", key)
        known = [value for value in values if math.isfinite(value)]
        if known:
            mean, names = sum(known) / len(known), tuple(name.strip() for name in key.split(" | "))
            pairs.append({"names": names, "values": values, "mean": mean, "text": _cosine_text(mean)})
            pairs[-1] |= {"num_negative": sum(value < 0 for value in known), "num_epochs": len(known)}
    pairs.sort(key=lambda pair: (pair["mean"], pair["names"]))
    shown = pairs[:MAX_PAIRS]
    for index, pair in enumerate(shown):
        pair["figure"] = _cosine(epochs, pair["values"], pair["names"], name=f"cosine-{index}")
    return {"cosines": shown, "num_pairs": len(pairs)}


@matplotlib.rc_context(STYLE)
def _cosine(epochs: Sequence[dict[str, Any]], values: Values, names: Sequence[str], *, name: str) -> SvgFigure:
    figure, axes = epoch_axes(epochs, small=True)
    axes.axhline(0, color=MUTED, lw=1)
    _line(axes, epochs, values, colour=VAL)
    axes.set_ylim(-1.04, 1.04)
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])
    label = f"Cosine between the gradients of {' and '.join(names)}, {_epoch_range_text(epochs)}: "
    return inline_svg(figure, name, label=f"{label}{_range_text(values, _cosine_text)}.")


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
    """NaN, drawn as a gap, for anything but a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _limits(values: Any) -> tuple[float, float]:
    known = np.array([value for value in values if math.isfinite(value)] or [0.0])
    return float(known.min()), float(known.max())


def _epoch_range_text(epochs: Sequence[dict[str, Any]]) -> str:
    return f"epochs {epochs[0]['epoch']} to {epochs[-1]['epoch']}"


def _range_text(values: Values, form: Callable[[float], str] = format_number) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"from {form(known[0])} to {form(known[-1])}" if known else "no values"
