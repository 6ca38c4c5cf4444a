"""How good the model is on the split val, and batch norm measured anew for it."""

from itertools import islice
from typing import Any

import numpy as np

from finetune.data.manifest import Manifest
from finetune.feature_cache.cached_clips import CachedClipLoader
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.inference.predict_split import Predictions, Progress, predict_rows
from finetune.metrics.headline import validation_metrics
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.tasks import validation_headline
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import set_trainable
from finetune.recipe.schema import Phase
from finetune.recipe.tasks import CLASSIFICATION_KINDS, primary_task
from finetune.train.loaders import TrainLoaders
from finetune.train.optim.precise_bn import compute_bn_statistics
from finetune.train.state.run_writer import RunWriter
from finetune.video.loader import ClipLoader

MAX_BN_BATCHES = 200  # batches to measure batch norm on


def validate(
    model: VideoClassifier,
    loader: ClipLoader | CachedClipLoader | None,
    precision: str,
    run: RunWriter,
    progress: Progress | None = None,
    frozen: FrozenPart | None = None,
) -> dict[str, Any]:
    """What a record of an epoch says of the split val, each row counted once; None where there are no rows."""
    nothing = {"val_loss": None, "val_top1": None}
    if loader is None:
        return nothing
    said = predict_rows(model, loader, precision=precision, frozen=frozen, progress=progress)
    run.record_skipped(list(said.skipped.items()))
    if not len(said.rows):
        return nothing
    truth, primary = run.manifest.truth[said.rows], said.tasks[model.primary]
    known = truth < len(model.classes) if truth.ndim == 1 else np.ones(len(truth), dtype=bool)
    if run.board is not None and truth.ndim == 1 and model.outputs[model.primary].is_categorical:
        run.board.confusion(model.classes, truth[known], primary[known].argmax(1), epoch=len(run.records) + 1)
    return (
        validation_metrics(truth, primary)
        if model.multitask_spec is None
        else multitask_val_metrics(run.manifest, said)
    )


def multitask_val_metrics(manifest: Manifest, said: Predictions) -> dict[str, Any]:
    """Of each task that rows have the label of: what `val_score` is the mean of, and by how much it errs.

    The error of numbers is the mean distance of what is said, that of boxes how far their overlap is from whole.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for name, values in said.tasks.items():
        labels = manifest.tasks[name].at(said.rows)
        tasks[name] = _val_metrics(labels.kind, labels.values[labels.known], values[labels.known])
    scores = [tasks[name][f"val_{HEADLINE_METRICS[manifest.tasks[name].kind][0]}"] for name in tasks if tasks[name]]
    if not scores:
        return {"val_loss": None, "val_top1": None, "tasks": tasks}
    primary = tasks[primary_task(manifest.tasks)]
    losses = [task["val_loss"] for task in tasks.values() if task]
    return {
        "val_loss": float(np.mean(losses)),
        "val_top1": primary.get("val_top1"),
        "val_score": float(np.mean(scores)),
        "tasks": tasks,
    }


def _val_metrics(kind: str, truth: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    if not len(truth):
        return {}
    if kind in CLASSIFICATION_KINDS:
        return validation_metrics(truth, said)
    figures = {f"val_{name}": value for name, value in validation_headline(kind, truth, said).items()}
    if kind == "ordinal":
        return figures | {"val_loss": float(np.abs(said.argmax(1) - truth).mean())}
    error = 1 - figures["val_mean_iou"] if kind == "box" else float(np.linalg.norm(said - truth, axis=1).mean())
    return figures | {"val_loss": error}


def merge_metrics(training: dict[str, Any], validation: dict[str, Any]) -> dict[str, Any]:
    """What a record says of training and validation, each task's figures of both together."""
    tasks = {name: told | validation.get("tasks", {}).get(name, {}) for name, told in training.get("tasks", {}).items()}
    return training | validation | ({"tasks": tasks} if tasks else {})


def recompute_bn_statistics(
    model: VideoClassifier, loaders: TrainLoaders, phase: Phase, precision: str, *, epoch: int
) -> int:
    """Measure batch norm anew on training clips, where the phase of the best weights updated it."""
    set_trainable(model, phase.unfreeze, batch_norm=phase.batch_norm)
    loader, batches = loaders.of(phase)
    batches.begin(epoch)
    clips = (batch["clips"].flatten(0, 1) for batch in islice(loader, MAX_BN_BATCHES) if batch["clips"] is not None)
    return compute_bn_statistics(model, clips, precision=precision)
