"""The one figure that a model is chosen and compared by: top-1, or mean average precision where classes go together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.multilabel_scores import best_thresholds, cross_entropy, mean_average_precision, score_multilabel
from finetune.scores import score, top1_and_loss

HEADLINE = {"classify": ("top1", "top-1"), "multilabel": ("map", "mAP")}  # by kind of task: key in results.json, name


def headline(task: Mapping[str, Any]) -> tuple[str, float, tuple[float, float]]:
    """Its name, its value in 0…1 and its 95 % interval, of a task in results.json; all of 0…1 where none is known."""
    key, name = HEADLINE[task["kind"]]
    low, high = task[f"{key}_ci"] or (0.0, 1.0)
    return name, task[key], (low, high)


def in_words(task: Mapping[str, Any]) -> str:
    """The same as a line of text."""
    name, value, (low, high) = headline(task)
    return f"{name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})"


def scores_of(
    truth: np.ndarray,
    probs_NK: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None,
    named_NK: np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
) -> dict[str, Any]:
    """A task of results.json: `truth` are labels (N,), or what is there (N, K), to which `named_NK` belongs."""
    if truth.ndim == 1:
        return score(truth, probs_NK, classes=classes, groups=groups)
    assert named_NK is not None
    return score_multilabel(truth, probs_NK, named_NK, classes=classes, thresholds=thresholds, groups=groups)


def validation_figures(truth: np.ndarray, probs_NK: np.ndarray) -> dict[str, Any]:
    """What metrics.jsonl says of the split val after an epoch; `truth` as in `scores_of`."""
    if truth.ndim == 1:
        top1, loss = top1_and_loss(truth, probs_NK)
        return {"val_loss": loss, "val_top1": top1}
    return {
        "val_loss": cross_entropy(truth, probs_NK),
        "val_top1": float(truth[np.arange(len(truth)), probs_NK.argmax(1)].mean()),
        "val_map": mean_average_precision(truth, probs_NK),
        "thresholds": best_thresholds(truth, probs_NK),
    }


def rank(record: Mapping[str, Any]) -> tuple[float, float]:
    """Of two epochs the better has the higher figure on val; between equals, the lower loss."""
    return record.get("val_map", record["val_top1"]) or 0.0, -(record["val_loss"] or 0.0)
