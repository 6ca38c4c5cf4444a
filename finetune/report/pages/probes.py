"""Show the accuracy of probes on frozen features: a figure as an SVG file, and a table in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from finetune.metrics.intervals import FOLD_ERROR_NOTE
from finetune.storage.atomic import atomic_file

COLOURS = ("#0b5494", "#b3541e", "#3b7d3b", "#7a4fa3", "#8a6d00", "#5b5b5b")
MARKERS = "osD^vP"


@matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "finetune", "font.size": 10})
def draw_probes(path: Path, probes: Sequence[dict[str, Any]], *, chance: float) -> None:
    """Accuracy with its interval by computing time; colours are backbones, markers are classifiers."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    backbones = list(dict.fromkeys(probe["backbone"] for probe in probes))
    methods = list(dict.fromkeys(probe["method"] for probe in probes))
    for probe in probes:
        seconds = probe["seconds_of_features"] + probe["seconds"]
        low, high = probe["interval"]
        axes.errorbar(
            seconds,
            probe["top1"],
            yerr=[[probe["top1"] - low], [high - probe["top1"]]],
            fmt=MARKERS[methods.index(probe["method"]) % len(MARKERS)],
            color=COLOURS[backbones.index(probe["backbone"]) % len(COLOURS)],
            ms=6,
            lw=0.8,
        )
    axes.axhline(chance, color="0.6", ls=":", lw=1)
    axes.annotate("majority-class baseline", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    for name, colour in zip(backbones, COLOURS * len(backbones), strict=False):
        axes.plot([], [], "-", color=colour, lw=5, label=name)
    for name, marker in zip(methods, MARKERS * len(methods), strict=False):
        axes.plot([], [], marker, color="0.4", label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time for features and classifier (s)")
    axes.set_ylabel("top-1 accuracy, cross-validated")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    with atomic_file(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


def probe_table(probes: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of the probes, in the given order, with a note on the intervals."""
    lines = [
        "| backbone | classifier | top-1 | 95 % interval | features (s) | classifier (s) |",
        "|---" * 6 + "|",
    ]
    for probe in probes:
        low, high = probe["interval"]
        lines.append(
            f"| {probe['backbone']} | {probe['method']} | {probe['top1']:.3f} | {low:.3f} to {high:.3f} "
            f"| {probe['seconds_of_features']:.0f} | {probe['seconds']:.1f} |"
        )
    return "\n".join(lines) + f"\n\nIntervals are {FOLD_ERROR_NOTE}.\n"
