"""Draw a learning rate range test as one SVG file."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from finetune.storage.atomic import atomic_file


@matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "finetune", "font.size": 10})
def draw_lr_range_test(
    path: Path, rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], *, chosen: float | None
) -> None:
    """Loss of each step (dots) and its running mean (line) by learning rate, on a log scale; `chosen` is marked."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, ".", color="0.65", label="loss per step")
    axes.plot(rates, smoothed, "-", color="#0b5494", lw=2, label="running mean")
    if chosen is not None:
        axes.axvline(chosen, color="#b3541e", ls="--", label=f"steepest descent: {chosen:.1e}")
    axes.set_xscale("log")
    axes.set_ylim(0, 2 * smoothed[0])
    axes.set_xlabel("learning rate of new layers")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})
