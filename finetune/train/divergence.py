"""Watch over training: early stopping, a hint at a high first loss, an error after too many non-finite steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import DivergedError
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import EarlyStopping, Train
from finetune.run.folder import RunFolder

HIGH_FIRST_LOSS = 2.0  # times the loss of guessing


def should_stop_early(records: Sequence[dict[str, Any]], phase: int, rule: EarlyStopping | None) -> bool:
    """Whether the last `patience` epochs of a phase were no better than its best epoch before them."""
    if rule is None:
        return False
    sign = -1 if rule.metric == "val_loss" else 1
    of_phase = [each.get(rule.metric) for each in records if each["phase"] == phase]
    found = [sign * value for value in of_phase if value is not None]
    if len(found) <= rule.patience:
        return False
    best, since = -math.inf, 0
    for value in found:
        best, since = (value, 0) if value > best + rule.min_delta else (best, since + 1)
    return since >= rule.patience


def hint_at_first_loss(loss: float, model: VideoClassifier, kind: str) -> str | None:
    """A hint where the first loss is far above ln K, the loss of guessing among K classes; none for several tasks."""
    classes = model.classes
    if model.multitask_spec is not None:
        return None
    guessing = math.log(len(classes))
    if kind != "cross_entropy" or not math.isfinite(loss) or loss < HIGH_FIRST_LOSS * guessing:
        return None
    return (
        f"the loss begins at {loss:.2f}; guessing among {len(classes)} classes costs {guessing:.2f}. "
        "Weights that were not made for this model, or features out of scale, look like this"
    )


def refuse_too_many(
    left_out: int, loss: float, batch: dict[str, Any], manifest: Manifest, train: Train, *, folder: Path
) -> None:
    """Raise DivergedError when more than train.max_nan_steps steps had a gradient that is not finite."""
    if left_out <= train.max_nan_steps:
        return
    files = "\n".join(str(manifest.path(row)) for row in batch["row"].tolist())
    raise DivergedError(
        f"the loss is {loss}, or its gradient no number; lower the phase's lr, or set train.clip_grad=1.0 or "
        f"train.precision=fp32, in another run. The best epoch is kept in {RunFolder(folder).checkpoints / 'best'}. "
        f"The clips of this step:\n{files}"
    )
