"""How well a run tells clips of unknown classes from those of its own, with the scores of an evaluated split."""

from typing import Any

import numpy as np

from finetune.data.manifest import Manifest
from finetune.inference.predict_split import Predictions
from finetune.metrics.intervals import interval_of_shares
from finetune.metrics.open_set import USUAL_SHARE, acceptance_threshold, score_open_set
from finetune.run.results import KnownScores


def open_set_results(
    tested: Manifest, known: Predictions, unknown: Manifest, scored: Predictions, *, val_scores: KnownScores | None
) -> dict[str, Any]:
    """The part `open_set` of a task's results: `known` are predictions of rows of `tested`, `scored` of `unknown`.

    `rejected` has the shares of both that `predict --reject` rejects by the scores of val, if val has enough clips.
    """
    groups = None
    if tested.groups is not None and unknown.groups is not None:
        groups = tested.groups[known.rows], unknown.groups[scored.rows]
    counts = np.bincount(unknown.labels[scored.rows], minlength=len(unknown.classes))
    return {
        "num_known": len(known.rows),
        "num_unknown": len(scored.rows),
        "num_skipped": len(scored.skipped),
        "classes": dict(zip(unknown.classes, counts.tolist(), strict=True)),
        "scores": score_open_set(known.scores, scored.scores, groups),
        "rejected": None if val_scores is None else _rejected(known, scored, groups, val_scores),
    }


def _rejected(
    known: Predictions, unknown: Predictions, groups: tuple[np.ndarray, np.ndarray] | None, val_scores: KnownScores
) -> dict[str, Any] | None:
    values_N, score = np.array(val_scores["values"]), val_scores["score"]
    if USUAL_SHARE * len(values_N) < 1:
        return None
    threshold = acceptance_threshold(values_N, 1 - USUAL_SHARE)
    results: dict[str, Any] = {"share": USUAL_SHARE, "score": score, "threshold": threshold}
    for place, (name, predictions) in enumerate((("known", known), ("unknown", unknown))):
        is_rejected = predictions.scores[score] < threshold
        interval = interval_of_shares(is_rejected, None if groups is None else groups[place])
        results |= {name: float(is_rejected.mean()), f"{name}_ci": interval}
    return results
