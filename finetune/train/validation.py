"""Score the model on the split val after an epoch, and recompute batch norm statistics at the end."""

from itertools import islice
from typing import Any

import numpy as np

from finetune.data.manifest import Manifest
from finetune.feature_cache.cached_clips import CachedClipLoader
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.inference.mask_counts import with_mask_counts
from finetune.inference.predict_split import Predictions, Progress, known_scores_record, predict_rows
from finetune.metrics.detection import rows_with_objects
from finetune.metrics.headline import validation_metrics
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.object_matching import best_score_threshold
from finetune.metrics.own_metric import metric_name, own_metric
from finetune.metrics.tasks import validation_headline
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import set_trainable
from finetune.recipe.schema import Phase
from finetune.recipe.tasks import CLASSIFICATION_KINDS, DENSE_KINDS, DETECTION_KINDS, primary_task
from finetune.train.loaders import TrainLoaders
from finetune.train.optim.precise_bn import compute_bn_statistics
from finetune.train.state.run_writer import RunWriter
from finetune.video.loader import ClipLoader

MAX_BN_BATCHES = 200  # to recompute batch norm statistics on


def validate(
    model: VideoClassifier,
    loader: ClipLoader | CachedClipLoader | None,
    precision: str,
    run: RunWriter,
    progress: Progress | None = None,
    frozen: FrozenPart | None = None,
) -> dict[str, Any]:
    """The validation metrics of an epoch record, over all rows of the split val; values are None without rows."""
    nothing = {"val_loss": None, "val_top1": None}
    if loader is None:
        return nothing
    predictions = predict_rows(model, loader, precision=precision, frozen=frozen, progress=progress)
    predictions = with_mask_counts(predictions, loader.dataset)
    run.record_skipped(list(predictions.skipped.items()))
    run.known_scores = known_scores_record(predictions)
    if not len(predictions.rows):
        return nothing
    truth, primary = run.manifest.truth[predictions.rows], predictions.tasks[model.primary]
    known = truth < len(model.classes) if truth.ndim == 1 else np.ones(len(truth), dtype=bool)
    if run.board is not None and truth.ndim == 1 and model.outputs[model.primary].is_categorical:
        run.board.confusion(model.classes, truth[known], primary[known].argmax(1), epoch=len(run.records) + 1)
    if model.multitask_spec is not None:
        return multitask_val_metrics(run.manifest, predictions)
    own = run.recipe.evaluate.metric
    own_value = {} if own is None else {f"val_{metric_name(own)}": own_metric(own, truth, primary)}
    return own_value | validation_metrics(truth, primary)


def multitask_val_metrics(manifest: Manifest, predictions: Predictions) -> dict[str, Any]:
    """The headline metric and the loss of each task with labelled rows; `val_score` is the mean of the metrics.

    The loss of numbers is the mean Euclidean distance of predictions from labels; that of boxes, detections and masks
    is 1 - their metric. A metric that cannot be measured is None, and is left out of the mean.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for name, values in predictions.tasks.items():
        labels = manifest.tasks[name].at(predictions.rows)
        tasks[name] = _val_metrics(labels.kind, labels.values[labels.known], values[labels.known])
    keys = {name: f"val_{HEADLINE_METRICS[manifest.tasks[name].kind][0]}" for name in tasks}
    scores = [tasks[name][key] for name, key in keys.items() if tasks[name].get(key) is not None]
    if not scores:
        return {"val_loss": None, "val_top1": None, "tasks": tasks}
    primary = tasks[primary_task(manifest.tasks)]
    losses = [task["val_loss"] for task in tasks.values() if task.get("val_loss") is not None]
    return {
        "val_loss": float(np.mean(losses)),
        "val_top1": primary.get("val_top1"),
        "val_score": float(np.mean(scores)),
        "tasks": tasks,
    }


def _val_metrics(kind: str, truth: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    if not len(truth):
        return {}
    if kind in CLASSIFICATION_KINDS:
        return validation_metrics(truth, predicted)
    headline = validation_headline(kind, truth, predicted)
    figures: dict[str, Any] = {f"val_{name}": value for name, value in headline.items()}
    if kind in DETECTION_KINDS:
        figures["score_threshold"] = best_score_threshold(*rows_with_objects(truth, predicted))
    if kind in ("box", *DENSE_KINDS):
        (value,) = headline.values()
        return figures | {"val_loss": None if value is None else 1 - value}
    if kind == "ordinal":
        return figures | {"val_loss": float(np.abs(predicted.argmax(1) - truth).mean())}
    return figures | {"val_loss": float(np.linalg.norm(predicted - truth, axis=1).mean())}


def merge_metrics(training: dict[str, Any], validation: dict[str, Any]) -> dict[str, Any]:
    """The metrics of training and validation in one record, also merged within each task."""
    by_task = training.get("tasks", {})
    tasks = {name: figures | validation.get("tasks", {}).get(name, {}) for name, figures in by_task.items()}
    return training | validation | ({"tasks": tasks} if tasks else {})


def recompute_bn_statistics(
    model: VideoClassifier, loaders: TrainLoaders, phase: Phase, precision: str, *, epoch: int
) -> int:
    """Recompute batch norm statistics on training clips, for layers that `phase` updated; the number of layers."""
    set_trainable(model, phase.unfreeze, batch_norm=phase.batch_norm)
    loader, batches = loaders.of(phase)
    batches.begin(epoch)
    clips = (batch["clips"].flatten(0, 1) for batch in islice(loader, MAX_BN_BATCHES) if batch["clips"] is not None)
    return compute_bn_statistics(model, clips, precision=precision)
