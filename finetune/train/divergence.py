"""Early stopping, a hint about a high first loss, and an error after too many non-finite steps."""

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
    """Whether no epoch of a phase improved on its best by more than `min_delta` for `patience` epochs."""
    if rule is None:
        return False
    sign = -1 if rule.metric == "val_loss" else 1
    metrics = [record.get(rule.metric) for record in records if record["phase"] == phase]
    scores = [sign * metric for metric in metrics if metric is not None]
    if len(scores) <= rule.patience:
        return False
    best, since = -math.inf, 0
    for value in scores:
        best, since = (value, 0) if value > best + rule.min_delta else (best, since + 1)
    return since >= rule.patience


def hint_at_first_loss(loss: float, model: VideoClassifier, kind: object) -> str | None:
    """A hint if the first loss is far above ln K, the loss of guessing among K classes; None for several tasks."""
    classes = model.classes
    if model.multitask_spec is not None:
        return None
    guessing = math.log(len(classes))
    if kind != "cross_entropy" or not math.isfinite(loss) or loss < HIGH_FIRST_LOSS * guessing:
        return None
    return (
        f"the first loss is {loss:.2f}, but guessing among {len(classes)} classes gives {guessing:.2f}. "
        "Weights of another model, or features of a wrong scale, can cause this"
    )


def refuse_too_many(
    left_out: int, loss: float, batch: dict[str, Any], manifest: Manifest, train: Train, *, folder: Path
) -> None:
    """Raise DivergedError when more than train.max_nan_steps steps had a gradient that is not finite."""
    if left_out <= train.max_nan_steps:
        return
    files = "\n".join(manifest.clip_name(row) for row in batch["row"].tolist())
    raise DivergedError(
        f"the loss is {loss}, or its gradient is not finite; start another run with a lower lr in this phase, "
        f"train.clip_grad=1.0 or train.precision=fp32. The best epoch is in {RunFolder(folder).checkpoints / 'best'}. "
        f"The clips of this step:\n{files}"
    )
