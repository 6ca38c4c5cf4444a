"""Draw precision-recall curves of detections: numbers in, inline SVG out."""

from typing import Any

import matplotlib
import numpy as np

from finetune.report.run.calibration_plots import percent_axes
from finetune.report.svg import MUTED, STYLE, TRAIN, VAL, SvgFigure, inline_svg


@matplotlib.rc_context(STYLE)
def precision_recall_figure(curves: dict[str, Any], *, name: str) -> SvgFigure:
    """Precision by recall at IoU 0.5: thin lines are classes, the thick one is their mean; dashed: at IoU 0.75."""
    figure, axes = percent_axes("recall", "precision")
    for of_class in curves.get("classes", []):
        axes.plot(curves["recall"], of_class["precision"], color=MUTED, lw=0.8, clip_on=False)
    if curves.get("precision_75"):
        axes.plot(curves["recall"], curves["precision_75"], color=TRAIN, lw=1.8, ls=(0, (4, 2)), clip_on=False)
    axes.plot(curves["recall"], curves["precision"], color=VAL, lw=2.2, clip_on=False)
    precision = np.array(curves["precision"])
    reached = np.flatnonzero(precision > 0)
    furthest = curves["recall"][reached[-1]] if len(reached) else 0.0
    half = precision[len(precision) // 2]
    label = f"Mean precision over classes at IoU 0.5: {half:.1%} at a recall of 50%; recall reaches {furthest:.0%}."
    return inline_svg(figure, name, label=label)
