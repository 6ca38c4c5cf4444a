"""The headline metric, by which models are chosen and compared; and all metrics of classification tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.metrics.calibration import calibration_metrics, fit_temperature
from finetune.metrics.classification import score_multiclass, top1_and_loss
from finetune.metrics.curves import accuracy_by_coverage, ap_and_auroc, ranking_curves
from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
from finetune.metrics.multilabel import best_thresholds, binary_log_loss, mean_average_precision, score_multilabel
from finetune.metrics.open_set import REJECTION_SCORE
from finetune.text import count


def headline_metric(task: Mapping[str, Any]) -> tuple[str, float | None, tuple[float, float]]:
    """Name, value and 95 % interval of the headline metric of a task in results.json; higher is better for every kind.

    The value is None where nothing can be measured: no true object, or no labelled pixel. Where the interval is unknown
    it is the metric's whole range: 0…1, -1…1 for a correlation, -inf…1 for R².
    """
    key, name = HEADLINE_METRICS[task["kind"]]
    low, high = task[f"{key}_ci"] or metric_range(task["kind"])
    return name, task[key], (low, high)


def format_headline(task: Mapping[str, Any]) -> str:
    """The headline metric and its interval as one line of text."""
    name, value, (low, high) = headline_metric(task)
    if value is None:
        return f"{name} unknown (nothing to find)"
    return f"{name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})"


def format_events(timeline: Mapping[str, Any]) -> str:
    """The main metrics of events in recordings, see `localization_metrics`, as one line of text."""
    value, ends = timeline["f1_50"], timeline["f1_50_ci"]
    if value is None:
        return f"none, true or predicted, in {count(timeline['num_recordings'], 'recording')}"
    interval = "" if ends is None else f" (95 % interval {ends[0]:.3f} to {ends[1]:.3f})"
    return f"F1@50 {value:.3f}{interval} in {count(timeline['num_recordings'], 'recording')}"


def format_retrieval(retrieval: Mapping[str, Any]) -> str:
    """The main metrics of `retrieval_metrics`, each with its interval and chance level, as one line of text."""
    if not retrieval["num_queries"]:
        return f"no figures: none of {count(retrieval['num_without_match'], 'clip')} has a clip of its class to find"
    texts = []
    for key, name in (("map", "mAP"), ("recall_1", "recall@1"), ("recall_5", "recall@5")):
        ends = retrieval[f"{key}_ci"]
        interval = "" if ends is None else f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}, "
        texts.append(f"{name} {retrieval[key]:.3f} ({interval}chance {retrieval[f'{key}_chance']:.3f})")
    without_match = f"; {count(retrieval['num_without_match'], 'clip')} with nothing to find left out" * bool(
        retrieval["num_without_match"]
    )
    return f"{', '.join(texts)}, median rank {retrieval['median_rank']:g}{without_match}"


def format_open_set(open_set: Mapping[str, Any]) -> str:
    """How well clips of unknown classes are told by the score of `predict --reject`, as one line of text."""
    score = open_set["scores"][REJECTION_SCORE]
    ends = score["auroc_ci"]
    interval = "" if ends is None else f" (95 % interval {ends[0]:.3f} to {ends[1]:.3f})"
    clips = count(open_set["num_unknown"], "clip")
    return f"AUROC {score['auroc']:.3f}{interval}, {score['accepted']:.1%} of {clips} accepted with 95 % of the known"


def score_classification(
    truth: np.ndarray,
    probs_NK: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None,
    predicted_NK: np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
) -> dict[str, Any]:
    """All metrics of a classification task for results.json, from probabilities `probs_NK` (N, K).

    `truth` are labels (N,), or classes that are present, bool (N, K), with `predicted_NK`, bool (N, K).
    """
    if truth.ndim == 2:
        assert predicted_NK is not None
        task = score_multilabel(truth, probs_NK, predicted_NK, classes=classes, thresholds=thresholds, groups=groups)
        targets_NK, abstain = truth, {}
    else:
        task = score_multiclass(truth, probs_NK, classes=classes, groups=groups)
        targets_NK = truth[:, None] == np.arange(len(classes))
        abstain = {"abstain": accuracy_by_coverage(probs_NK.max(1), probs_NK.argmax(1) == truth, groups)}
    ranked = ap_and_auroc(targets_NK, probs_NK)
    task["per_class"] = [row | rank_metrics for row, rank_metrics in zip(task["per_class"], ranked, strict=True)]
    return task | {
        "calibration": calibration_metrics(truth, probs_NK, groups),
        "curves": ranking_curves(targets_NK, probs_NK, classes),
        **abstain,
    }


def validation_metrics(truth: np.ndarray, probs_NK: np.ndarray) -> dict[str, Any]:
    """Metrics of the validation split after an epoch, for metrics.jsonl; `truth` as in `score_classification`."""
    if truth.ndim == 1:
        top1, loss = top1_and_loss(truth, probs_NK)
        return {"val_loss": loss, "val_top1": top1, "temperature": fit_temperature(truth, probs_NK)}
    return {
        "val_loss": binary_log_loss(truth, probs_NK),
        "val_top1": float(truth[np.arange(len(truth)), probs_NK.argmax(1)].mean()),
        "val_map": mean_average_precision(truth, probs_NK),
        "thresholds": best_thresholds(truth, probs_NK),
        "temperature": fit_temperature(truth, probs_NK),
    }


def epoch_sort_key(record: Mapping[str, Any]) -> tuple[float, float]:
    """Epochs compare by the validation metric over all tasks, higher is better; ties by the lower loss."""
    metrics = (record[key] for key in ("val_score", "val_map", "val_top1") if key in record)
    return next(metrics) or 0.0, -(record["val_loss"] or 0.0)
